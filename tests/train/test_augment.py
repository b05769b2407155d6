"""Augmentation: seeded per volume, left and right swapped, measurements left alone."""

from __future__ import annotations

import pytest
import torch

from gen3d.models.task import Batch
from gen3d.train.augment import SCANNER, AugmentConfig, augment
from gen3d.train.augment_torchio import CHANGES, scanned

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


SHAPE = (16, 19, 14)
ALL = {"motion": 4.0, "blur": 1.0, "bias_field": 0.3, "noise": 0.05, "gamma": 0.2}


def brains(num_volumes: int = 3) -> Batch:
    """Smooth bright blobs in a background of 0, with a log-Jacobian channel."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.7
    texture = 0.6 + 0.4 * torch.rand(num_volumes, *SHAPE, generator=torch.Generator().manual_seed(1))
    t1w = torch.where(inside, texture, 0.0)
    return Batch(torch.stack([t1w, 0.1 * texture], 1), ("a",) * num_volumes, 0, tuple(range(100, 100 + num_volumes)))


@pytest.mark.parametrize("name", SCANNER)
def test_each_change_of_the_scanner_touches_the_brain_alone(name: str) -> None:
    given = brains()
    changed = augment(given, CHANNELS, AugmentConfig(**{name: ALL[name]})).volumes
    assert torch.equal(changed[:, 1], given.volumes[:, 1])
    background = given.volumes[:, 0] == 0
    assert torch.equal(changed[:, 0][background], given.volumes[:, 0][background])
    difference = (changed - given.volumes)[:, 0].flatten(1).std(1)
    assert (difference > 0).all()
    assert (difference < 0.3).all()
    assert len(set(difference.tolist())) == len(difference)


def test_noise_has_the_strength_that_was_drawn() -> None:
    given = brains(1)
    inside = given.volumes[0, 0] > 0
    strengths = []
    for seed in range(60):
        batch_of = Batch(given.volumes, ("a",), 0, (seed,))
        added = augment(batch_of, CHANNELS, AugmentConfig(noise=0.1)).volumes[0, 0] - given.volumes[0, 0]
        strengths.append(float(added[inside].std()))
    assert 0 < min(strengths) < 0.02
    assert 0.085 < max(strengths) < 0.11


def test_gamma_keeps_the_order_of_intensities_and_blur_takes_away_detail() -> None:
    given = brains(1).volumes[0, 0]
    raised = scanned(given, {"gamma": 0.5}, 1.0, 5)
    assert torch.equal(raised.flatten().argsort(stable=True), given.flatten().argsort(stable=True))
    assert not torch.equal(raised, given)
    blurred = scanned(given, {"blur": 2.0}, 1.0, 5)
    assert blurred.diff(dim=0).square().sum() < given.diff(dim=0).square().sum()


def test_a_volume_meets_the_same_scanner_in_any_batch_and_leaves_torch_alone() -> None:
    given, config = brains(), AugmentConfig(flip=True, intensity=0.05, **ALL)
    state = torch.random.get_rng_state()
    together = augment(given, CHANNELS, config).volumes
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    alone = Batch(given.volumes[2:], ("a",), 9, given.seeds[2:])
    assert torch.equal(augment(alone, CHANNELS, config).volumes[0], together[2])


def test_one_change_does_not_move_another() -> None:
    given = brains(1).volumes[0, 0]
    noisy = scanned(given, {"noise": 0.1}, 1.0, 3) - given
    inside = given > 0
    both = scanned(given, {"noise": 0.1, "bias_field": 0.2}, 1.0, 3) - scanned(given, {"bias_field": 0.2}, 1.0, 3)
    torch.testing.assert_close(both[inside], noisy[inside], rtol=1e-4, atol=1e-5)


def test_share_is_the_share_of_changed_volumes() -> None:
    given = brains(1).volumes[0, 0]
    changed = [not torch.equal(scanned(given, {"gamma": 0.2}, 0.3, seed), given) for seed in range(200)]
    assert 40 < sum(changed) < 80


def test_what_changes_scans_is_known() -> None:
    assert AugmentConfig(flip=True).of_scans == ()
    assert AugmentConfig(blur=1.0, noise=0.1).of_scans == ("blur", "noise")
    assert not AugmentConfig().changes
    assert tuple(CHANGES) == SCANNER
