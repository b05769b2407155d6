#!/usr/bin/env bash
# One node: as many training processes as it has GPUs (or $PROCESSES), started and watched by torchrun.
#   launch/node.sh train configs/train/vae_normative.yaml prepared=prepared out=runs/vae
# Several nodes: the same command on each, with GEN3D_NODES, GEN3D_RENDEZVOUS (host:port of one of them), GEN3D_JOB (a
# name that no earlier start had) and GEN3D_ADDRESS (this node's own). What ends and what restarts: launch/README.md
set -uo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
bin="${GEN3D_BIN:-$here/.venv/bin}"
gpus="$(tr ',' '\n' <<<"${CUDA_VISIBLE_DEVICES-$(nvidia-smi -L 2>/dev/null)}" | grep -cE '^(GPU|MIG-|[0-9])')"
processes="${PROCESSES:-$((gpus > 0 ? gpus : 1))}"
threads="$(($(env -u OMP_NUM_THREADS nproc) / processes))"
[ "$gpus" -gt 0 ] || export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}" TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$bin/../torch_extensions}" GEN3D_EXIT_FILE
export TORCH_CPP_LOG_LEVEL="${TORCH_CPP_LOG_LEVEL:-ERROR}" TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE="[\${rank}] "
GEN3D_EXIT_FILE="$(mktemp "${LOCAL_SCRATCH:-/tmp}/gen3d_exit.XXXXXX")" || exit 1
stopped=""
trap 'rm -f "$GEN3D_EXIT_FILE"' EXIT
trap 'stopped=USR1' USR1; trap 'stopped=INT' INT; trap 'stopped=TERM' TERM HUP
if [ "${COPY_DATA:-0}" = 1 ]; then mapfile -t words < <("$here/launch/copy_data.sh" "$@"); else words=("$@"); fi
[ "${#words[@]}" -eq $# ] || exit 1 # copy_data.sh has said why
meet=(--standalone)
[ -z "${GEN3D_RENDEZVOUS:-}" ] || meet=(--nnodes "$GEN3D_NODES" --rdzv-backend c10d --rdzv-endpoint "$GEN3D_RENDEZVOUS"
  --rdzv-id "$GEN3D_JOB" --local-addr "$GEN3D_ADDRESS" --rdzv-conf "join_timeout=${GEN3D_JOIN_TIMEOUT_S:-300}")
set -m # a process group of its own, so that Ctrl-C reaches the training once, from here
"$bin/python" "$here/launch/agent.py" "${meet[@]}" --nproc-per-node "$processes" \
  --max-restarts "${GEN3D_RESTARTS:-3}" --monitor-interval 1 --shutdown-timeout "${GEN3D_SAVE_S:-150}" \
  --log-dir "${GEN3D_LOGS:-logs}/${SLURMD_NODENAME:-$(hostname)}" --redirects 3 --tee 0:3 -m gen3d "${words[@]}" &
agent=$! told=""; set +m
while kill -0 "$agent" 2>/dev/null; do # torchrun would restart what ended by a signal or by a user's mistake, too
  case "$(<"$GEN3D_EXIT_FILE")" in 2 | 3 | 130 | 138 | 143) stopped="${stopped:-TERM}" ;; esac
  [ -z "$stopped" ] || [ -n "$told" ] || { kill -s "$stopped" "$agent" && told=yes; }
  sleep 0.2
done
wait "$agent" && exit 0
code="$(<"$GEN3D_EXIT_FILE")"
case "$stopped,$code" in *,2 | *,3 | *,130 | *,138 | *,143) ;; USR1,*) code=138 ;; esac
case "$code" in 138 | 143) [ -z "${GEN3D_SAVED:-}" ] || touch "$GEN3D_SAVED" ;; esac
exit "${code:-1}"
