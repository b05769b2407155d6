"""The plan of a training step: numbers that can be counted, advice that holds, and lines that a terminal can show."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gen3d.core.errors import UserError
from gen3d.models.base import BaseModelConfig
from gen3d.models.normative.restorer import RestorerConfig
from gen3d.models.normative.vae import VAEConfig
from gen3d.train.engine.config import EngineConfig
from gen3d.train.optim import OptimConfig
from gen3d.train.plan import advice
from gen3d.train.plan import plan as plan_module
from gen3d.train.plan.memory import GIB, MemoryEstimator, StepSettings, step_flops
from gen3d.train.plan.plan import StepPlan, plan_step, step_settings
from tests.train.plans import task_of

SHAPE = (32, 40, 32)
VAE = VAEConfig(base_channels=16, levels=2, latent_size=4)
CHECKPOINTED = VAEConfig(base_channels=16, levels=2, latent_size=4, gradient_checkpointing=True)
ADVERSARIAL = VAEConfig(base_channels=16, levels=2, latent="spatial", adversarial_weight=0.1)
GPU = {"device": "cuda", "precision": torch.bfloat16, "channels_last": True}


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bfloat16 arithmetic, whatever this one has: what is advised depends on it."""
    for module in (advice, plan_module):
        monkeypatch.setattr(module, "computes_bfloat16", lambda device: True)


def settings(model: BaseModelConfig = VAE, batch_size: int = 8, **changes: Any) -> StepSettings:
    return StepSettings(model, OptimConfig(batch_size=batch_size, steps=1000), **changes)


def plan(step: StepSettings, limit: float = 0.0) -> StepPlan:
    """The plan of a step for a memory of `limit` bytes."""
    return plan_step(step, lambda config: task_of(config, SHAPE), 100, limit / GIB)


def total(step: StepSettings) -> int:
    """Memory of a step in bytes."""
    return MemoryEstimator(lambda config: task_of(config, SHAPE)).memory(step).total


def advised(step: StepSettings, limit: float) -> tuple[str, ...]:
    """The settings that a plan names for a step that does not fit, but fits with them."""
    made = plan(step, limit)
    assert made.fits is False
    assert made.advice is not None
    assert made.advice.total <= limit
    return made.advice.settings


def test_parameters_steps_and_parts_are_counted() -> None:
    made = plan(settings(ADVERSARIAL, num_processes=2, volumes_at_once=2))
    task = task_of(ADVERSARIAL, SHAPE)
    counted = {player: sum(p.numel() for p in task.weights(player).parameters()) for player in task.players}
    assert made.parameters == counted
    assert (made.step.num_parts, made.steps_per_epoch) == (2, 12.5)
    assert made.memory.state.gradients == 4 * sum(counted.values())
    assert made.memory.state.average == 4 * counted["model"]
    assert set(made.stages) == {0, 1, 2}, "two players cannot have stage 3"
    assert set(plan(settings()).stages) == {0, 1, 2, 3}


def test_shapes_of_volume_and_latent() -> None:
    restorer = RestorerConfig(base_channels=16, levels=2)
    spatial = VAEConfig(base_channels=16, levels=2, latent="spatial", latent_channels=4)
    made = [plan(settings(model)) for model in (VAE, spatial, restorer)]
    assert {each.volume_shape for each in made} == {(1, *SHAPE)}
    assert [each.latent_shape for each in made] == [(4,), (4, 8, 10, 8), ()]


def test_what_fits_is_left_as_it_is() -> None:
    made = plan(settings(), 20 * GIB)
    assert made.fits is True
    assert made.advice is None
    assert made.sentences()[-1].startswith("fits      yes")


def test_fewer_volumes_at_once_are_tried_first_and_no_fewer_than_needed() -> None:
    limit = total(settings(volumes_at_once=2))
    assert advised(settings(), limit) == ("engine.volumes_at_once=2",)


def test_where_bfloat16_is_emulated_it_is_not_advised_and_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (advice, plan_module):
        monkeypatch.setattr(module, "computes_bfloat16", lambda device: False)
    for device, told in (("cpu", False), ("cuda", True)):
        made = plan(settings(device=device), 1.0)
        assert made.advice is not None
        assert ("engine.precision=bf16" in made.advice.settings) is told
    low = settings(volumes_at_once=1, precision=torch.bfloat16)
    assert sum(line.startswith("emulated ") for line in plan(low, 1.0).sentences()) == 1
    assert not any(line.startswith("emulated ") for line in plan(settings(), 1.0).sentences())


def test_then_gradient_checkpointing_and_bfloat16_alone_or_two_together() -> None:
    one = settings(volumes_at_once=1)
    checkpointed, low = settings(CHECKPOINTED, volumes_at_once=1), settings(volumes_at_once=1, precision=torch.bfloat16)
    limits = total(checkpointed), total(low)
    assert limits[1] < limits[0] < total(one)
    assert advised(one, limits[0]) == ("model.gradient_checkpointing=true",)
    assert advised(one, limits[1]) == ("engine.precision=bf16",)
    assert advised(settings(), limits[0]) == ("engine.volumes_at_once=1", "model.gradient_checkpointing=true")
    assert advised(settings(), limits[1]) == ("engine.volumes_at_once=1", "engine.precision=bf16")


