"""The estimated activations against the memory that a real step takes, counted by torch's own profiler."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch.utils.checkpoint import checkpoint

from gen3d.models.normative.vae import VAEConfig
from gen3d.train.engine.config import EngineConfig
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.memory import LiveBytes, MemoryEstimator, MetaAutocast, StepSettings, run_on_meta
from tests.train.measured_peaks import CASES, SHAPE, Case, measured_elsewhere
from tests.train.plans import NUM_STEPS, task_of

pytestmark = pytest.mark.timeout(1200)
"""All peaks are measured before the first test."""

LOW, HIGH = 0.9, 1.15
"""Bounds of estimate / measurement."""


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """Bytes by the name of a case."""
    return measured_elsewhere()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_estimate_agrees_with_the_measured_peak(case: Case, peaks: dict[str, int]) -> None:
    if str(case) not in peaks:
        pytest.skip(
            "this processor has no bfloat16 arithmetic: the plan says that it does not count what emulation takes"
        )
    engine = EngineConfig(device="cpu", precision=case.precision)
    layout = engine.layout(torch.device("cpu"))
    step = StepSettings(
        case.config,
        OptimConfig(batch_size=1, steps=NUM_STEPS),
        precision=engine.chosen_precision(torch.device("cpu")),
        channels_last=layout is torch.channels_last_3d,
    )
    memory = MemoryEstimator(lambda model: task_of(model, SHAPE)).memory(step)
    ratio = (memory.total - memory.allowance) / peaks[str(case)]
    assert LOW < ratio < HIGH, f"estimate / measured = {ratio:.3f}"


def test_storage_is_counted_from_birth_to_death() -> None:
    kilobyte = 256  # float32 values
    weight = torch.zeros(kilobyte, device="meta")
    with LiveBytes([weight]) as live:
        first = weight + 1  # 1 KiB
        view = first[:10]  # nothing new
        second = torch.ones(kilobyte, device="meta").mul_(2)  # 1 KiB, changed in place
        del first
        third = view + 1  # 40 bytes; the first lives on in its view
        assert live.live == live.highest == 2 * 1024 + 40
        del view
        fourth = torch.ones(2 * kilobyte, device="meta")  # 2 KiB, when the first is gone
    assert live.highest == live.live == 1024 + 40 + 2048
    assert live.made == 2 * 1024 + 40 + 2048
    del second, third, fourth
    assert live.live == 0


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_chain_whose_maps_are_known(recomputed: bool) -> None:
    """Each sine keeps what it is given, 1 KiB; of a recomputed block only what it is given is kept."""
    weight = torch.zeros(256, device="meta", requires_grad=True)

    def block(values: torch.Tensor) -> torch.Tensor:
        return values.sin().sin().sin().sin()

    with LiveBytes([weight]) as live:
        values = weight
        for _ in range(2):
            values = checkpoint(block, values, use_reentrant=False) if recomputed else block(values)
        loss = values.sum()
        del values
        forward = live.live
        live.backward(loss)
    assert weight.grad is not None
    # Seven maps between eight sines, or the one between the blocks; and the loss.
    assert forward == (1 if recomputed else 7) * 1024 + 4
    # Then the gradient of a map as well. Recomputing brings the three maps inside a block back, of which each is gone when
    # its gradient is there. The loss has a gradient too.
    assert live.highest == (1 + 3 if recomputed else 7 + 1) * 1024 + 8


def small(**settings: object) -> VAEConfig:
    return VAEConfig(base_channels=8, levels=2, latent_size=4, stem=1, **settings)


def activations(
    config: VAEConfig, shape: tuple[int, int, int], count: int, device: str = "cpu", wide: bool = True
) -> int:
    with torch.device("meta"):
        task = task_of(config, shape)
    optim = OptimConfig(batch_size=count, steps=1)
    precision = torch.float32 if wide else torch.bfloat16
    return run_on_meta(task, StepSettings(config, optim, device=device, precision=precision)).highest


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
    config = small(adversarial_weight=0.1, critic_layers=1)
    with torch.device("meta"):
        task = task_of(config, (16, 16, 16))
    optim = OptimConfig(batch_size=1, steps=NUM_STEPS)
    step = StepSettings(config, optim, "cuda", torch.bfloat16, channels_last=True)
    first = run_on_meta(task, step).highest
    assert all(parameter.grad is None for parameter in task.parameters())
    assert run_on_meta(task, step).highest == first


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
