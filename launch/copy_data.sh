#!/usr/bin/env bash
# Copy the folders of prepared= to this node's own disk; print the arguments, a line each, with the copies' paths.
#   launch/copy_data.sh train configs/train/vae_normative.yaml prepared=/shared/prepared out=runs/vae
# The disk is $LOCAL_SCRATCH or, without it, $TMPDIR. A copy counts only with a marker beside it that equals the
# folder's artefact.json: one cut short, or of an older cohort, is made again. Jobs that share a node wait for one copy.
set -euo pipefail
shopt -s inherit_errexit
scratch="${LOCAL_SCRATCH:-${TMPDIR:-}}"
[ -d "$scratch" ] || { echo "copy_data.sh: let LOCAL_SCRATCH or TMPDIR name a folder of this node." >&2; exit 1; }
files() { (cd "$1" && find -L . -type f ! -name .lock -printf '%P %s\n' | sort); }
copy() {
  local source target
  source="$(realpath -e "$1")"
  target="$scratch/gen3d-$(id -un)/$(sha256sum <<<"$source" | cut -c1-16)"
  mkdir -p "${target%/*}"
  exec 9>"$target.lock"
  flock 9
  if ! cmp -s "$source/artefact.json" "$target.complete"; then
    rm -rf "$target" "$target.complete" "$target.marker"
    cp -rLp "$source" "$target" # with their times, so that nobody has to compare the content again
    diff <(files "$source") <(files "$target") >&2
    cp "$source/artefact.json" "$target.marker"
    mv "$target.marker" "$target.complete"
  fi
  exec 9>&-
  printf '%s' "$target"
}

for word in "$@"; do
  if [[ "$word" == prepared=* ]]; then
    copies=""
    IFS=, read -ra folders <<<"$(tr -d '[]' <<<"${word#prepared=}")"
    for folder in "${folders[@]}"; do copies+="${copies:+,}$(copy "$folder")"; done
    word="prepared=[$copies]"
  fi
  printf '%s\n' "$word"
done
