"""A sweep as an array of SLURM tasks, one per trial, submitted by submitit. All of submitit is here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gen3d.core.artefact import digest
from gen3d.core.errors import UserError
from gen3d.core.pool import PARENT
from gen3d.sweep.settings import Slurm

try:
    import submitit
    from submitit.core.utils import FailedJobError
    from submitit.helpers import DelayedSubmission
except ImportError:
    raise UserError('where=slurm needs submitit, which is not installed here: pip install "gen3d[sweep]".') from None

SECONDS_TO_SAVE = 120
MOST_REQUEUES = 1000
OPTION = re.compile(r"--([a-z][a-z-]*)(?:[= ](.+))?")
SETUP = (
    # A step inherits the cores of its job only if this variable says so (since SLURM 22.05).
    '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
    # The signal goes to all processes of a step. Every verb saves on USR1; on submitit's own USR2 it would die.
    "export SUBMITIT_PREEMPT_SIGNAL=USR1",
)


class TrialTask:
    """What a task of the array does: `gen3d sweep SETTINGS task=NUMBER`; requeued when its time is up."""

    def __init__(self, settings: Path, number: int) -> None:
        self.command = [sys.executable, "-m", "gen3d", "sweep", str(settings), f"task={number}"]
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Work on the trial, and end with the code of that work."""
        self.process = subprocess.Popen(
            self.command, start_new_session=True, env={**os.environ, PARENT: str(os.getpid())}
        )
        if code := self.process.wait():
            raise SystemExit(code if code > 0 else 128 - code)

    def checkpoint(self) -> DelayedSubmission:
        """Have the trial saved before the time limit; what is returned is submitted again."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
            self.process = None
        return DelayedSubmission(self)


def submit(
    slurm: Slurm, out: Path, settings: Path, numbers: Sequence[int], cluster: str = "slurm"
) -> list[submitit.Job[None]]:
    """Submit a task for each of the trials `numbers`; the jobs.

    Args:
        slurm: how it is requested.
        out: the sweep's folder; logs and scripts go into its folder slurm.
        settings: all settings of the sweep, for its tasks.
        numbers: trials to work on.
        cluster: submitit's name of what runs them; "local" is this machine, without SLURM.

    Raises:
        UserError: an option that is not one of sbatch, no time limit, no SLURM here, or SLURM refuses.
    """
    options = dict(_option(text) for text in slurm.options)
    if "time" not in options:
        raise UserError("slurm.options has no time limit: give one for a trial, such as --time=04:00:00.")
    try:
        executor = submitit.AutoExecutor(out / "slurm", cluster, slurm_max_num_timeout=MOST_REQUEUES)
        executor.update_parameters(
            name=job_name(out),
            slurm_array_parallelism=slurm.at_once or len(numbers),
            slurm_setup=[*SETUP, *slurm.setup],
            slurm_additional_parameters={"signal": f"USR1@{SECONDS_TO_SAVE}", "requeue": True, **options},
        )
        with executor.batch():
            return [executor.submit(TrialTask(settings, number)) for number in numbers]
    except (FailedJobError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"SLURM does not take the sweep ({reason}); mend slurm.options, or use where=local.") from None


def queued(out: Path) -> list[str]:
    """The sweep's jobs in SLURM's queue."""
    command = ["squeue", "--noheader", "--format=%i", f"--name={job_name(out)}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    except FileNotFoundError:
        return []


def job_name(out: Path) -> str:
    """A name that no other sweep's job has, by which this one is found in the queue."""
    return f"sweep-{out.name.replace(' ', '-')}-{digest(str(out.resolve()))[:6]}"


def _option(text: str) -> tuple[str, str | bool]:
    match = OPTION.fullmatch(text.strip())
    if match is None:
        raise UserError(f"slurm.options: `{text}` is not an option like --partition=gpu or --exclusive.")
    return match[1], match[2] if match[2] is not None else True
