"""The restoration network and the synthetic anomalies it learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.normative.corruption import CorruptionConfig, corrupt
from gen3d.models.normative.restorer import Restorer, RestorerConfig, RestorerTask
from gen3d.models.task import Batch

SHAPE = (16, 20, 16)
VOXEL_ML = 0.064
CHANNELS = ("t1w", "log_jacobian")


def plan_of(shape: tuple[int, int, int] = SHAPE) -> GridPlan:
    rows = tuple(tuple(map(float, row)) for row in np.diag([4, 4, 4, 1]))
    return GridPlan(spacing_mm=4.0, shape=shape, affine=rows)


def brain() -> torch.Tensor:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[2:-2, 2:-2, 2:-2] = True
    return mask


def healthy(num: int = 40) -> Batch:
    volumes = torch.ones(num, 2, *SHAPE) * brain()
    volumes[:, 1] = 0
    return Batch(volumes, ("",) * num, 0, tuple(range(num)))


def build(**settings: object) -> Restorer:
    torch.manual_seed(0)
    scale = np.array([0.5, 0.0], np.float32), np.array([0.2, 0.3], np.float32)
    statistics = Statistics(*scale, brain().numpy(), healthy(1).volumes[0].numpy())
    config = RestorerConfig(base_channels=8, max_channels=8, levels=2, **settings)
    return config.build(plan_of(), CHANNELS, statistics, 1)


def test_corruption_stays_in_the_brain_and_changes_only_what_it_says() -> None:
    batch = healthy()
    corrupted, opacity = corrupt(batch, brain(), CHANNELS, VOXEL_ML, CorruptionConfig())
    changed = (corrupted - batch.volumes).abs() > 0
    assert not changed[:, :, ~brain()].any()
    assert not (changed & (opacity == 0)).any()
    assert float(opacity.max()) <= 1
    assert corrupted[:, 0].min() >= 0
    assert (changed.flatten(2).any(2).float().mean(0) > 0.5).all()  # both channels are corrupted in most volumes
    untouched = ~changed.flatten(1).any(1)
    assert 0 < untouched.float().mean() < 0.5  # some volumes stay healthy, so that the network learns to leave them


def test_corruption_depends_on_the_volumes_own_seed_only() -> None:
    batch = healthy(6)
    together = corrupt(batch, brain(), CHANNELS, VOXEL_ML, CorruptionConfig())[0]
    alone = Batch(batch.volumes[4:5], ("",), 0, (4,))
    assert torch.equal(corrupt(alone, brain(), CHANNELS, VOXEL_ML, CorruptionConfig())[0], together[4:5])


def test_anomalies_have_the_volumes_asked_for() -> None:
    config = CorruptionConfig(most=1, volume_ml=(8, 8))
    opacity = corrupt(healthy(60), torch.ones(SHAPE, dtype=torch.bool), CHANNELS, VOXEL_ML, config)[1]
    sizes = (opacity > 0.5 * opacity.amax((1, 2, 3, 4), keepdim=True)).sum((1, 2, 3, 4)) * VOXEL_ML
    single = sizes[(sizes > 0) & (sizes < 12)]  # twice the volume where there is a mirror image
    assert len(single) > 10
    assert 4 < float(single.median()) < 12


def test_an_untrained_network_expects_the_scan_itself() -> None:
    volumes = torch.rand(2, 2, *SHAPE) * brain()
    assert torch.allclose(build().expect(volumes).mean, volumes, atol=1e-5)


def test_training_takes_anomalies_out_and_leaves_the_rest() -> None:
    model = build()
    task = RestorerTask(model, RestorerConfig(corruption={"most": 2, "volume_ml": (2, 20)}), 10)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    ground = healthy(4).volumes
    for step in range(50):
        batch = Batch(ground, ("",) * 4, step, tuple(range(4 * step, 4 * step + 4)))
        optimiser.zero_grad()
        task(batch, "model")["loss"].backward()
        optimiser.step()
    lesion = ground[:1].clone()
    lesion[:, 0, 6:10, 8:12, 6:10] = 0.3
    restored = model.expect(lesion).mean
    inside = (restored - ground[:1])[:, 0, 6:10, 8:12, 6:10].abs().mean()
    assert inside < 0.2  # of 0.7 that were missing
    assert (model.expect(ground[:1]).mean - ground[:1])[:, :, brain()].abs().mean() < 0.1


def test_the_log_names_what_doing_nothing_would_cost() -> None:
    model = build()
    terms = RestorerTask(model, RestorerConfig(), 10)(healthy(8), "model")
    assert torch.isclose(terms["inside"], terms["damage"])  # untrained: it gives back what it was given
    assert float(terms["damage"]) > 0


def test_bad_settings_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"model.levels=5 with stem=2 shrinks every side 32 times"):
        RestorerConfig(levels=5).check(plan_of(), 20)
    with pytest.raises(ValidationError, match="volume_ml is the smallest and the largest"):
        CorruptionConfig(volume_ml=(5, 1))
    with pytest.raises(ValidationError, match="max_channels must be at least base_channels"):
        RestorerConfig(base_channels=64, max_channels=32)
