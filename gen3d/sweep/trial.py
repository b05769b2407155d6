"""The work on trials: one `gen3d` process per step, some trials at a time, stopped without loss."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import yaml

from gen3d.core.artefact import discard, read, write_atomic
from gen3d.core.disk import remove_partial
from gen3d.core.errors import Interrupted, Unfinished, UserError
from gen3d.core.output_folder import LOCK
from gen3d.core.pool import PARENT
from gen3d.core.progress import say
from gen3d.sweep.results import measure
from gen3d.sweep.settings import DONE, FAILED, PRUNED, STOPPED, Command, SweepSettings, Trial
from gen3d.train.stopping import STOPS, StopSignal
from gen3d.train.tracking.sinks import TRACKED_WITHIN

if TYPE_CHECKING:  # search.py loads Optuna
    from gen3d.sweep.search import Attempt, SweepStudy

LOG = "log.jsonl"
STOP_CODES = {code for number in STOPS for code in (-number, 128 + number)}
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GEN3D_EXIT_FILE")
TAIL_BYTES = 20_000
POLL_S = 0.2


class TrialEnded(Exception):
    """A step did not finish: the trial is FAILED with a sentence, PRUNED, or STOPPED."""

    def __init__(self, status: str, sentence: str = "") -> None:
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence


class Halt(StopSignal):
    """The stop signal of all trials at work; `kill` is set where there is no time to save."""

    kill = False


def work_off(
    numbers: Iterable[int],
    work: Callable[[int, int, Halt], Trial | None],
    ended: Callable[[Trial], None],
    at_once: int,
) -> None:
    """Work on the trials `numbers`, `at_once` at a time, each in a thread that waits for its processes.

    Args:
        numbers: trials, in order.
        work: (number, slot, halt) -> what became of the trial, if it was begun; it stops when `halt` says so.
        ended: called with every trial that is over.
        at_once: how many work side by side.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the trials at work have saved their state.
        UserError: from `work` or `ended`; the trials at work are stopped first.
    """
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(at_once):
        slots.put(slot)
    halt = Halt()
    with halt, ThreadPoolExecutor(at_once) as pool:

        def one(number: int) -> Trial | None:
            slot = slots.get()
            try:
                return work(number, slot, halt) if halt.received is None else None
            finally:
                slots.put(slot)

        try:
            for future in as_completed([pool.submit(one, number) for number in numbers]):
                if (trial := future.result()) is not None:
                    ended(trial)
        except BaseException as error:
            halt.kill = not isinstance(error, UserError)
            halt.received = halt.received or signal.SIGTERM
            raise
    if halt.received is not None:
        raise interrupted(halt.received)


def work_on(sweep: SweepSettings, study: SweepStudy, number: int, slot: int, halt: Halt) -> Trial | None:
    """Work on a trial unless it has ended; what became of it, or None if it was not begun.

    Raises:
        UserError: no trial's objective can be read, so the sweep asks for a figure that its verbs do not write.
    """
    folder = sweep.folder_of(number)
    environment = child_environment(1 if sweep.task is not None else sweep.parallel, slot, sweep.gpus)
    environment[TRACKED_WITHIN] = os.path.abspath(sweep.out)
    try:
        with locked(folder, halt) as lock:
            attempt = study.begin(number)  # under the lock: another process may have been at it
            if attempt is not None:
                _attempt(sweep, study, attempt, folder, environment, lock, halt)
    except TrialEnded:  # stopped while it waited for the lock
        pass
    return next((trial for trial in study.trials() if trial.number == number), None)


def _attempt(
    sweep: SweepSettings,
    study: SweepStudy,
    attempt: Attempt,
    folder: Path,
    environment: dict[str, str],
    lock: int,
    halt: Halt,
) -> None:
    """Run the steps of a trial, measure it and record what became of it."""

    def watch() -> str:
        if halt.kill:
            raise KeyboardInterrupt
        if halt.received is not None:
            return STOPPED
        return PRUNED if sweep.prune is not None and attempt.is_hopeless(folder / sweep.prune.step / LOG) else ""

    began = time.monotonic()
    status, objective, sentence = STOPPED, None, ""
    try:
        run_steps(folder, sweep.commands(attempt.values, folder), environment, lock, watch)
        objective, sentence = _measured(sweep, study, folder)
        status = FAILED if objective is None else DONE
    except TrialEnded as end:
        status, sentence = end.status, end.sentence
    finally:
        attempt.end(status, time.monotonic() - began, objective, sentence)
    if status in (DONE, PRUNED):
        for path in sweep.discard:
            step, _, below = path.partition("/")
            discard(folder / step, below)


def _measured(sweep: SweepSettings, study: SweepStudy, folder: Path) -> tuple[float | None, str]:
    """The objective of a trial whose steps are finished, or why there is none."""
    try:
        return measure(sweep.objective, folder / sweep.judged_step), ""
    except UserError as error:
        if sweep.task is not None or study.best() is not None:
            return None, str(error)
        raise UserError(f"{error} What was trained is kept: mend `objective` and run the same command again.") from None


def interrupted(number: int) -> Interrupted:
    """The exception to leave with on a signal: exit code 128 + its number."""
    error = Interrupted(
        f"stopped by {signal.Signals(number).name}; finished trials are kept, and those at work have saved what they "
        "did: the same command goes on."
    )
    error.exit_code = 128 + number
    return error


@contextmanager
def locked(folder: Path, halt: Halt) -> Iterator[int]:
    """Hold a trial's folder; the file descriptor of the lock is to be handed down to the processes at work there.

    Should the sweep itself be killed, its processes save their state and end, and the trial stays locked until the last of
    them is gone, so that it is not begun a second time.

    Raises:
        TrialEnded: stopped while waiting for the processes of an earlier start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        is_waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_partial(folder)
                break
            except BlockingIOError:
                if halt.received is not None:
                    raise TrialEnded(STOPPED) from None
                if not is_waiting:
                    say(f"trial {folder.name}: processes of an earlier start are still at it; waiting for them.")
                is_waiting = True
                time.sleep(POLL_S)
            except OSError:  # a file system that cannot lock
                break
        yield lock.fileno()


