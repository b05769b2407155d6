"""The loop and the local engine: learning, interruption, accumulation, precision, and numbers that are not finite."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from gen3d.core.errors import Interrupted, UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.normative.vae import VAEConfig
from gen3d.models.run_folder import LOG
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import Batches
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.processes import Processes
from gen3d.train.engine.start import start_engine
from gen3d.train.log import TrainLog, read_log
from gen3d.train.loop import Checkpoints, run_loop
from gen3d.train.optim import OptimConfig
from gen3d.train.tracking.sinks import Tracking

SHAPE = (12, 12, 12)
TWO_PLAYERS = {"adversarial_weight": 0.1, "adversarial_start": 0.2}


class Arrays:
    """Volumes in memory as a source."""

    channels = ("t1w",)

    def __init__(self, num_volumes: int = 5) -> None:
        rng = np.random.default_rng(0)
        noise = gaussian_filter(rng.standard_normal((num_volumes, 1, *SHAPE)), (0, 0, 2, 2, 2))
        self.volumes = (0.5 + 0.2 * noise / noise.std()).astype(np.float32)
        self.subjects = [f"p{index}" for index in range(num_volumes)]

    def load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.volumes[rows]

    def conditions(self, rows: NDArray[np.int64]) -> None:
        return None

    def labels(self, rows: np.ndarray) -> None:
        return None


def train(
    folder: Path,
    steps: int = 12,
    source: Arrays | None = None,
    model: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    paint: Callable[[nn.Module, Path], None] | None = None,
    picture_every: int = 5,
    small_vae: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Train a small VAE with every random part switched on; returns the exported weights."""
    source = source or Arrays()
    settings = {"base_channels": 8, "max_channels": 8, "levels": 2, "latent_size": 6, "critic_channels": 4}
    config = VAEConfig(**{**settings, **(model or {})})
    updates = OptimConfig(**{"steps": steps, "batch_size": 2, "ema_decay": 0.9, **(optim or {})})
    where = EngineConfig(**{"precision": "fp32", "checkpoint_every": 4, "device": "cpu", **(engine or {})})
    plan = GridPlan(spacing_mm=4.0, shape=SHAPE, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))
    statistics = Statistics(np.array([0.5], np.float32), np.array([0.2], np.float32), np.ones(SHAPE, bool))
    torch.manual_seed(0)
    checkpoints = Checkpoints(folder / "checkpoint", where.checkpoint_every)
    first_step, state = checkpoints.newest(Processes())
    built = start_engine(
        where, config.task_of(config.build(plan, ("t1w",), statistics, 1), steps), updates, state=state
    )
    rows = np.arange(len(source.subjects))
    augmentation = AugmentConfig(flip=True, intensity=0.05)
    batches = Batches(source, rows, 2, where.parts(2, 1), (0, 0), augmentation, built.device)
    folder.mkdir(parents=True, exist_ok=True)
    log = TrainLog(
        folder,
        member=0,
        num_members=1,
        steps=steps,
        batch_size=2,
        every=2,
        picture_every=picture_every,
        rate_at=updates.rate_at,
        paint=paint,
        tracking=Tracking(),
    )
    try:
        with log:
            run_loop(built, batches, first_step, steps, updates.skip_limit, log, checkpoints)
        return built.export()
    finally:
        batches.close()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def send(number: int) -> Callable[[nn.Module, Path], None]:
    return lambda module, path: signal.raise_signal(number)


@pytest.mark.parametrize("model", [{}, TWO_PLAYERS], ids=["one player", "two players"])
def test_interrupted_and_resumed_equals_never_interrupted(tmp_path: Path, model: dict[str, Any]) -> None:
    straight = train(tmp_path / "straight", model=model)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after step 5 of 12, .* the same command again") as stop:
        train(tmp_path / "torn", model=model, paint=send(signal.SIGTERM), picture_every=5)
    assert stop.value.exit_code == 143
    with pytest.raises(Interrupted, match="stopped by SIGINT after step 7") as stop:
        train(tmp_path / "torn", model=model, paint=send(signal.SIGINT), picture_every=7)
    assert stop.value.exit_code == 130
    resumed = train(tmp_path / "torn", model=model)
    assert same(straight, resumed)
    assert not same(straight, train(tmp_path / "shorter", steps=11, model=model))


