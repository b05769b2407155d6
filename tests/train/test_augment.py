"""Augmentation: seeded per volume, left and right swapped, measurements left alone."""

from __future__ import annotations

import torch

from gen3d.models.task import Batch
from gen3d.train.augment import AugmentConfig, augment

CHANNELS = ("t1w", "log_jacobian")


def batch(num_volumes: int = 16) -> Batch:
    volumes = 0.2 + 0.8 * torch.rand(num_volumes, 2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    return Batch(volumes, ("a",) * num_volumes, 0, tuple(range(num_volumes)))


def test_off_by_default() -> None:
    given = batch()
    assert augment(given, CHANNELS, AugmentConfig()) is given


def test_flip_mirrors_x_in_about_half_of_the_volumes() -> None:
    given = batch()
    changed = augment(given, CHANNELS, AugmentConfig(flip=True)).volumes
    mirrored = [torch.equal(new, old.flip(1)) for new, old in zip(changed, given.volumes, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(changed, given.volumes, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 3 <= sum(mirrored) <= 13


def test_intensity_changes_t1w_monotonically_and_never_the_log_jacobian() -> None:
    given = batch(4)
    changed = augment(given, CHANNELS, AugmentConfig(intensity=0.1)).volumes
    assert torch.equal(changed[:, 1], given.volumes[:, 1])
    for new, old in zip(changed[:, 0], given.volumes[:, 0], strict=True):
        assert not torch.equal(new, old)
        assert torch.equal(new.flatten().argsort(), old.flatten().argsort())
        assert (new / old).log().abs().max() < 0.8


def test_the_same_volume_gets_the_same_change_in_any_batch() -> None:
    given, config = batch(4), AugmentConfig(flip=True, intensity=0.1)
    last = Batch(given.volumes[3:], ("a",), 0, given.seeds[3:])
    assert torch.equal(augment(given, CHANNELS, config).volumes[3:], augment(last, CHANNELS, config).volumes)
