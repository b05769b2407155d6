"""Several processes learn what one process learns: same losses, same model, from any checkpoint to any number of them.

Stated tolerance: every logged term within 1e-4 of itself (float32) over 12 updates, and the expectation of the final
model within 1e-3 of a standard deviation; bfloat16 within 2 % and a tenth of a standard deviation. Weights are not compared
one by one: a bias before a normalisation has no gradient but rounding noise, which Adam scales up to its learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen3d.models.run import load_run
from gen3d.models.run_folder import LOG
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import Batches
from gen3d.train.log import read_log
from gen3d.train.train import Train
from tests.train.launching import settings, train_with

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all that two processes train

PLACES = ("volumes_per_s", "memory_gib", "seconds", "member", "step")


def terms(run: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in entry.items() if name not in PLACES} for entry in read_log(run / LOG)]


def assert_same_training(run: Path, reference: Path, rel: float, apart: float) -> None:
    """Same logged terms, same expectation of two scans."""
    ours, theirs = terms(run), terms(reference)
    assert len(ours) == len(theirs) == 12
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=rel, abs=1e-6)
    (first,), (second,) = (load_run(folder).members for folder in (run, reference))
    volumes = torch.rand((2, *first.volume_shape), generator=torch.Generator().manual_seed(0))
    difference = (first.expect(volumes).mean - second.expect(volumes).mean).abs().amax(dim=(0, 2, 3, 4))
    assert bool((difference / first.channel_std < apart).all()), difference


@pytest.fixture(scope="module")
def reference(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same trainings in one process without DeepSpeed."""
    root = tmp_path_factory.mktemp("reference")
    cases = {"critic": {}, "alone": {"model": {"adversarial_weight": 0.0}}, "bf16": {"engine": {"precision": "bf16"}}}
    for name, changes in cases.items():
        Train.model_validate(settings(cohort, root / name, **changes)).run()
    Train.model_validate(settings(cohort, root / "started", start=str(root / "alone"), **ALONE)).run()
    return {name: root / name for name in (*cases, "started")}


ALONE = {"model": {"adversarial_weight": 0.0}}
LEARN: dict[str, dict[str, Any]] = {
    **{f"zero{stage}": {"engine": {"zero": stage}} for stage in (0, 1, 2)},
    "parts": {"engine": {"zero": 2, "volumes_at_once": 1}},
    **{f"bf16 zero{stage}": {"engine": {"zero": stage, "precision": "bf16"}} for stage in (0, 1, 2)},
    **{f"alone zero{stage}": {"engine": {"zero": stage}, **ALONE} for stage in (0, 1, 2, 3)},
    "started": {"engine": {"zero": 1}, **ALONE},
}
STAGES: dict[str, tuple[int, int | None]] = {
    "0 to 2": (0, 2),
    "1 to 0": (1, 0),
    "2 to 1": (2, 1),
    "1 to local": (1, None),
    "3 to 3": (3, 3),
}
"""Stage of two processes that are stopped, and of those that go on; None is one process without DeepSpeed."""
MISTAKES: dict[str, dict[str, Any]] = {
    "optim.batch_size=5 volumes cannot be shared out over 2 processes; start 1 processes": {"optim": {"batch_size": 5}},
    "engine.zero=3 works for one player, and this model has model and critic; use engine.zero=2": {
        "engine": {"zero": 3}
    },
    "engine.volumes_at_once=2 does not divide the 3 volumes": {"engine": {"volumes_at_once": 2}},
    "engine.processes=4, but 2 processes were started": {"engine": {"processes": 4}},
    "engine.kind=local is one process, but 2 were started": {"engine": {"kind": "local"}},
    "engine.backend=nccl needs GPUs": {"engine": {"backend": "nccl"}},
    "model.kind=pca is computed in one pass by one process, but 2 were started": {"model": {"kind": "pca"}},
}


def staged(cohort: Path, root: Path, name: str, stage: int | None) -> dict[str, Any]:
    """The training of a row of STAGES at one of its stages."""
    changes = ALONE if name == "3 to 3" else {}
    return settings(cohort, root / name, engine={} if stage is None else {"zero": stage}, **changes)


@dataclass(frozen=True)
class OfTwo:
    """What two processes were asked, all in one start of them: the runs under `root`, and how each training ended."""

    root: Path
    learn: list[str]
    stopped: list[str]
    mistakes: list[str]