def test_a_crash_goes_back_to_the_last_checkpoint_and_the_log_has_no_gap_or_double(tmp_path: Path) -> None:
    def crash(module: nn.Module, path: Path) -> None:
        raise OSError("power cut")

    straight = train(tmp_path / "straight")
    with pytest.raises(OSError, match="power cut"):
        train(tmp_path / "torn", paint=crash, picture_every=7)
    assert same(straight, train(tmp_path / "torn"))
    entries = read_log(tmp_path / "torn" / LOG)
    assert [entry["step"] for entry in entries] == [2, 4, 6, 8, 10, 12]
    assert {"loss", "reconstruction", "kl", "learning_rate", "volumes_per_s", "memory_gib"} <= entries[0].keys()


def test_the_signal_handlers_come_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(tmp_path, steps=1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_it_learns_a_tiny_set_by_heart(tmp_path: Path) -> None:
    train(
        tmp_path,
        steps=150,
        source=Arrays(2),
        model={"base_channels": 16, "max_channels": 16, "beta": 0.01, "bottleneck_channels": 16},
        optim={"learning_rate": 5e-3},
    )
    entries = read_log(tmp_path / LOG)
    assert entries[0]["reconstruction"] == pytest.approx(0.8, abs=0.1)  # E|x| of a standard normal
    assert entries[-1]["reconstruction"] < entries[0]["reconstruction"] / 3


def test_accumulation_does_not_change_the_update(tmp_path: Path) -> None:
    train(tmp_path / "whole", steps=8, model=TWO_PLAYERS)
    train(tmp_path / "parts", steps=8, model=TWO_PLAYERS, engine={"volumes_at_once": 1})
    train(tmp_path / "other", steps=8, model=TWO_PLAYERS, optim={"learning_rate": 9e-4})
    whole, parts, other = (read_log(tmp_path / name / LOG)[-1] for name in ("whole", "parts", "other"))
    for term in ("loss", "reconstruction", "kl", "adversarial", "critic_loss"):
        assert parts[term] == pytest.approx(whole[term], rel=1e-4)
        assert other[term] != pytest.approx(whole[term], rel=1e-4)


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        train(tmp_path / precision, steps=20, engine={"precision": precision})
    logs = [read_log(tmp_path / precision / LOG) for precision in ("fp32", "bf16")]
    for full, half in zip(*logs, strict=True):
        assert half["loss"] == pytest.approx(full["loss"], rel=0.02)
        assert half["loss"] != full["loss"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"engine\.device=cuda, but torch sees no GPU; use engine\.device=cpu"):
        EngineConfig(device="cuda").chosen_device()


def test_a_volume_that_is_not_finite_is_named(tmp_path: Path) -> None:
    source = Arrays(2)
    source.volumes[1, 0, 5, 5, 5] = np.nan
    expected = r"step 0: the model's reconstruction and the model's kl became NaN .* on the subjects p0, p1, after 0 up"
    with pytest.raises(UserError, match=expected):
        train(tmp_path, source=source, optim={"skip_limit": 0})
    assert not (tmp_path / "checkpoint").exists()


def test_a_step_that_is_not_finite_is_skipped_and_the_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Arrays(5)
    source.volumes[3, 0, 5, 5, 5] = np.inf
    weights = train(tmp_path, source=source, model=TWO_PLAYERS, steps=10)
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert "p3; this update was skipped (1 in a row, at most 5)." in capsys.readouterr().err.replace("\n", " ")
    entries = read_log(tmp_path / LOG)
    assert sum(entry.get("skipped", 0) for entry in entries) == 4  # p3 comes four times in 20 volumes of 5 people
    assert all(np.isfinite(entry.get("loss", 0.0)) for entry in entries)


def test_too_many_skipped_steps_in_a_row_end_the_training(tmp_path: Path) -> None:
    source = Arrays(2)
    source.volumes[:] = np.nan
    with pytest.raises(UserError, match=r"step 2: .*after 2 updates in a row that had to be skipped"):
        train(tmp_path, source=source, optim={"skip_limit": 2})


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    source = Arrays(2)
    source.volumes[:] = 1e30
    with pytest.raises(UserError, match=r"became NaN or infinite on the subjects p0, p1"):
        train(tmp_path, source=source, model={"reconstruction": "l2"}, optim={"skip_limit": 0})