def test_what_is_advised_fits_when_it_is_typed() -> None:
    step = settings(num_processes=2, **GPU)
    limit = (total(step) + total(settings(num_processes=2, volumes_at_once=1, **GPU))) / 2
    made = plan(step, limit)
    assert made.advice is not None
    (key, value), *others = (text.split("=") for text in made.advice.settings)
    assert (key, others) == ("engine.volumes_at_once", [])
    typed = plan(settings(num_processes=2, volumes_at_once=int(value), **GPU), limit)
    assert typed.fits
    assert typed.memory.total == made.advice.total


def test_states_that_are_too_large_are_split_over_the_processes() -> None:
    wide = VAEConfig(base_channels=64, max_channels=256, levels=3, latent_size=4)
    limit = total(settings(wide, num_processes=8, zero=1, **GPU))
    assert advised(settings(wide, num_processes=8, zero=0, **GPU), limit) == ("engine.zero=1",)


@pytest.mark.parametrize("model", [VAE, CHECKPOINTED])
def test_what_never_fits_names_the_least_that_is_needed(model: VAEConfig) -> None:
    made = plan(settings(model), 0.1 * GIB)
    least = settings(CHECKPOINTED, volumes_at_once=1, precision=torch.bfloat16)
    assert made.fits is False
    assert made.advice is not None
    assert made.advice.total == total(least) > 0.1 * GIB
    checkpointing = ("model.gradient_checkpointing=true",) if model is VAE else ()
    assert made.advice.settings == ("engine.volumes_at_once=1", *checkpointing, "engine.precision=bf16")
    assert "larger spacing_mm" in made.sentences()[-1]
    assert any("fits      NO" in line for line in made.sentences())


def test_a_step_that_no_setting_makes_smaller() -> None:
    made = plan(settings(CHECKPOINTED, 1, precision=torch.bfloat16), 0.1 * GIB)
    assert made.advice is not None
    assert made.advice.settings == ()
    assert made.advice.total == made.memory.total
    assert "no setting of the engine makes it smaller" in "\n".join(made.sentences())


def test_gpus_that_are_not_here_are_planned_by_their_sizes() -> None:
    optim = OptimConfig(batch_size=32)
    assert step_settings(VAE, optim, EngineConfig(device="auto", processes=32), 1).device == "cuda"
    assert step_settings(VAE, optim, EngineConfig(device="cpu", processes=32), 1).device == "cpu"
    if not torch.cuda.is_available():
        auto, wide = (
            step_settings(VAE, optim, EngineConfig(device="cuda", precision=precision), 1)
            for precision in ("auto", "fp32")
        )
        assert step_settings(VAE, optim, EngineConfig(), 1).device == "cpu"
        assert (auto.precision, wide.precision) == (torch.bfloat16, torch.float32)
        made = plan(settings(num_processes=4, zero=1, **GPU))
        assert made.limit is None
        assert made.fits is None
        assert "GPUs of 24 GiB and more" in made.sentences()[-1]


@pytest.mark.parametrize("engine", [{"processes": 3}, {"processes": 2, "volumes_at_once": 3}])
def test_a_batch_that_cannot_be_shared_out_is_a_sentence(engine: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"cannot be shared out|does not divide"):
        step_settings(VAE, OptimConfig(batch_size=8), EngineConfig(**engine), 1)


@pytest.mark.parametrize(
    ("step", "limit"),
    [
        (settings(), 0.0),
        (settings(), 0.1),
        (settings(), 0.95),
        (settings(ADVERSARIAL), 0.95),
        (settings(ADVERSARIAL, num_processes=8, zero=1, **GPU), 0.0),
        (settings(RestorerConfig(base_channels=16, levels=2), num_processes=2, volumes_at_once=2, zero=3), 0.0),
    ],
)
def test_the_lines_fit_a_terminal(step: StepSettings, limit: float) -> None:
    lines = plan(step, limit * GIB).sentences()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    assert not any(line != line.rstrip() or "\n" in line for line in lines)
    assert lines[0].startswith(f"network   {step.model.kind}")  # type: ignore[attr-defined]
    assert "e+" not in "".join(lines), "plain numbers"
    assert sum(line.startswith("fits ") for line in lines) == 1, "one verdict"


def test_arithmetic_of_a_volume_grows_with_its_voxels_and_with_recomputation() -> None:
    def flops(shape: tuple[int, int, int], **changes: bool) -> int:
        with torch.device("meta"):
            return step_flops(task_of(VAEConfig(base_channels=16, levels=2, latent="spatial", **changes), shape), 0)

    once = flops((16, 16, 16))
    assert flops((32, 16, 16)) == pytest.approx(2 * once, rel=0.05)
    # Three passes instead of two backward ones and one forward: at most a third more, less what is not recomputed.
    assert 1.1 * once < flops((16, 16, 16), gradient_checkpointing=True) < 1.34 * once