@pytest.fixture(scope="module")
def of_two(cohort: Path, reference: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> OfTwo:
    root = tmp_path_factory.mktemp("two")
    starts = {"started": {"start": str(reference["alone"])}}
    cases = [settings(cohort, root / name, **changes, **starts.get(name, {})) for name, changes in LEARN.items()]
    cases += [staged(cohort, root, name, first) | {"stop": [1, 4]} for name, (first, _) in STAGES.items()]
    cases += [settings(cohort, root / f"mistake {n}", **changes) for n, changes in enumerate(MISTAKES.values())]
    cases[-1]["model"] = {"kind": "pca"}
    ends = train_with(2, cases, root)
    num = len(LEARN), len(LEARN) + len(STAGES)
    return OfTwo(root, ends[: num[0]], ends[num[0] : num[1]], ends[num[1] :])


@pytest.mark.multi
@pytest.mark.slow
def test_two_processes_learn_what_one_learns(of_two: OfTwo, reference: dict[str, Path]) -> None:
    assert of_two.learn == [""] * len(LEARN)
    for name in LEARN:
        known = next((case for case in ("bf16", "alone", "started") if case in name), "critic")
        rel, apart = (2e-2, 1e-1) if known == "bf16" else (1e-4, 1e-3)
        assert_same_training(of_two.root / name, reference[known], rel, apart)
    with pytest.raises(AssertionError):
        assert_same_training(of_two.root / "zero1", reference["bf16"], 1e-4, 1e-3)


@pytest.mark.multi
@pytest.mark.slow
def test_a_checkpoint_goes_on_with_any_number_of_processes_at_any_stage(
    cohort: Path, of_two: OfTwo, reference: dict[str, Path], tmp_path: Path
) -> None:
    """Two processes were stopped after step 5 by a signal to the second, and three, or one, go on elsewhere."""
    stopped, root = of_two.stopped, of_two.root
    assert len(stopped) == len(STAGES)
    assert all(sentence.startswith("stopped by SIGUSR1 after step 5 of 12") for sentence in stopped), stopped
    assert not any((root / name / "members").exists() for name in STAGES)
    going_on = [staged(cohort, root, name, then) for name, (_, then) in STAGES.items() if then is not None]
    assert train_with(3, going_on, tmp_path) == [""] * 4
    Train.model_validate(staged(cohort, root, "1 to local", None)).run()
    for name in STAGES:
        known = reference["alone" if name == "3 to 3" else "critic"]
        assert_same_training(root / name, known, 1e-4, 1e-3)


@pytest.mark.multi
def test_mistakes_are_told_once_and_name_the_culprit(of_two: OfTwo) -> None:
    for expected, sentence in zip(MISTAKES, of_two.mistakes, strict=True):
        assert sentence.startswith(expected), sentence


@pytest.mark.parametrize(("num_processes", "parts"), [(1, 1), (1, 3), (2, 1), (3, 2), (4, 3)])
def test_shares_are_disjoint_and_complete(num_processes: int, parts: int) -> None:
    """The batches of all processes together are the batch of one, volume by volume, with the same noise seeds."""

    class Numbers:
        channels = ("t1w",)
        subjects = tuple(f"p{index}" for index in range(30))

        def load(self, rows: np.ndarray) -> np.ndarray:
            return np.broadcast_to(rows[:, None, None, None, None], (len(rows), 1, 2, 2, 2)).astype(np.float32)

        def conditions(self, rows: np.ndarray) -> None:
            return None

        def labels(self, rows: np.ndarray) -> None:
            return None

    def batches(rank: int, num: int, parts: int) -> Batches:
        device = torch.device("cpu")
        return Batches(Numbers(), np.arange(30), 12, parts, (0, 0), AugmentConfig(), device, share=(rank, num))

    whole = batches(0, 1, 1).at(3, 0)
    expected = sorted(zip(whole.subjects, whole.seeds, strict=True))
    found = []
    for rank in range(num_processes):
        mine = batches(rank, num_processes, parts)
        for part in range(parts):
            batch = mine.at(3, part)
            assert batch.volumes[:, 0, 0, 0, 0].tolist() == [float(subject[1:]) for subject in batch.subjects]
            found += list(zip(batch.subjects, batch.seeds, strict=True))
        mine.close()
    assert sorted(found) == expected
    assert len(set(found)) == 12
