"""The work on trials with real processes: how it ends, and that nobody works on one twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gen3d.core.errors import Interrupted, UserError
from gen3d.sweep.settings import DONE, FAILED, PRUNED, STOPPED, Command, Trial
from gen3d.sweep.trial import Halt, TrialEnded, child_environment, locked, run_steps, work_off

pytestmark = pytest.mark.multi


def end_of(folder: Path, watch: Callable[[], str]) -> tuple[str, str]:
    """How a trial ends whose step prepares a folder that is not there."""
    command = Command("prepare", "prepare", {"source": "nowhere", "out": str(folder / "prepare")})
    with locked(folder, Halt()) as lock, pytest.raises(TrialEnded) as end:
        run_steps(folder, [command], child_environment(1, 0, 0), lock, watch)
    return end.value.status, end.value.sentence


def send_to_child(number: int) -> str:
    """Send a signal to the one process that this one started."""
    child = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1]
    os.kill(int(child), number)
    return ""


def test_a_mistake_ends_a_trial_with_its_sentence(tmp_path: Path) -> None:
    status, sentence = end_of(tmp_path, lambda: "")
    assert status == FAILED
    assert sentence.startswith("prepare: nowhere")


def test_a_kill_ends_a_trial_with_the_name_of_the_signal(tmp_path: Path) -> None:
    status, sentence = end_of(tmp_path, lambda: send_to_child(signal.SIGKILL))
    assert (status, sentence) == (FAILED, "prepare: killed by SIGKILL, most likely because memory ran out")


def test_a_stopped_trial_has_not_failed_and_one_given_up_is_pruned(tmp_path: Path) -> None:
    assert end_of(tmp_path, lambda: STOPPED) == (STOPPED, "")
    assert end_of(tmp_path, lambda: send_to_child(signal.SIGTERM)) == (STOPPED, "")
    assert end_of(tmp_path, lambda: PRUNED) == (PRUNED, "")


def test_a_trial_is_held_until_the_last_of_its_processes_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path, Halt()) as lock:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], pass_fds=(lock,))
    halt = Halt()
    halt.received = signal.SIGTERM
    with pytest.raises(TrialEnded), locked(tmp_path, halt):
        pass
    process.kill()
    process.wait()
    with locked(tmp_path, halt):
        pass


def row(number: int, status: str = DONE) -> Trial:
    return Trial(number, Path("nowhere"), {}, status, None, 0.0, "")


def test_trials_are_worked_off_each_in_a_slot_of_its_own() -> None:
    in_slots: set[int] = set()
    ended: list[int] = []

    def work(number: int, slot: int, halt: Halt) -> Trial:
        assert slot not in in_slots
        in_slots.add(slot)
        in_slots.remove(slot)
        return row(number)

    work_off(range(20), work, lambda trial: ended.append(trial.number), at_once=3)
    assert sorted(ended) == list(range(20))


def test_an_error_or_a_signal_stops_those_at_work_and_begins_no_other() -> None:
    begun: list[int] = []

    def work(number: int, slot: int, halt: Halt) -> Trial:
        begun.append(number)
        if number == 0:
            raise UserError("no such figure")
        while halt.received is None:
            pass
        assert not halt.kill
        return row(number, STOPPED)

    with pytest.raises(UserError, match="no such figure"):
        work_off(range(5), work, lambda trial: None, at_once=2)
    assert set(begun) <= {0, 1, 2}

    def signalled(number: int, slot: int, halt: Halt) -> Trial:
        begun.append(10 + number)
        os.kill(os.getpid(), signal.SIGTERM)
        while halt.received is None:
            pass
        return row(number, STOPPED)

    with pytest.raises(Interrupted) as error:
        work_off(range(5), signalled, lambda trial: None, at_once=1)
    assert error.value.exit_code == 128 + signal.SIGTERM
    assert [number for number in begun if number >= 10] == [10]


def test_every_trial_has_its_share_of_the_cores_and_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setenv("RANK", "1")
    environments = [child_environment(2, slot, 2) for slot in range(3)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["4", "5", "4"]
    assert int(environments[0]["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)
    assert "RANK" not in environments[0]
