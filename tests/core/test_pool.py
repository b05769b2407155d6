"""Workers: results as they are done, rows that are kept, and nobody left when the parent is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gen3d.core.errors import UserError
from gen3d.core.pool import KeptRows, _signals_later, as_done, kept_or_made, num_workers

GONE_S = 60.0
"""Seconds after which a worker counts as left behind."""


def scaled(factor: int, item: int) -> int:
    if item < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return factor * item


def make(kept: KeptRows, group: list[int]) -> list[dict[str, int]]:
    if max(group) == 99:
        raise UserError("99 cannot be made")
    rows = [{"part": part, "together": len(group)} for part in group]
    for part, row in zip(group, rows, strict=True):
        kept.keep(str(part), row)
    return rows


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_done_once(workers: int) -> None:
    assert sorted(as_done(scaled, 3, range(5), workers)) == [0, 3, 6, 9, 12]


def test_a_worker_that_was_killed_is_told() -> None:
    with pytest.raises(UserError, match="a worker was killed, probably for lack of memory"):
        list(as_done(scaled, 1, [-1, 1], 2))


def test_never_more_workers_than_items_and_always_one() -> None:
    assert [num_workers(3, 2), num_workers(3, 9), num_workers(5, 0)] == [2, 3, 1]


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path)

    def rows(parts: list[int]) -> list[dict[str, int]]:
        return list(kept_or_made(parts, lambda p: kept.get(str(p)), make, kept, lambda n: 1, lambda p: str(p // 10)))

    with pytest.raises(UserError, match="99 cannot be made"):
        rows([1, 2, 10, 99])
    assert rows([10, 1, 3]) == [{"part": 10, "together": 1}, {"part": 1, "together": 2}, {"part": 3, "together": 1}]


def test_a_row_of_something_else_or_damaged_is_made_again(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path)
    kept.keep("a", {"n": 1}, "scan 1")
    assert kept.get("a", "scan 1") == {"n": 1}
    assert kept.get("a", "scan 2") is None
    for text in ("", "{", "[]", '{"identity": "scan 1"}'):
        (tmp_path / "a.json").write_text(text)
        assert kept.get("a", "scan 1") is None


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: list[int]) -> bool:
    """Wait for processes to end."""
    end = time.monotonic() + GONE_S
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def busy(folder: str, item: int) -> None:
    """Say who works, and never get done; one of them in native code that lets no other thread run."""
    (Path(folder) / str(item)).write_text(str(os.getpid()))
    if item == 0:
        pow(3, 3**17, 10**4_000_000)
    time.sleep(600)


PARENT = "import sys; from gen3d.core.pool import as_done; from tests.core.test_pool import busy; "
IN_MAIN = PARENT + "list(as_done(busy, sys.argv[1], [0, 1], 2))"
IN_THREAD = PARENT + (
    "import threading; t = threading.Thread(target=lambda: list(as_done(busy, sys.argv[1], [1, 2], 2))); t.start(); t.join()"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("script", "number"),
    [
        (IN_MAIN, signal.SIGKILL),
        (IN_MAIN, signal.SIGINT),
        (IN_MAIN, signal.SIGHUP),
        (IN_THREAD, signal.SIGKILL),
        (IN_THREAD, signal.SIGTERM),
    ],
    ids=["main-KILL", "main-INT", "main-HUP", "thread-KILL", "thread-TERM"],
)
def test_workers_end_with_their_parent(script: str, number: signal.Signals, tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 240
        while len(said := [path.read_text() for path in tmp_path.iterdir()]) < 2 or "" in said:
            assert time.monotonic() < end, "the workers did not begin"
            time.sleep(0.05)
        workers = [int(text) for text in said]
        assert all(map(alive, workers))
        parent.send_signal(number)
        parent.wait(timeout=GONE_S)
        assert all_gone(workers)
    finally:
        parent.kill()
        parent.communicate()


STARTED = "import time; from gen3d.core.pool import end_with_starter; end_with_starter(); print('ready', flush=True);"
STARTED += "time.sleep(600)"
STARTER = (
    "import os, subprocess, sys, time; from gen3d.core.pool import PARENT;"
    f"child = subprocess.Popen([sys.executable, '-c', {STARTED!r}], stdout=subprocess.PIPE, start_new_session=True,"
    "env={**os.environ, PARENT: str(os.getpid())}); child.stdout.readline(); print(child.pid, flush=True); time.sleep(600)"
)
PROGRAM = "from gen3d.core.pool import run_program; print('ready', flush=True); run_program(['sleep', '600'])"


def test_a_signal_that_comes_while_workers_start_is_answered_after() -> None:
    events: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: events.append("answered"))
    try:
        with _signals_later():
            signal.raise_signal(signal.SIGUSR1)
            events.append("started")
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert events == ["started", "answered", "answered"]


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("script", [STARTER, PROGRAM], ids=["gen3d", "another program"])
def test_a_started_process_ends_with_its_starter_however_that_ends(script: str) -> None:
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    starter.stdout.readline()
    end = time.monotonic() + GONE_S
    while not (started := children(starter.pid)) and time.monotonic() < end:
        time.sleep(0.02)
    assert len(started) == 1
    starter.kill()
    starter.communicate()
    assert all_gone(started)


def test_a_process_that_nobody_of_ours_started_is_left_alone() -> None:
    code = "import threading; from gen3d.core.pool import end_with_starter; end_with_starter(); print(threading.active_count())"
    clean = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    for given in ({}, {"GEN3D_PARENT": ""}, {"GEN3D_PARENT": "me"}):
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True
        )
        assert done.stdout == "1\n"
