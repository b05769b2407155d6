"""Training on a GPU: it learns what a CPU learns, a checkpoint holds all of it, and it takes the memory that was planned."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as functional

from gen3d.core.errors import Interrupted
from gen3d.models.base import BaseModelConfig
from gen3d.models.diffusion.latent_diffusion import LatentDiffusionConfig
from gen3d.models.normative.vae import VAEConfig
from gen3d.models.run_folder import LOG
from gen3d.models.task import Batch
from gen3d.train.checkpoint import latest_checkpoint
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.processes import Processes
from gen3d.train.engine.start import start_engine
from gen3d.train.log import read_log
from gen3d.train.loop import STATE, Checkpoints
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.memory import MemoryEstimator, MetaAutocast
from gen3d.train.plan.plan import step_settings
from tests.train.plans import MODELS, NUM_STEPS, task_of
from tests.train.test_loop import TWO_PLAYERS, send, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

GPU = {"device": "cuda"}
SHAPE = (96, 112, 96)
"""Large enough that the maps of a step outweigh what libraries keep."""

LOW, HIGH = 0.75, 1.3
"""Bounds of planned / allocated: wider than on a CPU, because cuDNN takes room for its algorithms as it sees fit."""


def losses_of(folder: Path, **settings: Any) -> list[float]:
    train(folder, **settings)
    return [entry["loss"] for entry in read_log(folder / LOG)]


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a tree of dictionaries by their path."""
    if not isinstance(tree, dict):
        return {name: tree}
    return {path: leaf for key, value in tree.items() for path, leaf in flat(value, f"{name}/{key}").items()}


@pytest.mark.parametrize("model", [{}, TWO_PLAYERS], ids=["one player", "two players"])
def test_a_gpu_learns_what_a_cpu_learns(tmp_path: Path, model: dict[str, Any]) -> None:
    on_cpu = losses_of(tmp_path / "cpu", model=model)
    on_gpu = losses_of(tmp_path / "gpu", model=model, engine=GPU)
    assert on_gpu == pytest.approx(on_cpu, rel=5e-3)  # convolutions of float32 are TF32 on a GPU
    other = losses_of(tmp_path / "other", model=model, engine=GPU, optim={"learning_rate": 5e-3})
    assert other != pytest.approx(on_cpu, rel=5e-3)


def test_autocast_on_a_gpu_stays_near_float32(tmp_path: Path) -> None:
    full, half = (
        losses_of(tmp_path / precision, steps=20, engine={**GPU, "precision": precision})
        for precision in ("fp32", "bf16")
    )
    assert half == pytest.approx(full, rel=0.02)
    assert half != full


@pytest.mark.parametrize("layout", ["on", "off"])
def test_both_layouts_learn_the_same(tmp_path: Path, layout: str) -> None:
    auto = losses_of(tmp_path / "auto", engine=GPU)
    assert losses_of(tmp_path / layout, engine={**GPU, "channels_last": layout}) == pytest.approx(auto, rel=5e-3)


@pytest.mark.parametrize("model", [{}, {**TWO_PLAYERS, "critic_layers": 1}], ids=["one player", "two players"])
def test_a_checkpoint_of_a_gpu_comes_back_to_the_last_bit(tmp_path: Path, model: dict[str, Any]) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, model=model, engine=GPU, paint=send(15), picture_every=7)
    _, held = Checkpoints(tmp_path / "checkpoint", 4).newest(Processes())
    assert held is not None
    whole = flat(dict(held))
    tensors = {name: leaf for name, leaf in whole.items() if isinstance(leaf, torch.Tensor)}
    assert all(leaf.device.type == "cpu" for leaf in tensors.values())
    small = {"base_channels": 8, "max_channels": 8, "levels": 2, "latent_size": 6, "critic_channels": 4}
    task = task_of(VAEConfig(**{**small, **model}), (12, 12, 12))
    optim, where = OptimConfig(steps=12, batch_size=2, ema_decay=0.9), EngineConfig(precision="fp32", device="cuda")
    again = flat(start_engine(where, task, optim, state=held).state())
    assert again.keys() == whole.keys()
    assert [name for name, leaf in tensors.items() if not torch.equal(leaf, again[name])] == []
    assert again["/updates/model"] == 7


