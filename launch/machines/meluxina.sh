# shellcheck shell=bash
# Not run there. MeluXina, GPU partition (LuxProvide): a node has 4 A100 of 40 GB, two 32-core EPYC 7452 (64 cores, 128
# threads), 512 GB and 2 HDR200 InfiniBand cards; Lustre. From public documents and job scripts (docs.lxp.lu).
#   export SBATCH_ACCOUNT=p200000              # your project
#   source launch/machines/meluxina.sh         # in the project's folder
#   sbatch --nodes 8 --cpus-per-task "$GEN3D_CORES" launch/slurm.sbatch train ...
export GEN3D_MACHINE="${GEN3D_MACHINE:-launch/machines/meluxina.sh}"
export GEN3D_CORES=64 # 16 per GPU; sbatch has no variable for it
export SBATCH_ACCOUNT="${SBATCH_ACCOUNT:?name your project: export SBATCH_ACCOUNT=...}"
export SBATCH_PARTITION="${SBATCH_PARTITION:-gpu}"
export SBATCH_QOS="${SBATCH_QOS:-default}"              # short or dev for trials
export SBATCH_TIMELIMIT="${SBATCH_TIMELIMIT:-48:00:00}" # three minutes before, the job saves, stops and requeues itself
export SBATCH_GPUS_PER_NODE="${SBATCH_GPUS_PER_NODE:-4}"
export SBATCH_HINT="${SBATCH_HINT:-nomultithread}"      # cores, not their two threads
# Rendezvous and gloo over IP on InfiniBand (`ip -br address` lists names); NCCL finds the InfiniBand cards by itself.
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-ib0}" GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-ib0}"
# The modules that .venv was made with:
export GEN3D_MODULES="${GEN3D_MODULES-env/release/2024.1 Python/3.12.3-GCCcore-13.3.0}"
# shellcheck disable=SC2086 # several modules
[ -z "$GEN3D_MODULES" ] || module load $GEN3D_MODULES
