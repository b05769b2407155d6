# shellcheck shell=bash
# Not run there. MareNostrum 5, accelerated partition (ACC, BSC): a node has 4 H100 of 64 GB, 80 cores, 512 GB, 4 NDR200
# InfiniBand cards and 480 GB of own disk. From public documents and job scripts; `bsc_queues` lists your queues.
#   export SBATCH_ACCOUNT=bsc00                # your project
#   source launch/machines/marenostrum5.sh     # in the project's folder
#   sbatch --nodes 8 --cpus-per-task "$GEN3D_CORES" launch/slurm.sbatch train ...
export GEN3D_MACHINE="${GEN3D_MACHINE:-launch/machines/marenostrum5.sh}"
export GEN3D_CORES=80 # 20 per GPU: fewer are refused, and memory follows them (no --mem); sbatch has no variable for it
export SBATCH_ACCOUNT="${SBATCH_ACCOUNT:?name your project: export SBATCH_ACCOUNT=...}"
export SBATCH_PARTITION="${SBATCH_PARTITION:-acc}"
export SBATCH_QOS="${SBATCH_QOS:-acc_ehpc}"             # acc_debug, acc_bscls, ...: what your project may use
export SBATCH_TIMELIMIT="${SBATCH_TIMELIMIT:-24:00:00}" # three minutes before, the job saves, stops and requeues itself
export SBATCH_GRES="${SBATCH_GRES:-gpu:4}"              # GPUs per node
# Rendezvous and gloo over IP on InfiniBand (`ip -br address` lists names); NCCL finds the InfiniBand cards by itself.
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-ib0}" GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-ib0}"
# COPY_DATA=1 copies the data to the node's own disk, which is $TMPDIR inside a job. There is no way to the internet:
# make .venv where there is one and copy it to the same path, or build the container elsewhere.
export GEN3D_MODULES="${GEN3D_MODULES-}" # those that .venv was made with, as `module avail` names them
# shellcheck disable=SC2086 # several modules
[ -z "$GEN3D_MODULES" ] || module load $GEN3D_MODULES
