#!/usr/bin/env bash
# A real SLURM with two nodes on this machine, without systemd; needs root and the Debian packages slurm-wlm and munge.
#   slurm_two_nodes.sh up|down FOLDER     # then: export SLURM_CONF=FOLDER/slurm.conf
# One slurmd per virtual node, told apart by name and port; each believes in the memory and CPUs that are written here.
set -euo pipefail
folder="$(realpath -m "${2:?usage: slurm_two_nodes.sh up|down FOLDER}")"
export SLURM_CONF="$folder/slurm.conf"

up() {
  mkdir -p "$folder"/{state,log,spool/node1,spool/node2}
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge
  munge --no-input >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged --pid-file=/run/munge/gen3d_test.pid
  sed -e "s|@FOLDER@|$folder|; s|@HOST@|$(hostname)|" "$(dirname "$0")/slurm.conf.in" >"$SLURM_CONF"
  slurmctld -c
  slurmd -N node1
  slurmd -N node2
  for _ in $(seq 120); do
    [ "$(sinfo --noheader --states idle --format %D)" != 2 ] || exit 0
    sleep 0.25
  done
  echo "slurm_two_nodes.sh: the nodes did not become idle in 30 s; see $folder/log." >&2
  exit 1
}

down() { # the daemons by the ids that they wrote; munged only if it was started here
  scontrol shutdown || true
  for _ in $(seq 40); do
    compgen -G "$folder/*.pid" >/dev/null || break
    sleep 0.25
  done
  for file in "$folder"/*.pid /run/munge/gen3d_test.pid; do
    [ ! -s "$file" ] || kill "$(<"$file")" 2>/dev/null || true
  done
}

"$1"
