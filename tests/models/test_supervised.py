"""Supervised tasks: their losses are those of the papers, and the loop trains them in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from gen3d.cohort.target import Target
from gen3d.models.supervised.losses import (
    class_weights,
    effective_weights,
    focal_loss,
    num_scores,
    ordered_focal_loss,
    people_weights,
)
from gen3d.models.supervised.task import SupervisedTask
from gen3d.train.batches import MemoryBatches
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.start import start_engine
from gen3d.train.log import StepLog
from gen3d.train.loop import NotFinite, run_loop
from gen3d.train.optim import OptimConfig

CLASSES = Target("y", "categories", ("a", "b", "c"))
GRADES = Target("y", "ordered", ("a", "b", "c"))
NUMBER = Target("y", "number")


def trained(target: Target, volumes: Tensor, labels: Tensor, steps: int = 300, skip_limit: int = 5) -> nn.Module:
    """A linear network of all voxels, trained by the platform's loop without a folder."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(volumes[0].numel(), num_scores(target)))
    batches = MemoryBatches(volumes, labels, 16)
    optim = OptimConfig(steps=steps, batch_size=batches.batch_size, learning_rate=0.05, ema_decay=0.0)
    engine = start_engine(EngineConfig(device="cpu", precision="fp32"), SupervisedTask(network, target, labels), optim)
    run_loop(engine, batches, 0, steps, skip_limit, StepLog())
    return network.eval()


def volumes_of(codes: Tensor) -> Tensor:
    """Volumes [n, 1, 2, 2, 2] whose first voxel is the code, in noise."""
    volumes = 0.1 * torch.randn((len(codes), 1, 2, 2, 2), generator=torch.Generator().manual_seed(1))
    volumes[:, 0, 0, 0, 0] += codes
    return volumes


@pytest.mark.parametrize("target", [CLASSES, GRADES, NUMBER], ids=lambda target: target.task)
def test_every_kind_of_target_is_learned_by_the_same_loop(target: Target) -> None:
    codes = torch.arange(60.0) % 3
    labels = codes - 1 if target.task == "number" else codes
    network = trained(target, volumes_of(codes - 1), labels)
    scores = network(volumes_of(codes - 1)).detach()
    assert scores.shape == (60, {"categories": 3, "ordered": 2, "number": 1}[target.task])
    predicted = {
        "categories": lambda: scores.argmax(1).float(),
        "ordered": lambda: (scores > 0).sum(1).float(),
        "number": lambda: scores[:, 0].round() + 1,
    }[target.task]()
    assert (predicted == codes).float().mean() > 0.9


def test_a_training_in_memory_writes_nothing_and_leaves_signals_alone(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(NUMBER, volumes_of(torch.zeros(20)), torch.zeros(20), steps=3)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_it_skips_what_is_not_finite_as_every_training_does() -> None:
    codes = torch.arange(40.0) % 2
    volumes = volumes_of(codes)
    volumes[3] = torch.nan
    network = trained(Target("y", "categories", ("a", "b")), volumes, codes, steps=60)
    assert all(bool(torch.isfinite(value).all()) for value in network.parameters())
    with pytest.raises(NotFinite, match=r"the model's loss became NaN or infinite on the subjects scan 0, "):
        trained(NUMBER, torch.full((4, 1, 2, 2, 2), torch.nan), torch.zeros(4), steps=9, skip_limit=2)


def test_every_round_has_every_scan_once_and_batches_reach_over_its_end() -> None:
    torch.manual_seed(2)
    batches = MemoryBatches(torch.arange(5.0)[:, None], torch.arange(5.0), 2)
    drawn = torch.cat([batches.at(step, 0).labels for step in range(5)])  # type: ignore[misc]
    assert sorted(drawn[:5].tolist()) == sorted(drawn[5:].tolist()) == [0, 1, 2, 3, 4]
    assert MemoryBatches(torch.zeros(3, 1), torch.zeros(3), 16).at(0, 0).volumes.shape == (3, 1)


def test_focal_loss_without_focus_is_weighted_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, codes, weights = torch.randn(30, 4), torch.randint(0, 4, (30,)), torch.rand(4)
    expected = functional.cross_entropy(logits, codes, weights, reduction="none").mean()
    torch.testing.assert_close(focal_loss(logits, codes, weights, 0.0), expected)
    p = torch.softmax(logits, 1)[torch.arange(30), codes]
    by_hand = (weights[codes] * (1 - p) ** 2 * -p.log()).mean()
    torch.testing.assert_close(focal_loss(logits, codes, weights, 2.0), by_hand)


def test_ordered_focal_loss_without_focus_is_the_sum_of_the_questions() -> None:
    torch.manual_seed(1)
    logits, codes, weights = torch.randn(30, 2), torch.randint(0, 3, (30,)), torch.rand(3)
    above = (codes[:, None] > torch.tensor([0, 1])).float()
    each = functional.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(1)
    torch.testing.assert_close(ordered_focal_loss(logits, codes, weights, 0.0), (weights[codes] * each).mean())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_losses_of_what_is_told_perfectly_or_wholly_wrong_have_finite_gradients(gamma: float) -> None:
    logits = torch.tensor([[80.0, -80.0], [-80.0, 80.0], [0.0, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.zeros(3, dtype=torch.int64), torch.ones(2), gamma)
    graded = ordered_focal_loss(logits, torch.tensor([0, 1, 2]), torch.ones(3), gamma)
    (loss + graded).backward()
    assert torch.isfinite(logits.grad).all()


def test_classes_weigh_the_same_and_a_class_of_nobody_nothing() -> None:
    weights = class_weights(np.array([0, 0, 0, 2.0]), 3)
    assert weights == pytest.approx([2 / 3, 0, 2])
    assert weights @ [3, 0, 1] == pytest.approx(4)


def test_weights_of_classes_count_people() -> None:
    people = torch.tensor([30.0, 0.0, 10.0])
    assert people_weights(people).tolist() == pytest.approx([40 / 60, 0.0, 40 / 20])
    np.testing.assert_allclose(people_weights(people), class_weights(np.repeat([0.0, 2.0], [30, 10]), 3))
    for beta, ratio in ((0.0, 1.0), (0.99, (1 - 0.99**30) / (1 - 0.99**10)), (0.9999, 2.997)):
        weights = effective_weights(people, beta)
        assert float(weights[2] / weights[0]) == pytest.approx(ratio, rel=1e-3)
        assert float((weights * people).sum()) == pytest.approx(40.0, rel=1e-4)
