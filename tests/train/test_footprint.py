"""The estimated activations against the memory that a real step takes, counted by torch's own profiler."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch.profiler import ProfilerActivity, profile

from gen3d.models.base import BaseModelConfig
from gen3d.models.normative.vae import VAEConfig
from gen3d.models.task import Batch
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.start import start_engine
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.advice import with_changes
from gen3d.train.plan.estimate import Choice, Estimator, StepSettings
from gen3d.train.plan.footprint import LiveBytes, MetaAutocast, activation_bytes
from tests.train.plans import MODELS, NUM_STEPS, task_of

SHAPE = (32, 48, 32)
LOW, HIGH = 0.9, 1.15
"""Bounds of estimate / measurement."""


def measured_peak(config: BaseModelConfig, precision: str) -> int:
    """Most bytes that torch's CPU allocator had given out at once during two steps, from the first weight on."""
    optim = OptimConfig(batch_size=1, steps=NUM_STEPS)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        engine = start_engine(EngineConfig(device="cpu", precision=precision), task_of(config, SHAPE), optim)
        for step in (NUM_STEPS - 2, NUM_STEPS - 1):
            batch = Batch(torch.randn(1, 1, *SHAPE), ("p",), step, (step,))
            for player in engine.task.playing(step):
                losses = engine.forward(batch, player)
                engine.backward(losses, player, 0, 1)
            for player in engine.task.playing(step):
                assert engine.update(player, step)
    live = highest = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_estimate_agrees_with_the_measured_peak(name: str, checkpointing: bool, precision: str) -> None:
    config = with_changes(MODELS[name], {"gradient_checkpointing": checkpointing})
    assert config is not None
    engine = EngineConfig(device="cpu", precision=precision)
    layout = engine.layout(torch.device("cpu"))
    settings = StepSettings(
        precision=engine.chosen_precision(torch.device("cpu")), channels_last=layout is torch.channels_last_3d
    )
    estimator = Estimator(lambda model: task_of(model, SHAPE), OptimConfig(batch_size=1, steps=NUM_STEPS))
    memory = estimator.memory(Choice(config, settings))
    ratio = (memory.total - memory.allowance) / measured_peak(config, precision)
    assert LOW < ratio < HIGH, f"estimate / measured = {ratio:.3f}"


def test_storage_is_counted_from_birth_to_death() -> None:
    kilobyte = 256  # float32 values
    weight = torch.zeros(kilobyte)
    with LiveBytes("cpu", [weight]) as live:
        first = weight + 1  # 1 KiB
        view = first[:10]  # nothing new
        second = torch.ones(kilobyte).mul_(2)  # 1 KiB, changed in place
        del first
        third = view + 1  # 40 bytes; the first lives on in its view
        del view
        fourth = torch.ones(2 * kilobyte)  # 2 KiB, when the first is gone
    assert live.peak() == 1024 + 40 + 2048
    assert live.peak(without=[fourth]) == 2 * 1024 + 40
    del second, third


def small(**settings: object) -> VAEConfig:
    return VAEConfig(base_channels=8, levels=2, latent_size=4, stem=1, **settings)


def activations(
    config: VAEConfig, shape: tuple[int, int, int], count: int, device: str = "cpu", wide: bool = True
) -> int:
    with torch.device("meta"):
        task = task_of(config, shape)
    return activation_bytes(task, count, 0, torch.float32 if wide else torch.bfloat16, device, False)


def test_activations_grow_with_batch_and_volume_and_shrink_with_checkpointing() -> None:
    one = activations(small(), (16, 16, 16), 1)
    assert activations(small(), (16, 16, 16), 3) == pytest.approx(3 * one, rel=0.1)
    assert activations(small(), (32, 16, 16), 1) == pytest.approx(2 * one, rel=0.1)
    assert activations(small(), (16, 16, 16), 1, wide=False) < 0.75 * one
    assert activations(small(gradient_checkpointing=True), (16, 16, 16), 1) < 0.8 * one


def test_on_gpus_bfloat16_saves_less_because_normalisation_stays_in_float32() -> None:
    on_cpu, on_gpu = (activations(small(), (16, 16, 16), 1, device, wide=False) for device in ("cpu", "cuda"))
    assert on_cpu < on_gpu < activations(small(), (16, 16, 16), 1)


def test_the_estimate_leaves_the_task_as_it_was() -> None:
    with torch.device("meta"):
        task = task_of(small(adversarial_weight=0.1, critic_layers=1), (16, 16, 16))
    first = activation_bytes(task, 1, NUM_STEPS - 1, torch.bfloat16, "cuda", True)
    assert all(parameter.grad is None for parameter in task.parameters())
    assert activation_bytes(task, 1, NUM_STEPS - 1, torch.bfloat16, "cuda", True) == first


def test_rules_of_autocast_are_those_of_the_real_one() -> None:
    def types(device: str) -> list[torch.dtype]:
        volume = torch.zeros(1, 4, 4, 4, 4, device=device)
        kernel, square = torch.zeros(4, 4, 3, 3, 3, device=device), torch.zeros(4, 4, device=device)
        low = functional.conv3d(volume, kernel, padding=1)
        vector = functional.linear(volume.flatten(0, 3), square)
        results = [
            low,
            functional.conv_transpose3d(low, kernel),
            vector,
            functional.silu(low),
            functional.group_norm(low, 2, torch.ones(4, device=device), torch.zeros(4, device=device)),
            functional.instance_norm(low),
            functional.interpolate(low, scale_factor=2.0, mode="nearest"),
            functional.leaky_relu(low),
            low.sum(),
            low.exp(),
            low + volume,
            torch.cat([low, volume]),
            torch.matmul(vector, square),
        ]
        return [result.dtype for result in results]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        real = types("cpu")
    with MetaAutocast("cpu"):
        assert types("meta") == real
