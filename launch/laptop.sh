#!/usr/bin/env bash
# Run one gen3d command on this machine: all cores, the best CPU kernels, no hyper-parameters here.
#   launch/laptop.sh train configs/train/vae_laptop.yaml prepared=prepared out=runs/vae
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
cores="$(getconf _NPROCESSORS_ONLN)"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$cores}"
export ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS="${ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS:-1}"
export TORCH_CPP_LOG_LEVEL="${TORCH_CPP_LOG_LEVEL:-ERROR}"
exec "$here/.venv/bin/gen3d" "$@"
