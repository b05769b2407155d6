#!/usr/bin/env bash
# Whether install.sh is true, without a container engine: an empty Debian by debootstrap, install.sh in it, then gen3d's
# help, doctor and demo. As root, in 20 to 40 minutes on two cores; nothing of it stays outside the folder.
#   TORCH=torch==2.13.0 launch/container/empty_debian.sh bookworm /tmp/empty      # Python 3.11; trixie has Python 3.13
#   TORCH, TORCH_INDEX, EXTRAS: as of install.sh.  MIRROR: of Debian.  DEMO: words for the demo, such as subjects=40
#   MOUNT: folders of this machine to be read inside at the same place, such as wheels for PIP_FIND_LINKS, by spaces
set -euo pipefail
suite="${1:?such as bookworm}" root="${2:?a folder that is not there, or an empty Debian}"
here="$(cd "$(dirname "$0")/../.." && pwd)"
[ "$(id -u)" = 0 ] || { echo "empty_debian.sh: needs root, for chroot" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "empty_debian.sh: apt-get install debootstrap" >&2; exit 2; }
[ -e "$root/etc/debian_version" ] ||
  debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "${MIRROR:-http://deb.debian.org/debian}"
mkdir -p "$root/app" "$root/data"
tar -C "$here" -c pyproject.toml setup.py constraints.txt README.md LICENSE gen3d configs launch | tar -x -C "$root/app"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
# Where a proxy has its own certificate, this machine's list of authorities counts inside, too.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true
cat >"$root/run.sh" <<'INSIDE'
set -euo pipefail
cd /app && launch/container/install.sh
export PATH=/opt/venv/bin:$PATH OMP_NUM_THREADS=2 MPLCONFIGDIR=/tmp/matplotlib
du -sh /opt/venv && cd /data
gen3d --help && gen3d doctor && time gen3d demo out=demo ${DEMO:-} && ls demo/report
INSIDE
cat >"$root/enter.sh" <<'OUTSIDE'
set -euo pipefail
cd "$1" && mount -t proc proc proc && mount --rbind /dev dev
for folder in ${MOUNT:-}; do mkdir -p ".$folder" && mount --bind "$folder" ".$folder"; done
exec chroot . bash /run.sh
OUTSIDE
exec unshare --mount --pid --fork --kill-child bash "$root/enter.sh" "$root" # the mounts end with this process
