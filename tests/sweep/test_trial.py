"""One trial with real processes: how it ends, and that nobody works on it twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen3d.sweep.trial import (
    DONE,
    FAILED,
    PRUNED,
    RUNNING,
    STOPPED,
    Command,
    Trial,
    Work,
    child_environment,
    read_trials,
)

pytestmark = pytest.mark.multi
LONG = {"subjects": 400, "spacing_mm": 4, "workers": 1, "figures": False}


def work_on(folder: Path, verb: str, settings: dict[str, Any], hopeless: Callable[[Trial], bool] | None = None) -> Work:
    trial = Trial(0, folder / "0000", {f"{verb}.seed": 1})
    command = Command(verb, verb, {**settings, "out": str(trial.folder / verb)})
    return Work(trial, [command], child_environment(1, 0, 0), hopeless)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def started(work: Work) -> int:
    """The process of a work, once it is there."""
    until(lambda: work.poll() or work._process is not None)
    assert work._process is not None
    return work._process.pid


def test_a_mistake_is_a_row_with_its_sentence(tmp_path: Path) -> None:
    work = work_on(tmp_path, "prepare", {"source": "nowhere"})
    until(work.poll)
    assert work.trial.status == FAILED
    assert work.trial.error.startswith("prepare: nowhere")
    found = read_trials(tmp_path)[0]
    assert (found.status, found.error, found.values) == (FAILED, work.trial.error, {"prepare.seed": 1})
    assert found.seconds > 0


def test_a_kill_is_a_row_that_names_the_signal(tmp_path: Path) -> None:
    work = work_on(tmp_path, "simulate", LONG)
    os.kill(started(work), signal.SIGKILL)
    until(work.poll)
    assert work.trial.status == FAILED
    assert work.trial.error == "simulate: killed by SIGKILL, most likely because memory ran out"


def test_a_stopped_trial_has_not_failed_and_one_given_up_is_pruned(tmp_path: Path) -> None:
    stopped = work_on(tmp_path / "a", "simulate", LONG)
    started(stopped)
    stopped.stop()
    until(stopped.poll)
    assert stopped.trial.status == STOPPED
    assert not stopped.trial.ended
    given_up = work_on(tmp_path / "b", "simulate", LONG, hopeless=lambda trial: True)
    until(given_up.poll)
    assert given_up.trial.status == PRUNED
    assert given_up.trial.ended


def test_a_trial_is_held_until_the_last_of_its_processes_is_gone(tmp_path: Path) -> None:
    first = work_on(tmp_path, "simulate", LONG)
    child = started(first)
    assert read_trials(tmp_path)[0].status == RUNNING
    assert first._lock is not None
    first._lock.close()  # what the system does when the sweep itself is killed
    second = work_on(tmp_path, "simulate", LONG)
    assert not second.poll()
    assert second.waits_for_lock
    assert read_trials(tmp_path)[0].status == RUNNING
    os.kill(child, signal.SIGKILL)
    assert first._process is not None
    first._process.wait()
    assert read_trials(tmp_path)[0].status == STOPPED
    os.kill(started(second), signal.SIGKILL)
    until(second.poll)


def test_what_another_process_finished_is_not_done_again(tmp_path: Path) -> None:
    first = work_on(tmp_path, "simulate", LONG)
    child = started(first)
    second = work_on(tmp_path, "simulate", LONG)
    assert not second.poll()
    os.kill(child, signal.SIGKILL)
    until(first.poll)
    first.trial.status = DONE
    first.trial.save()
    until(second.poll)
    assert second.trial.status == DONE
    assert second._process is None
