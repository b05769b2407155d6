#!/usr/bin/env bash
# What both container recipes run, in the project's folder: gen3d, its pinned dependencies and DeepSpeed in /opt/venv.
#   TORCH: the requirement of PyTorch, TORCH_INDEX: where from (empty: the default index, which has the CUDA build)
set -euo pipefail
venv="${VENV:-/opt/venv}"
python3 -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-cache-dir --quiet)
"${pip[@]}" install --upgrade 'pip>=24' 'setuptools>=77' wheel
"${pip[@]}" install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "${TORCH:?such as torch==2.13.0}"
# DeepSpeed comes as source only; without its compiled operators it needs no CUDA toolkit. It looks for torch while it
# is built, so it is built where torch already is.
DS_BUILD_OPS=0 "${pip[@]}" install --constraint constraints.txt --no-build-isolation '.[deepspeed,sweep,tracking]'
"$venv/bin/gen3d" --version
DS_ACCELERATOR=cpu "$venv/bin/python" -c "import deepspeed, torch; print(torch.__version__, deepspeed.__version__)"
