"""One trial: its record on disk, and the work on it, one `gen3d` process per step."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from gen3d.core.artefact import LOCK, read, write_atomic, write_json
from gen3d.core.errors import Unfinished, UserError

RECORD = "trial.json"
WAITING, RUNNING, DONE, FAILED, PRUNED, STOPPED = "waiting", "running", "done", "failed", "pruned", "stopped"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
STOP_CODES = {code for number in STOP_SIGNALS for code in (-number, 128 + number)}
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GEN3D_EXIT_FILE")
TAIL_BYTES = 20_000
SAVE_EVERY_S = 20.0


@dataclass
class Trial:
    """A row of the table. `objective` is read anew from the trial's folder whenever a sweep looks at it."""

    number: int
    folder: Path
    values: dict[str, Any] = field(default_factory=dict)
    status: str = WAITING
    seconds: float = 0.0
    error: str = ""
    objective: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do for it, unless failed trials are to be tried again."""
        return self.status in (DONE, FAILED, PRUNED)

    def save(self) -> None:
        """Write the record, so that an interruption at any moment loses none."""
        record = asdict(self)
        del record["folder"]
        write_json(self.folder / RECORD, record)


def read_trials(trials: Path) -> dict[int, Trial]:
    """The trials that were begun, by number.

    A trial that is `running` in its record but that no process holds was killed: it counts as stopped.
    """
    found: dict[int, Trial] = {}
    for path in sorted(trials.glob(f"*/{RECORD}")):
        trial = _read(path)
        if trial.status == RUNNING and not _held(trial.folder):
            trial.status = STOPPED
        found[trial.number] = trial
    return dict(sorted(found.items()))


def _read(path: Path) -> Trial:
    try:
        trial = Trial(folder=path.parent, **json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError):
        raise UserError(f"{path}: damaged; delete the folder {path.parent} and run the sweep again.") from None
    trial.objective = None
    return trial


@dataclass(frozen=True)
class Command:
    """One step of a trial: its name, its verb, and all the settings of the verb."""

    name: str
    verb: str
    settings: dict[str, Any]


class Work:
    """The work on one trial. `poll` is called again and again until it says that the trial is over.

    Every step is a process of its own, so that a crash, a lack of memory or a user's mistake ends that process and
    becomes a row. The lock on the trial's folder is handed down to the processes: should the sweep itself be killed,
    the trial stays locked until the last of them is gone, and nobody begins it a second time beside them.
    """

    def __init__(
        self,
        trial: Trial,
        commands: Sequence[Command],
        environment: dict[str, str],
        hopeless: Callable[[Trial], bool] | None = None,
    ) -> None:
        self.trial, self.commands, self.environment, self.hopeless = trial, list(commands), environment, hopeless
        self.waits_for_lock = self.said_it_waits = False
        self._position = 0
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_began_at = 0
        self._began = 0.0
        self._seconds_before = trial.seconds
        self._signalled = ""

    def poll(self) -> bool:
        """Do what can be done without waiting; True once the trial is over (its status says how)."""
        if self._lock is None:
            if self._signalled:
                return True
            if not self._take_lock():
                return False
            if self.trial.ended:
                return self._end(self.trial.status, self.trial.error)
        if self._process is None:
            return self._next_step()
        code = self._process.poll()
        if code is None:
            if not self._signalled and self.hopeless is not None and self.hopeless(self.trial):
                self._signal(PRUNED)
            self._note_time()
            return False
        self._process = None
        if code in STOP_CODES:
            return self._end(self._signalled or STOPPED)
        if code not in (0, Unfinished.exit_code):
            return self._end(FAILED, f"{self._command.name}: {self._sentence(code)}")
        self._position += 1
        return self._next_step()

    def stop(self) -> None:
        """Ask the process at work to save and end; the trial goes on when the sweep is run again."""
        if self._process is not None and self._signalled != STOPPED:
            self._signal(STOPPED)
        elif self._process is None:
            self._signalled = STOPPED

    def kill(self) -> None:
        """End the process at work at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def _command(self) -> Command:
        return self.commands[self._position]

    def _take_lock(self) -> bool:
        lock = _try_lock(self.trial.folder)
        if lock is None:
            self.waits_for_lock = True
            return False
        self._lock, self._began = lock, time.monotonic()
        if self.waits_for_lock:  # another process was at it, perhaps to its end
            self.waits_for_lock = False
            now = _read(self.trial.folder / RECORD)
            self.trial.status, self.trial.error, self._seconds_before = now.status, now.error, now.seconds
            if now.ended:
                return True
        self.trial.status, self.trial.error = RUNNING, ""
        self.trial.save()
        return True

    def _next_step(self) -> bool:
        while self._position < len(self.commands) and _finished(self.trial.folder, self._command):
            self._position += 1
        if self._position == len(self.commands):
            return self._end(DONE)
        if self._signalled == STOPPED:
            return self._end(STOPPED)
        settings = self.trial.folder / f"{self._command.name}.yaml"
        write_atomic(settings, yaml.safe_dump(self._command.settings, sort_keys=False))
        assert self._lock is not None
        with (self.trial.folder / f"{self._command.name}.log").open("ab") as log:
            self._log_began_at = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gen3d", self._command.verb, str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                pass_fds=(self._lock.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on
            )
        return False

    def _signal(self, why: str) -> None:
        self._signalled = why
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def _end(self, status: str, error: str = "") -> bool:
        self.trial.status, self.trial.error = status, error
        self._note_time(every_s=0)
        if self._lock is not None:
            self._lock.close()
        return True

    def _note_time(self, every_s: float = SAVE_EVERY_S) -> None:
        """Keep the seconds worked, now and then, so that a killed sweep loses few of them."""
        seconds = round(self._seconds_before + time.monotonic() - self._began, 1)
        if seconds - self.trial.seconds >= every_s:
            self.trial.seconds = seconds
            self.trial.save()

    def _sentence(self, code: int) -> str:
        """Why a process ended: its own sentence, or the last line of its log, or the signal that killed it."""
        if code < 0:
            name = signal.Signals(-code).name
            cause = ", most likely because memory ran out" if code == -signal.SIGKILL else ""
            return f"killed by {name}{cause}"
        path = self.trial.folder / f"{self._command.name}.log"
        with path.open("rb") as log:
            log.seek(max(self._log_began_at, path.stat().st_size - TAIL_BYTES))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        said = [line.removeprefix("gen3d: ") for line in lines if line.startswith("gen3d: ")]
        return (said or lines or [f"ended with exit code {code} and said nothing"])[-1]


def child_environment(at_once: int, slot: int, num_gpus: int) -> dict[str, str]:
    """The environment of a trial's processes: its share of the cores and, if asked, one GPU of the machine's."""
    environment = {key: value for key, value in os.environ.items() if key not in OF_A_LAUNCHER}
    environment["PYTHONUNBUFFERED"] = "1"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // at_once)))
    if num_gpus:
        named = environment.get("CUDA_VISIBLE_DEVICES", "")
        devices = named.split(",") if named else [str(index) for index in range(num_gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % min(num_gpus, len(devices))]
    return environment


def _finished(folder: Path, command: Command) -> bool:
    try:
        read(folder / command.name, (command.verb,))
    except UserError:
        return False
    return True


def _try_lock(folder: Path) -> IO[str] | None:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _held(folder: Path) -> bool:
    lock = _try_lock(folder)
    if lock is not None:
        lock.close()
    return lock is None
