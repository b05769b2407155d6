"""What happens when a process is killed, freezes, is preempted, or finds the disk full: nothing is lost, nothing hangs."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from gen3d.core.output_folder import begin
from gen3d.models.run_folder import LOG
from gen3d.train.checkpoint import latest_checkpoint, save_checkpoint
from gen3d.train.log import read_log
from gen3d.train.train import Train
from tests.sealing import reseal
from tests.train.conftest import write_cohort
from tests.train.killed import train_and_die
from tests.train.launching import launch, settings, train_with

NUM_KILLS = 20


def weights(run: Path) -> bytes:
    return (run / "members" / "0" / "model.safetensors").read_bytes()


@pytest.mark.multi
@pytest.mark.slow
def test_killed_at_twenty_random_places_it_ends_with_the_same_weights(cohort: Path, tmp_path: Path) -> None:
    """Each place is a function call drawn at random from those of the whole training, checkpoint writing included."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.killed"])

    def attempt(out: str, steps: int, after_calls: int = 0, in_steps: bool = True) -> int | None:
        optim, engine = {"steps": steps, "batch_size": 2}, {"checkpoint_every": 2, "threads": 1}
        case = settings(cohort, tmp_path / out, optim=optim, engine=engine)
        arguments = (case, after_calls, in_steps, str(tmp_path / "calls"))
        child = context.Process(target=train_and_die, args=arguments)
        child.start()
        child.join(120)
        assert child.exitcode in (0, -signal.SIGKILL)
        return child.exitcode

    def calls() -> int:
        return int((tmp_path / "calls").read_text())

    steps = 50
    assert attempt("straight", steps) == 0
    whole = calls()
    assert attempt("short", 10) == 0
    per_step = (whole - calls()) / (steps - 10)
    rng = np.random.default_rng(0)
    for kill in range(NUM_KILLS):
        in_steps = kill % 5 > 0
        place = rng.uniform(1, 3 * per_step if in_steps else 10 * per_step)
        assert attempt("torn", steps, int(place), in_steps) == -signal.SIGKILL, f"finished after {kill} kills only"
    assert attempt("torn", steps) == 0
    assert weights(tmp_path / "torn") == weights(tmp_path / "straight")
    logged = [
        [(entry["step"], entry["loss"]) for entry in read_log(tmp_path / run / LOG)] for run in ("torn", "straight")
    ]
    assert logged[0] == logged[1]


@dataclass(frozen=True)
class OfTwo:
    """What two processes did that stayed alive, all in one start of them: how each training ended, by its folder's name."""

    root: Path
    ends: dict[str, str]


@pytest.fixture(scope="module")
def of_two(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> OfTwo:
    root = tmp_path_factory.mktemp("two")
    other = write_cohort(root / "other", changed="p00")
    # The same name and history, but one volume differs.
    reseal(other, **json.loads((cohort / "artefact.json").read_text(encoding="utf-8")))
    cases = {
        "straight": settings(cohort, root / "straight"),
        "seed": settings(cohort, root / "seed") | {"rank 1": {"seed": 4}},
        "data": settings(cohort, root / "data") | {"rank 1": {"prepared": [str(other)]}},
        "missing": settings(cohort, root / "missing") | {"rank 1": {"prepared": [str(root / "nowhere")]}},
        "held": settings(cohort, root / "held"),
    }
    held = begin(Train.model_validate(cases["held"]), "train", {"prepared": [cohort]})
    ends = train_with(2, list(cases.values()), root)
    held.release()
    return OfTwo(root, dict(zip(cases, ends, strict=True)))


@pytest.mark.multi
@pytest.mark.slow
def test_a_killed_process_is_restarted_and_nothing_changes(cohort: Path, of_two: OfTwo, tmp_path: Path) -> None:
    torn = settings(cohort, tmp_path / "torn") | {"kill": [1, 7]}
    assert of_two.ends["straight"] == ""
    assert train_with(2, [torn], tmp_path, ["--max-restarts", "2"]) == [""]
    assert weights(tmp_path / "torn") == weights(of_two.root / "straight")


@pytest.mark.multi
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_lost_process_ends_the_training_with_its_name(cohort: Path, tmp_path: Path, fault: str) -> None:
    """A killed one at once; a frozen one after engine.timeout_s, inside DeepSpeed's own exchanges too."""
    case = settings(cohort, tmp_path / "run", engine={"timeout_s": 6}) | {fault: [1, 7]}
    done = launch(2, [case], tmp_path, ["--shutdown-timeout", "1", "--log-dir", str(tmp_path), "--redirects", "3"])
    assert done.returncode != 0
    said = "".join(path.read_text() for path in tmp_path.rglob("0/std*.log"))
    if fault == "kill":
        assert "rank 1 on " in said
        assert "ended or was killed, so the others cannot go on" in said
    else:
        assert "waited in vain for another process" in said
        assert "longer than timeout_s=6" in said
    found = latest_checkpoint(tmp_path / "run" / "checkpoint" / "member_0")
    assert found is not None
    assert found[0] == 5


@pytest.mark.multi
def test_differences_between_processes_are_named_before_the_first_step(of_two: OfTwo) -> None:
    seed, data, missing = (of_two.ends[name] for name in ("seed", "data", "missing"))
    assert "rank 1 on " in seed
    assert "has another settings" in seed
    assert "has another data" in data
    assert missing.startswith("rank 1 on ")
    assert "nowhere: no such folder" in missing
    assert not (of_two.root / "seed").exists()


@pytest.mark.multi
def test_a_second_training_on_the_same_folder_is_refused(of_two: OfTwo) -> None:
    assert of_two.ends["held"].endswith(
        "held: another gen3d process is writing there; wait for it or give another out=."
    )


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    for step in (2, 4):
        save_checkpoint(tmp_path, step, lambda folder: torch.save({}, folder / "state.pt"))

    def fill(folder: Path) -> None:
        (folder / "state.pt").write_bytes(b"half")
        with open("/dev/full", "wb") as full:
            full.write(b"1")

    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(tmp_path, 6, fill)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 4
    assert sorted(item.name for item in tmp_path.iterdir()) == ["step_00000002", "step_00000004"]


def test_a_process_that_never_comes_is_named() -> None:
    import torch.distributed as dist

    from gen3d.core.errors import UserError
    from gen3d.train.engine import preflight
    from gen3d.train.engine.processes import Processes

    began = time.monotonic()
    with pytest.raises(UserError, match=r"rank 1 of 2 did not come within 0\.5 s; look at its node"):
        preflight.compare_notes(Processes(rank=0, num=2), dist.HashStore(), {}, "", 0.5)
    assert time.monotonic() - began < 60
