"""What the critics of a transition see, and what the generator is told: the brain is the input's, whatever is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.task import Batch
from gen3d.models.transition.task import REGION, TransitionTask, in_region
from gen3d.models.transition.transition import TransitionConfig

SIDE = 16


def task(**settings: Any) -> TransitionTask:
    affine = tuple(tuple(float(value) for value in row) for row in np.eye(4))
    plan = GridPlan(spacing_mm=1, shape=(SIDE, SIDE, 4), affine=affine, channels=("t1w",))
    config = TransitionConfig(classes=("0", "1"), slices=2, widths=(4, 4, 4), intensity_range=1.0, **settings)
    mask = np.ones(plan.shape, bool)
    torch.manual_seed(0)
    model = config.build(plan, ("t1w",), Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), mask), 1)
    made: TransitionTask = config.task_of(model, 10)
    return made.train()


def batch(num: int = 4) -> Batch:
    """Pictures of two stages whose brains are different halves of the picture."""
    generator = torch.Generator().manual_seed(1)
    volumes = torch.rand(num, 4, 1, SIDE, SIDE, generator=generator)
    volumes[:, 2] = 0.0
    volumes[:, 2, :, :8] = 1.0
    volumes[:, 3] = 0.0
    volumes[:, 3, :, :, 4:] = 1.0
    return Batch(volumes, ("p",) * num, 0, tuple(range(num)))


class Spy(nn.Module):
    """A critic that keeps what it is shown."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.shown = inside, list[Tensor]()

    def forward(self, pictures: Tensor) -> Tensor:
        self.shown.append(pictures.detach().clone())
        logits: Tensor = self.inside(pictures)
        return logits


class Painted(nn.Module):
    """A generator that makes the whole frame bright, as if the brain filled it."""

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.ones_like(pictures)


@pytest.mark.parametrize("player", ["model", "critic"])
def test_a_generator_that_changes_the_outline_does_not_change_what_the_region_critic_looks_at(player: str) -> None:
    trained = task()
    trained.model.generator = Painted()  # type: ignore[assignment]
    spy = Spy(trained.critics[REGION])
    trained.critics[REGION] = spy
    trained(batch(), player)
    made = spy.shown[-1]
    assert (made[:, :, :8] == 1).all()  # the brain of the input: what is made is seen
    assert (made[:, :, 8:] == -1).all()  # all around it is black, though the generator painted it
    if player == "critic":  # a real picture is seen inside its own brain
        real = spy.shown[0]
        assert (real[:, :, :, :4] == -1).all()
        assert torch.equal(real[:, :, :, 4:], 2 * batch().volumes[:, 1, :, :, 4:] - 1)


def test_nothing_outside_the_brain_of_the_input_reaches_the_generator_through_the_region_critic() -> None:
    trained = task()
    made = torch.zeros(2, 1, SIDE, SIDE, requires_grad=True)
    brain = batch(2).volumes[:, 2]
    trained.critics[REGION](in_region(made, brain)).sum().backward()
    assert made.grad is not None
    assert (made.grad[:, :, 8:] == 0).all()
    assert made.grad[:, :, :8].abs().sum() > 0


def test_without_region_there_is_one_critic() -> None:
    assert set(task(region=False).critics) == {"whole"}
    assert set(task(region=False)(batch(), "model")) == {"loss", "adversarial_whole"}
    assert set(task()(batch(), "model")) == {"loss", "adversarial_whole", "adversarial_region"}


def test_losses_are_the_cross_entropies_that_were_published() -> None:
    trained, shown = task(region_weight=0.5, identity=3.0), batch()
    losses = trained(shown, "model")
    before, after = (2 * shown.volumes[:, place] - 1 for place in (0, 1))
    made = trained.model.generator(before)
    whole = -torch.sigmoid(trained.critics["whole"](made)).log().mean()
    region = -torch.sigmoid(trained.critics["region"]((made + 1) * shown.volumes[:, 2] - 1)).log().mean()
    kept = (trained.model.generator(after) - after).abs().mean()
    assert losses["loss"].item() == pytest.approx((whole + 0.5 * region + 3.0 * kept).item(), abs=1e-5)


def test_label_smoothing_is_one_sided() -> None:
    def made_real(label: float) -> tuple[float, float]:
        losses = task(real_label=label, region=False)(batch(), "critic")
        return losses["real_whole"].item(), losses["made_whole"].item()

    plain, smooth = made_real(1.0), made_real(0.9)
    assert plain[0] != smooth[0]
    assert plain[1] == smooth[1]


@pytest.mark.parametrize(
    ("player", "moved"), [("model", lambda task: task.model), ("critic", lambda task: task.critics)]
)
def test_a_player_moves_its_own_weights_alone(player: str, moved: Callable[[TransitionTask], nn.Module]) -> None:
    trained = task()
    trained(batch(), player)["loss"].backward()
    own = {id(weights) for weights in moved(trained).parameters()}
    for weights in trained.parameters():
        assert (weights.grad is not None and bool(weights.grad.abs().sum() > 0)) <= (id(weights) in own)
    assert any(weights.grad is not None for weights in moved(trained).parameters())


def test_bad_settings_have_a_sentence() -> None:
    for settings, sentence in (
        ({"classes": ("0",)}, "names two or more different stages"),
        ({"classes": ("0", "0")}, "names two or more different stages"),
        ({"widths": (4, 0, 4)}, "numbers of features above 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            TransitionConfig(**settings)
