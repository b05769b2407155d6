"""A sweep as an array of SLURM tasks: the script, the command that submits it, and whether it is in the queue."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gen3d.core.artefact import digest, write_atomic
from gen3d.core.errors import UserError
from gen3d.core.progress import say
from gen3d.sweep.settings import Slurm

SCRIPT = "array.sbatch"
SECONDS_TO_SAVE = 120
BODY = """\
set -uo pipefail
cd {folder} || exit 1
{setup}
srun --ntasks=1 {python} -m gen3d sweep {settings} task="$SLURM_ARRAY_TASK_ID"{flags}
code=$?
# Stopped before its time limit (USR1) or by preemption (TERM), with all saved: it goes on from there.
case "$code" in 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;; esac
exit "$code"
"""


def offer(slurm: Slurm, out: Path, settings: Path, numbers: Sequence[int], retry_failed: bool) -> None:
    """Write the array script for the trials `numbers`, and submit it or say how.

    Raises:
        UserError: sbatch is not there, or refuses.
    """
    queued = _call(["squeue", "--noheader", "--format=%i", f"--name={_job_name(out)}"])
    if queued is not None and queued.stdout.strip():
        say(f"trials not ended: {len(numbers)}; in the queue: {', '.join(queued.stdout.split())}. Collect again later.")
        return
    text = script(slurm, out, settings, numbers, retry_failed)
    (out / "slurm").mkdir(parents=True, exist_ok=True)
    write_atomic(out / SCRIPT, text)
    command = ["sbatch", "--parsable", str(out / SCRIPT)]
    if not slurm.submit:
        say(f"trials to run: {len(numbers)}. Submit them, and run this command again to collect:")
        say(f"  sbatch {shlex.quote(str(out / SCRIPT))}")
        return
    done = _call(command)
    if done is None:
        raise UserError(f"sbatch is not installed here; type `sbatch {out / SCRIPT}` where it is, or use where=local.")
    if done.returncode:
        raise UserError(f"sbatch refuses {out / SCRIPT}: {' '.join(done.stderr.split())}; mend slurm.options.")
    say(f"trials submitted: {len(numbers)}, as job {done.stdout.strip()}. Run this command again to collect.")


def script(slurm: Slurm, out: Path, settings: Path, numbers: Sequence[int], retry_failed: bool) -> str:
    """The array script: one task per trial, in the folder that the sweep was started from."""
    limit = f"%{slurm.at_once}" if slurm.at_once else ""
    head = [
        "#!/usr/bin/env bash",
        f"#SBATCH --job-name={_job_name(out)}",
        f"#SBATCH --array={spans(numbers)}{limit}",
        f'#SBATCH --output="{out / "slurm" / "%A_%a.log"}"',
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"#SBATCH --signal=USR1@{SECONDS_TO_SAVE}",
        *(f"#SBATCH {option}" for option in slurm.options),
    ]
    body = BODY.format(
        folder=shlex.quote(os.getcwd()),
        setup="\n".join(slurm.setup),
        python=shlex.quote(sys.executable),
        settings=shlex.quote(str(settings)),
        flags=" retry_failed=true" if retry_failed else "",
    )
    return "\n".join(head) + "\n" + body


def spans(numbers: Sequence[int]) -> str:
    """SLURM's way to write a set of numbers: 0-3,5,7-8."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in found)


def _job_name(out: Path) -> str:
    """A name that no other sweep's job has, by which this one is found in the queue however it was submitted."""
    return f"sweep-{out.name.replace(' ', '-')}-{digest(str(out.resolve()))[:6]}"


def _call(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
