"""Work on many items in several processes, kept item by item, by workers that never outlive their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.core.launcher import has_launcher
from gen3d.core.plain_files import load_json

Item = TypeVar("Item")
Shared = TypeVar("Shared")
Result = TypeVar("Result")

LOOK_EVERY_S = 1.0
"""Seconds between two checks of a worker that its parent still lives, where the kernel gives it no signal."""
PR_SET_PDEATHSIG = 1
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def num_workers(requested: int, num_items: int) -> int:
    """Processes to use: what was requested, or one per core this process may use, never more than items."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(requested or cores, num_items))


def as_done(
    function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """Yield `function(shared, item)` of every item as it is done, in spawned processes, or here with one worker.

    `shared` is sent to each process once. When the work is interrupted, or its results are not wanted any more, the
    processes are ended; when this process is killed, they end themselves.

    Raises:
        UserError: a worker process was killed.
    """
    if workers == 1:
        for item in items:
            yield function(shared, item)
        return
    context, complete = _Spawning(), False
    in_main_thread = threading.current_thread() is threading.main_thread()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(os.getpid(), in_main_thread, function, shared)
    )
    try:
        with _signals_later():  # a worker whose start is broken off would end in a traceback of its own
            futures = [pool.submit(_in_worker, item) for item in items]
        for future in as_completed(futures):
            yield future.result()
        complete = True
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, probably for lack of memory; run the same command with workers=1."
        ) from None
    finally:
        if not complete:
            context.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


class _Spawning(SpawnContext):
    """Starts processes and remembers them, so that they can be ended in the middle of an item."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *arguments: Any, **named: Any) -> SpawnProcess:  # type: ignore[override]
        process = SpawnProcess(*arguments, **named)
        self.started.append(process)
        return process

    def terminate(self) -> None:
        for process in self.started:
            if process.pid is not None:
                process.kill()


@contextmanager
def _signals_later() -> Iterator[None]:
    """Within this context, signals that Python code of the main thread answers wait until its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in STOPPING if callable(signal.getsignal(number))}
    for number in before:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in received[:1]:
            signal.raise_signal(first)


_job: tuple[Callable[[Any, Any], Any], Any] | None = None


def _begin_worker(parent: int, started_by_main_thread: bool, function: Callable[[Any, Any], Any], shared: Any) -> None:
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    # The kernel sends the signal when the thread that started the process ends, which only of the main thread means that
    # the process did.
    end_with(parent, kernel=started_by_main_thread and sys.platform == "linux")
    _job = (function, shared)


def _in_worker(item: Any) -> Any:
    assert _job is not None, "the initializer has run"
    function, shared = _job
    return function(shared, item)


def end_with(parent: int, kernel: bool, number: signal.Signals = signal.SIGKILL) -> None:
    """End this process by a signal when its parent has ended, in whatever way.

    The kernel does so at once, even in the middle of native code. A thread that looks for a new parent does so on any
    system, as soon as native code lets it run, and also covers a parent that ended before the request to the kernel.
    """
    if kernel:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


PARENT = "GEN3D_PARENT"
"""Variable by which a `gen3d` process that another one started knows whom to end with."""


def end_with_starter() -> None:
    """Stop this process, as SIGTERM does, when who started it has ended: a `gen3d` process, or torchrun.

    A training saves its state then. A process that nobody of these started is left alone.
    """
    parent = os.environ.pop(PARENT, "") or (str(os.getppid()) if has_launcher() else "")
    if parent.isascii() and parent.isdecimal():
        end_with(int(parent), kernel=False, number=signal.SIGTERM)


def run_program(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run another program to its end and keep what it says; on Linux it ends when this process is killed."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    starter = os.getpid()

    def end_with_it() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != starter:  # it was killed before the kernel was asked
                os._exit(1)

    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        preexec_fn=end_with_it,
    )


# --------------------------------------------------------------------------------------------- work that can go on


@dataclass(frozen=True)
class KeptRows:
    """Rows of a table in the making, one JSON file each, so that an interrupted run goes on where it was."""

    folder: Path

    def get(self, key: str, identity: str = "") -> dict[str, Any] | None:
        """The row of a key; None if it is not there, is damaged, or was made from something else than `identity`."""
        try:
            record = load_json(self.folder / f"{key}.json")
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("identity") != identity:
            return None
        row = record.get("row")
        return row if isinstance(row, dict) else None

    def keep(self, key: str, row: dict[str, Any], identity: str = "") -> None:
        """Write the row of a key, as the last thing that is done for it."""
        write_json(self.folder / f"{key}.json", {"identity": identity, "row": row})


def kept_or_made(
    parts: Sequence[Item],
    kept: Callable[[Item], dict[str, Any] | None],
    make: Callable[[Shared, list[Item]], list[dict[str, Any]]],
    shared: Shared,
    workers: Callable[[int], int],
    group_of: Callable[[Item], str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one row per part: those of an earlier, interrupted run first, the others as they are made.

    Args:
        parts: what there are rows of.
        kept: the row of an earlier run, or None if the part must be made.
        make: (shared, parts of one group) -> their rows; it keeps each of them when it is complete. A function of a module.
        shared: what all parts need; sent to each worker once.
        workers: number of groups to make -> number of processes.
        group_of: parts of the same group are made together; None: each by itself.

    Raises:
        UserError: from `make`, or a worker process was killed.
    """
    groups: dict[str, list[Item]] = {}
    for place, part in enumerate(parts):
        row = kept(part)
        if row is not None:
            yield row
        else:
            groups.setdefault(str(place) if group_of is None else group_of(part), []).append(part)
    for rows in as_done(make, shared, list(groups.values()), workers(len(groups))):
        yield from rows
