"""The extractor trained here: its loss, its views, and that it learns to tell people apart, the same each time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d.quality import contrastive
from gen3d.quality.contrastive import SelfTrained, nt_xent, train_features, view

SHAPE = (32, 40, 32)


@pytest.fixture(scope="module")
def mask() -> Tensor:
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[4:28, 5:35, 4:28] = True
    return inside


@pytest.fixture(scope="module")
def people(mask: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((10, 1, 8, 10, 8), generator=generator)
    fields = torch.nn.functional.interpolate(coarse, size=SHAPE, mode="trilinear")[:, 0]
    return (0.7 + 0.1 * fields) * mask


def train(people: Tensor, mask: Tensor, **settings: int) -> contrastive.BrainFeatures:
    def load(rows: NDArray[np.int64]) -> Tensor:
        return people[torch.as_tensor(rows)]

    return train_features(SelfTrained(steps=24, batch_size=8, crop_voxels=24, **settings), load, len(people), mask)


def test_the_loss_of_views_that_say_nothing_is_that_of_guessing() -> None:
    loss, _ = nt_xent(torch.ones(10, 4), 0.2)
    assert float(loss) == pytest.approx(math.log(9), rel=1e-5)


def test_the_loss_of_views_that_find_their_twin() -> None:
    scans = torch.eye(4)
    loss, share = nt_xent(torch.cat([scans, scans]), 0.1)
    assert share == 1
    assert float(loss) == pytest.approx(math.log(1 + 6 * math.exp(-10)), abs=1e-6)
    _, mixed = nt_xent(torch.cat([scans, scans.roll(1, 0)]), 0.1)
    assert mixed == 0


def test_a_view_without_changes_is_a_cube_of_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROTATION_DEGREES", "LOG_SCALE", "SHIFT_VOXELS", "GAIN", "OFFSET", "NOISE"):
        monkeypatch.setattr(contrastive, name, 0.0)
    volumes = torch.rand(2, *SHAPE)
    cube = view(volumes, torch.tensor([12.0, 20.0, 10.0]), 16, torch.Generator())
    assert torch.allclose(cube[:, 0], volumes[:, 4:20, 12:28, 2:18], atol=1e-5)


def test_a_turned_view_of_a_ball_is_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation of an anisotropic grid must not shear: what is round stays round."""
    for name in ("LOG_SCALE", "SHIFT_VOXELS", "GAIN", "OFFSET", "NOISE"):
        monkeypatch.setattr(contrastive, name, 0.0)
    monkeypatch.setattr(contrastive, "ROTATION_DEGREES", 40.0)
    places = torch.stack(torch.meshgrid(*(torch.arange(n) + 0.5 for n in SHAPE), indexing="ij"))
    centre = torch.tensor([16.0, 20.0, 16.0])
    ball = torch.exp(-(places - centre.view(3, 1, 1, 1)).square().sum(0) / (2 * 4.0**2))[None]
    turned = view(ball, centre, 24, torch.Generator().manual_seed(1))[0, 0]
    assert float((turned - ball[0, 4:28, 8:32, 4:28]).abs().max()) < 0.02


def test_people_are_told_apart_and_the_seed_decides_all(people: Tensor, mask: Tensor) -> None:
    first, again, other = (train(people, mask, seed=seed) for seed in (0, 0, 1))
    assert float(first.recognised) > 3 / 15  # one of 15 by chance
    features = [network.features(people, mask)[0] for network in (first, again, other)]
    assert torch.equal(features[0], features[1])
    assert not torch.allclose(features[0], features[2], atol=1e-2)
    assert torch.allclose(features[0][:, 0].mean(0), torch.zeros(first.num_features), atol=1e-3)
