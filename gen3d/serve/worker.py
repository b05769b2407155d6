"""The one queue of a server: jobs in the order in which they came, each step a process of the command line.

A step whose folder is finished is not done again, and one that was stopped goes on where it was: both are what the verbs do
by themselves, so a server that is stopped, killed or restarted loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from gen3d.core.artefact import RECORD, read, write_atomic
from gen3d.core.errors import Unfinished, UserError
from gen3d.core.pool import PARENT
from gen3d.imaging.streams import MAX_MEGAVOXELS_VARIABLE
from gen3d.serve.jobs import STEPS, Job, Jobs
from gen3d.serve.models_folder import ServedModels
from gen3d.serve.steps import JobSettings, JobStep, steps_of, write_table
from gen3d.serve.uploads import MOST_VOXELS

POLL_S = 0.2
IDLE_S = 0.5
TAIL_BYTES = 20_000
STOP_WAIT_S = 20.0
"""Seconds that a verb has to save what it did; then it is killed, which it survives as well."""

OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GEN3D_EXIT_FILE")
NICENESS = 5
"""Of the verbs: pages are answered while they compute."""


class _Stop(Exception):
    """The server stops, or the job was deleted: the step is not over."""


@dataclass
class Worker:
    """Works off the jobs, one step at a time, in a thread that waits for processes.

    `ended(job)` is called when a job is over.
    """

    jobs: Jobs
    models: ServedModels
    settings: JobSettings
    step_minutes: float
    ended: Callable[[Job], None]
    stopping: threading.Event = field(default_factory=threading.Event)
    woken: threading.Event = field(default_factory=threading.Event)
    cancelled: set[str] = field(default_factory=set)
    at_work: str = ""
    """Id of the job at work, "" for none."""

    _thread: threading.Thread | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="queue", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the step at work, which keeps what it did, and wait for its end."""
        self.stopping.set()
        self.woken.set()
        if self._thread is not None:
            self._thread.join()

    def cancel(self, job: Job) -> None:
        """Give up a job that is to be deleted; returns when nothing writes into its folder any more."""
        with self._lock:
            self.cancelled.add(job.given.id)
        while self.at_work == job.given.id and self._thread is not None and self._thread.is_alive():
            time.sleep(POLL_S / 4)

    def wake(self) -> None:
        """Look for jobs now."""
        self.woken.set()

    @property
    def is_idle(self) -> bool:
        """Whether no step is left."""
        return not self.at_work and next(self.jobs.waiting(), None) is None

    def _run(self) -> None:
        while not self.stopping.is_set():
            self.woken.clear()
            job = self._next()
            if job is None:
                self.woken.wait(IDLE_S)
                continue
            try:
                self._work_on(job)
            except _Stop:
                pass
            except Exception as error:  # a disk that is full must not end the queue
                self._give_up(job, error)
            finally:
                self.at_work = ""

    def _next(self) -> Job | None:
        with self._lock:
            job = next((job for job in self.jobs.waiting() if job.given.id not in self.cancelled), None)
            self.at_work = "" if job is None else job.given.id
        return job

    def _give_up(self, job: Job, error: Exception) -> None:
        print(f"gen3d serve: job {job.given.id[:8]}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if job.folder.is_dir():
            try:
                job.finish()
            except OSError:
                self.stopping.wait(IDLE_S)  # the disk is full: the same job is tried again

    def _work_on(self, job: Job) -> None:
        (job.folder / STEPS).mkdir(exist_ok=True)
        write_table(job)
        for step in steps_of(job, self.models, self.settings):
            if job.end_of(step.name) is None:
                began = time.monotonic()
                sentence = step.lacks or self._unmet(job, step) or self._run_step(job, step)
                job.end(step.name, sentence, time.monotonic() - began)
        job.finish()
        self.ended(job)

    def _unmet(self, job: Job, step: JobStep) -> str:
        """Why a step cannot be begun after those before it, "" if it can."""
        for name in step.needs:
            end = job.end_of(name)
            if end is None or end.sentence:
                return "An earlier step did not work, see there."
        if step.verb == "report":
            worked = [
                path for path in step.settings["inputs"] if (Path(path) / RECORD).is_file() and _is_finished(Path(path))
            ]
            step.settings["inputs"] = worked
            if not any("prepared" not in Path(path).name for path in worked):
                return "There is nothing to report on."
        return ""

    def _run_step(self, job: Job, step: JobStep) -> str:
        """Run a verb to its end; "" or why it did not work.

        Raises:
            _Stop: the server stops, or the job was deleted.
        """
        settings, log = (job.folder / STEPS / f"{step.name}.{kind}" for kind in ("yaml", "log"))
        write_atomic(settings, yaml.safe_dump(step.settings, sort_keys=False))
        with log.open("ab") as stream:
            begins = stream.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "gen3d", step.verb, str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,  # Ctrl-C reaches the server alone, which ends the step
            )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        self._wait(job, process)
        code = process.returncode
        usable = code == 0 or (code == Unfinished.exit_code and job.given.kind == "dicom")  # some series, not all
        if usable and _is_finished(job.folder / step.name):
            return ""
        return self._without_places(job, _sentence(code, log, begins))

    def _without_places(self, job: Job, text: str) -> str:
        """A verb's sentence as the page shows it: no place of this machine."""
        for place, shown in ((job.folder, ""), (self.models.folder, "models/"), (self.jobs.folder.parent, "")):
            text = text.replace(f"{place}/", shown)
        return text

    def _wait(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        limit = time.monotonic() + 60 * self.step_minutes
        while process.poll() is None:
            gone = job.given.id in self.cancelled
            if self.stopping.is_set() or gone:
                _end(process, at_once=gone)
                raise _Stop
            if time.monotonic() > limit:
                _end(process, at_once=True)
                return
            time.sleep(POLL_S)
        usual = (0, UserError.exit_code, Unfinished.exit_code)
        if self.stopping.is_set() and process.returncode not in usual:  # the signal reached all processes
            raise _Stop


def _end(process: subprocess.Popen[bytes], at_once: bool) -> None:
    process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
    try:
        process.wait(STOP_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_finished(folder: Path) -> bool:
    try:
        read(folder)
    except UserError:
        return False
    return True


def _environment() -> dict[str, str]:
    """Of a step: it ends with the server, and reads no larger volume than an upload may be."""
    environment = {key: value for key, value in os.environ.items() if key not in OF_A_LAUNCHER}
    environment |= {"PYTHONUNBUFFERED": "1", PARENT: str(os.getpid()), "COLUMNS": "200"}
    environment[MAX_MEGAVOXELS_VARIABLE] = str(MOST_VOXELS / 1e6)
    return environment


def _sentence(code: int, log: Path, begins: int) -> str:
    """Why a verb ended: its own sentence, or the signal that ended it."""
    if code == -signal.SIGKILL:
        return "The step was ended: it took too long, or memory ran out."
    with log.open("rb") as stream:
        stream.seek(max(begins, log.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("gen3d: ") for line in lines if line.startswith("gen3d: ")]
    if own:
        return own[-1]  # of several lines the last is about the scan
    return (
        "The step ended with an error that is none of the scan; whoever runs the server finds it in the job's folder."
    )
