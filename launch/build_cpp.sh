#!/usr/bin/env bash
# Builds gen3d_predict and gen3d_train_liu against the LibTorch of the installed torch: launch/build_cpp.sh FOLDER [python].
# Needs cmake and a compiler of C++20; takes about a minute on one core. The programs lie in FOLDER.
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: $0 FOLDER [python]" >&2
  exit 2
fi
folder=$1
python=${2:-python}
mkdir -p "$folder"
log=$folder/build.log
prefix=$("$python" -c 'import torch; print(torch.utils.cmake_prefix_path)')
sources=$("$python" -c 'from importlib.resources import files; print(files("gen3d.exports") / "cpp")')
generator=()
if command -v ninja > /dev/null; then generator=(-G Ninja); fi
if ! { cmake -S "$sources" -B "$folder" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefix" \
  && cmake --build "$folder" --parallel "${GEN3D_BUILD_JOBS:-2}"; } > "$log" 2>&1; then
  tail -n 40 "$log" >&2
  exit 1
fi
echo "$folder/gen3d_predict"
echo "$folder/gen3d_train_liu"
