#!/usr/bin/env bash
# What both recipes run in the project's folder, as root on a Debian with nothing in it: Python, a C++ compiler (for
# torch.compile and exported models), and in /opt/venv gen3d with its extras at their pinned versions.
#   TORCH: the requirement of PyTorch, TORCH_INDEX: where from (empty: the default index, which has the CUDA build)
#   EXTRAS: of gen3d, by commas; none: gen3d alone; empty: all of them
set -euo pipefail
venv="${VENV:-/opt/venv}"
apt=(env DEBIAN_FRONTEND=noninteractive apt-get --quiet=2)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends ca-certificates g++ python3-dev python3-venv
rm -rf /var/lib/apt/lists/*
python3 -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-cache-dir --quiet)
"${pip[@]}" install --upgrade 'pip>=24' 'setuptools>=77' wheel
"${pip[@]}" install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "${TORCH:?such as torch==2.13.0}"
extras="${EXTRAS:-deepspeed,dicom,export,genetics,masks,mlflow,parquet,serve,sweep,tracking,wandb}"
[ "$extras" = none ] && extras=
# DeepSpeed comes as source only; without its compiled operators it needs no CUDA toolkit. It looks for torch while it
# is built, so it is built where torch already is.
DS_BUILD_OPS=0 "${pip[@]}" install --constraint constraints.txt --no-build-isolation ".${extras:+[$extras]}"
"$venv/bin/gen3d" --version
"$venv/bin/python" -c "import torch; print(torch.__version__)"
case ",$extras," in
*,deepspeed,*) DS_ACCELERATOR=cpu "$venv/bin/python" -c "import deepspeed; print(deepspeed.__version__)" ;;
esac