def run_steps(
    folder: Path, commands: Sequence[Command], environment: dict[str, str], lock: int, watch: Callable[[], str]
) -> None:
    """Run the steps of a trial that have not finished.

    Args:
        folder: the trial's folder, which is locked.
        commands: the steps in order.
        environment: that of the processes.
        lock: file descriptor of the lock.
        watch: called again and again; "" to go on, or the status with which the trial is to end.

    Raises:
        TrialEnded: a step failed, or was stopped by `watch` or from outside.
    """
    for command in commands:
        if not _is_finished(folder / command.name, command.verb):
            _run_step(folder, command, environment, lock, watch)
    watch()  # the end of the curve that later trials are judged by


def _run_step(folder: Path, command: Command, environment: dict[str, str], lock: int, watch: Callable[[], str]) -> None:
    """A process of its own, so that a crash, a lack of memory or a user's mistake ends that process alone."""
    settings, path = folder / f"{command.name}.yaml", folder / f"{command.name}.log"
    write_atomic(settings, yaml.safe_dump(command.settings, sort_keys=False))
    with path.open("ab") as log:
        log_begins_at = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "gen3d", command.verb, str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on
        )
    status = ""
    try:
        while process.poll() is None:
            if not status and (status := watch()):
                process.send_signal(signal.SIGTERM)
            time.sleep(POLL_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode in (0, Unfinished.exit_code):
        return
    if status or process.returncode in STOP_CODES:  # what was asked to stop has not failed, however it ends
        raise TrialEnded(status or STOPPED)
    raise TrialEnded(FAILED, f"{command.name}: {_sentence(process.returncode, path, log_begins_at)}")


def _sentence(code: int, path: Path, log_begins_at: int) -> str:
    """Why a process ended: its own sentence, or the last line of its log, or the signal that killed it."""
    if code < 0:
        cause = ", most likely because memory ran out" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{cause}"
    with path.open("rb") as log:
        log.seek(max(log_begins_at, path.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    sentences = [line.removeprefix("gen3d: ") for line in lines if line.startswith("gen3d: ")]
    return (sentences or lines or [f"ended with exit code {code} and said nothing"])[-1]


def _is_finished(folder: Path, verb: str) -> bool:
    try:
        read(folder, (verb,))
    except UserError:
        return False
    return True


def child_environment(at_once: int, slot: int, num_gpus: int) -> dict[str, str]:
    """The environment of a trial's processes: its share of the cores and, if requested, one GPU of the machine's."""
    environment = {key: value for key, value in os.environ.items() if key not in OF_A_LAUNCHER}
    environment["PYTHONUNBUFFERED"] = "1"
    environment[PARENT] = str(os.getpid())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // at_once)))
    if num_gpus:
        named = environment.get("CUDA_VISIBLE_DEVICES", "")
        devices = named.split(",") if named else [str(index) for index in range(num_gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % min(num_gpus, len(devices))]
    return environment