@pytest.mark.parametrize(("first", "then"), [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_a_training_goes_on_wherever_it_began(tmp_path: Path, first: str, then: str) -> None:
    straight = losses_of(tmp_path / "straight", model=TWO_PLAYERS)
    with pytest.raises(Interrupted):
        train(tmp_path / "torn", model=TWO_PLAYERS, engine={"device": first}, paint=send(15), picture_every=7)
    assert latest_checkpoint(tmp_path / "torn" / "checkpoint") is not None
    losses = losses_of(tmp_path / "torn", model=TWO_PLAYERS, engine={"device": then})
    # Entry 3 is the mean of steps 7 and 8, of which the second training saw one.
    assert losses[4:] == pytest.approx(straight[4:], rel=5e-3)


def test_a_checkpoint_of_a_gpu_opens_where_there_is_none(tmp_path: Path) -> None:
    train(tmp_path, engine=GPU, steps=5)
    latest = latest_checkpoint(tmp_path / "checkpoint")
    assert latest is not None
    held = torch.load(latest[1] / STATE, weights_only=True)  # without map_location
    assert {leaf.device.type for leaf in flat(held).values() if isinstance(leaf, torch.Tensor)} == {"cpu"}


def test_rules_of_autocast_are_those_of_a_gpu() -> None:
    def types(device: str) -> dict[str, torch.dtype]:
        volume = torch.zeros(1, 4, 4, 4, 4, device=device)
        kernel, square = torch.zeros(4, 4, 3, 3, 3, device=device), torch.zeros(4, 4, device=device)
        low = functional.conv3d(volume, kernel, padding=1)
        vector = functional.linear(volume.flatten(0, 3), square)
        weight, bias = torch.ones(4, device=device), torch.zeros(4, device=device)
        tokens = vector.view(1, 1, -1, 4)
        results = {
            "conv3d": low,
            "conv_transpose3d": functional.conv_transpose3d(low, kernel),
            "linear": vector,
            "silu": functional.silu(low),
            "group_norm": functional.group_norm(low, 2, weight, bias),
            "layer_norm": functional.layer_norm(vector, (4,), weight, bias),
            "instance_norm": functional.instance_norm(low),
            "interpolate": functional.interpolate(low, scale_factor=2.0, mode="nearest"),
            "leaky_relu": functional.leaky_relu(low),
            "avg_pool3d": functional.avg_pool3d(low, 2),
            "sum": low.sum(),
            "exp": low.exp(),
            "log": low.log(),
            "pow": low.pow(2),
            "add": low + volume,
            "cat": torch.cat([low, volume]),
            "matmul": torch.matmul(vector, square),
            "attention": functional.scaled_dot_product_attention(tokens, tokens, tokens),
        }
        return {name: result.dtype for name, result in results.items()}

    with torch.autocast("cuda", dtype=torch.bfloat16):
        real = types("cuda")
    with MetaAutocast("cuda"):
        assert types("meta") == real


def offers(model: BaseModelConfig) -> tuple[bool, ...]:
    """Whether gradient checkpointing can be off, and on."""
    return (False,) if isinstance(model, LatentDiffusionConfig) else (False, True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "checkpointing"), [(name, on) for name, model in MODELS.items() for on in offers(model)]
)
def test_a_step_takes_the_memory_that_was_planned(name: str, checkpointing: bool, precision: str) -> None:
    config = MODELS[name].model_copy(update={"gradient_checkpointing": checkpointing})
    if isinstance(config, LatentDiffusionConfig):
        config = config.model_copy(update={"latent_shape": (3, *SHAPE)})
    optim, where = OptimConfig(batch_size=1, steps=NUM_STEPS), EngineConfig(device="cuda", precision=precision)
    planned = MemoryEstimator(lambda model: task_of(model, SHAPE)).memory(step_settings(config, optim, where, 1))
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine = start_engine(where, task_of(config, SHAPE), optim)
    for step in (NUM_STEPS - 2, NUM_STEPS - 1):
        batch = Batch(torch.randn(1, *engine.task.input_shape).cuda(), ("p",), step, (step,))
        for player in engine.task.playing(step):
            engine.backward(engine.forward(batch, player), player, 0, 1)
        for player in engine.task.playing(step):
            assert engine.update(player, step)
    allocated = torch.cuda.max_memory_allocated() - before
    assert LOW < (planned.total - planned.allowance) / allocated < HIGH
    assert planned.total > torch.cuda.max_memory_reserved(), "a GPU of the planned size would have been too small"
