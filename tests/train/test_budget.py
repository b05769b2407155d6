"""The plan of a training step: numbers that can be counted, advice that holds, and lines that a terminal can show."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gen3d.core.errors import UserError
from gen3d.models.base import BaseModelConfig
from gen3d.models.normative.restorer import RestorerConfig
from gen3d.models.normative.vae import VAEConfig
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.advice import room_left, with_changes
from gen3d.train.plan.budget import StepPlan, plan_step
from gen3d.train.plan.estimate import GIB, Choice, Estimator, StepSettings, planned_device, planned_precision
from gen3d.train.plan.layout import Level, layout_of
from gen3d.train.plan.roofline import BANDWIDTH_SHARE, PEAK_SHARE, TOUCHES, Gpu, Work, work_of
from tests.train.plans import task_of

SHAPE = (32, 40, 32)
VAE = VAEConfig(base_channels=16, levels=2, latent_size=4)
ADVERSARIAL = VAEConfig(base_channels=16, levels=2, latent="spatial", adversarial_weight=0.1)
GPU = {"device": "cuda", "precision": torch.bfloat16, "channels_last": True}


def plan(model: BaseModelConfig = VAE, batch_size: int = 8, num_scans: int = 100, **settings: Any) -> StepPlan:
    optim = OptimConfig(batch_size=batch_size, steps=1000)
    return plan_step(model, lambda config: task_of(config, SHAPE), optim, StepSettings(**settings), num_scans)


def total(model: BaseModelConfig, batch_size: int = 8, **settings: Any) -> int:
    """Memory of a step in bytes."""
    estimator = Estimator(lambda config: task_of(config, SHAPE), OptimConfig(batch_size=batch_size, steps=1000))
    return estimator.memory(Choice(model, StepSettings(**settings))).total


def test_parameters_steps_and_parts_are_counted() -> None:
    made = plan(ADVERSARIAL, num_scans=100, num_processes=2, volumes_at_once=2)
    task = task_of(ADVERSARIAL, SHAPE)
    counted = {player: sum(p.numel() for p in task.weights(player).parameters()) for player in task.players}
    assert made.parameters == counted
    assert (made.num_parts, made.steps_per_epoch) == (2, 12.5)
    assert made.memory.held.gradients == 4 * sum(counted.values())
    assert made.memory.held.average == 4 * counted["model"]
    assert set(made.stages) == {0, 1, 2}, "two players cannot have stage 3"
    assert set(plan().stages) == {0, 1, 2, 3}


def test_shapes_of_every_level() -> None:
    with torch.device("meta"):
        even = {"base_channels": 16, "max_channels": 16, "levels": 2}
        dense = layout_of(task_of(VAEConfig(**even, latent_size=4), SHAPE))
        spatial = layout_of(task_of(VAEConfig(**even, latent="spatial", latent_channels=4), SHAPE))
        unet = layout_of(task_of(RestorerConfig(base_channels=16, levels=2, stem=1), SHAPE))
    assert dense.volume == (1, *SHAPE)
    assert (dense.latent, spatial.latent) == ((4,), (4, 8, 10, 8))
    assert dense.levels == (Level((16, 20, 16), 16, 16), Level((8, 10, 8), 16, 16))
    assert unet.latent == ()
    assert unet.levels == (Level(SHAPE, 16, 16), Level((16, 20, 16), 32, 0))


def test_what_fits_is_left_as_it_is() -> None:
    made = plan(memory_gib=20.0)
    assert made.fits is True
    assert made.advice == ()
    assert any(line.startswith("fits      yes") for line in made.sentences())


def test_a_batch_in_parts_is_the_first_knob() -> None:
    needed = total(VAE, volumes_at_once=2)
    made = plan(memory_gib=needed / GIB)
    assert made.fits is False
    assert made.advice == ("engine.volumes_at_once=2",)
    assert not made.changes_result


def test_then_gradient_checkpointing_and_bfloat16() -> None:
    one = StepSettings(volumes_at_once=1)
    checkpointed = with_changes(VAE, {"gradient_checkpointing": True})
    assert checkpointed is not None
    needed = total(checkpointed, volumes_at_once=one.volumes_at_once)
    assert needed < total(VAE, volumes_at_once=1)
    made = plan(memory_gib=needed / GIB)
    assert made.advice == ("engine.volumes_at_once=1", "model.gradient_checkpointing=true")
    low = total(checkpointed, volumes_at_once=1, precision=torch.bfloat16)
    made = plan(memory_gib=low / GIB)
    assert made.advice == ("engine.volumes_at_once=1", "engine.precision=bf16", "model.gradient_checkpointing=true")


def test_what_is_advised_fits_when_it_is_typed() -> None:
    least = total(VAE, num_processes=2, volumes_at_once=1, **GPU)
    limit = (0.5 * least + 0.5 * total(VAE, num_processes=2, **GPU)) / GIB
    made = plan(memory_gib=limit, num_processes=2, zero=0, **GPU)
    assert made.advice
    keys = dict(item.split("=") for item in made.advice)
    model = with_changes(VAE, {"gradient_checkpointing": keys.get("model.gradient_checkpointing") == "true"})
    assert model is not None
    typed = {"zero": int(keys.get("engine.zero", 0)), "volumes_at_once": int(keys.get("engine.volumes_at_once", 0))}
    processes = int(keys.get("engine.processes", 2))
    assert plan(model, memory_gib=limit, num_processes=processes, **GPU, **typed).fits


def test_states_that_are_too_large_are_split_over_the_processes() -> None:
    wide = VAEConfig(base_channels=64, max_channels=256, levels=3, latent_size=4)
    least = plan(wide, batch_size=8, num_processes=8, zero=1, **GPU)
    made = plan(wide, batch_size=8, num_processes=8, zero=0, memory_gib=least.memory.total / GIB, **GPU)
    assert made.advice == ("engine.zero=1",)


def test_another_model_is_the_last_resort_and_said_to_be_one() -> None:
    fine = VAEConfig(base_channels=16, levels=2, latent_size=4, stem=1)
    smallest = with_changes(fine, {"gradient_checkpointing": True})
    assert smallest is not None
    limit = 0.99 * total(smallest, batch_size=1, precision=torch.bfloat16)
    made = plan(fine, batch_size=1, memory_gib=limit / GIB, precision=torch.bfloat16)
    assert made.changes_result
    assert made.advice is not None
    assert "model.stem=2" in made.advice
    assert any("results differ" in line for line in made.sentences())


def test_nothing_fits_next_to_nothing() -> None:
    made = plan(memory_gib=0.1)
    assert made.fits is False
    assert made.advice is None
    assert "larger spacing_mm" in "\n".join(made.sentences())


def test_room_is_used_for_speed() -> None:
    slow = with_changes(VAE, {"gradient_checkpointing": True})
    assert slow is not None
    estimator = Estimator(lambda config: task_of(config, SHAPE), OptimConfig(batch_size=8, steps=10))
    choice = Choice(slow, StepSettings(volumes_at_once=1))
    assert room_left(estimator, choice, 10 * GIB) == (
        "engine.volumes_at_once=8",
        "model.gradient_checkpointing=false",
    )
    assert room_left(estimator, choice, estimator.memory(choice).total) == ()


def test_gpus_that_are_not_here_are_planned_by_their_sizes() -> None:
    assert planned_device("auto", 32, 1) == "cuda"
    assert planned_device("cpu", 32, 1) == "cpu"
    if not torch.cuda.is_available():
        assert planned_device("auto", 1, 1) == "cpu"
        assert planned_precision("auto", "cuda") is torch.bfloat16
        assert planned_precision("fp32", "cuda") is torch.float32
        made = plan(num_processes=4, zero=1, **GPU)
        assert made.limit is None
        assert made.fits is None
    assert set(plan().cards.values()) == {()}


@pytest.mark.parametrize("settings", [{"num_processes": 3}, {"num_processes": 2, "volumes_at_once": 3}])
def test_a_batch_that_cannot_be_shared_out_is_a_sentence(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"cannot be shared out|does not divide"):
        plan(**settings)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (VAE, {}),
        (VAE, {"memory_gib": 0.1}),
        (ADVERSARIAL, {"memory_gib": 0.76}),
        (ADVERSARIAL, {"num_processes": 8, "zero": 1, **GPU}),
        (RestorerConfig(base_channels=16, levels=2), {"num_processes": 2, "volumes_at_once": 2, "zero": 3}),
    ],
)
def test_the_lines_fit_a_terminal(model: BaseModelConfig, settings: dict[str, Any]) -> None:
    lines = plan(model, **settings).sentences()
    assert len(lines) < 32
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    assert not any(line != line.rstrip() or "\n" in line for line in lines)
    assert lines[0].startswith(f"network   {model.kind}")  # type: ignore[attr-defined]


def test_arithmetic_of_a_volume_grows_with_its_voxels_and_with_recomputation() -> None:
    def operations(shape: tuple[int, int, int], **settings: bool) -> float:
        with torch.device("meta"):
            return work_of(
                task_of(VAEConfig(base_channels=16, levels=2, latent="spatial", **settings), shape), 0
            ).operations

    once = operations((16, 16, 16))
    assert operations((32, 16, 16)) == pytest.approx(2 * once, rel=0.05)
    # Three passes instead of two backward ones and one forward: at most a third more, less what is not recomputed.
    assert 1.1 * once < operations((16, 16, 16), gradient_checkpointing=True) < 1.34 * once


def test_time_is_arithmetic_and_traffic_at_their_shares() -> None:
    gpu = Gpu("round", peak_tflops=100.0, memory_gb_s=1000.0)
    assert Work(PEAK_SHARE * 2e14, 0.0).seconds_on(gpu) == pytest.approx(2.0)
    assert Work(0.0, BANDWIDTH_SHARE * 5e12 / TOUCHES).seconds_on(gpu) == pytest.approx(5.0)
