"""Visits of one person against known truth: nobody is favoured, a planted loss is found, and nothing is found in nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.deformation import exponential, log_jacobian, velocity_from_divergence, warp
from gen3d.imaging.person_space import person_space
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.within_person import Midspace, align_visits, log_change, region_log_changes

Floats = NDArray[np.float32]
SIDE, LOSS, NOISE = 32, -0.10, 0.02


@pytest.fixture(scope="module")
def anatomy() -> tuple[Floats, NDArray[np.int16]]:
    """A brain of one voxel type with two bodies in it [32, 32, 32], and their labels: 1 shrinks, 2 stays."""
    places = np.indices((SIDE,) * 3, dtype=np.float32)

    def ball(centre: tuple[int, int, int], radius: float) -> Floats:
        return np.sqrt(sum((p - c) ** 2 for p, c in zip(places, centre, strict=True))) - radius

    brain, first, second = ball((16, 16, 16), 13), ball((11, 16, 16), 4), ball((22, 16, 16), 4)
    smooth = [1 / (1 + np.exp(2 * distance)) for distance in (brain, first, second)]
    image = (1.0 * smooth[0] - 0.4 * smooth[1] - 0.4 * smooth[2]).astype(np.float32)
    return image, (first < 0).astype(np.int16) + 2 * (second < 0).astype(np.int16)


@pytest.fixture(scope="module")
def shrunk(anatomy: tuple[Floats, NDArray[np.int16]]) -> tuple[Floats, float]:
    """The brain after body 1 lost volume, and the true log change of it."""
    image, labels = anatomy
    divergence = ndimage.gaussian_filter((labels == 1).astype(np.float32), 0.8) * np.float32(LOSS * 1.25)
    velocity = velocity_from_divergence(divergence - divergence.mean())
    truth = region_log_changes(log_jacobian(exponential(velocity)), labels, 2)
    return warp(image, exponential(-velocity)), float(truth[0])


def noisy(image: Floats, seed: int) -> Floats:
    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return image + np.float32(NOISE) * noise * (image > 0.05)


def test_a_planted_loss_is_found_where_it_is(
    anatomy: tuple[Floats, NDArray[np.int16]], shrunk: tuple[Floats, float]
) -> None:
    image, labels = anatomy
    later, truth = shrunk
    found = region_log_changes(log_change(noisy(image, 1), noisy(later, 2)), labels, 2)
    assert found[0] == pytest.approx(truth, rel=0.25)
    assert abs(found[1]) < 0.15 * abs(truth)


def test_unchanged_people_stay_unchanged(anatomy: tuple[Floats, NDArray[np.int16]]) -> None:
    image, labels = anatomy
    found = [region_log_changes(log_change(noisy(image, k), noisy(image, 50 + k)), labels, 2) for k in range(6)]
    assert np.abs(np.mean(found)) < 0.006
    assert np.std(found) < 0.02


def test_what_a_scanner_multiplies_is_not_volume(anatomy: tuple[Floats, NDArray[np.int16]]) -> None:
    image, labels = anatomy
    drift = np.exp(0.05 * np.linspace(-1, 1, SIDE, dtype=np.float32))[:, None, None]
    found = region_log_changes(log_change(image, (image * drift).astype(np.float32)), labels, 2)
    assert np.abs(found).max() < 0.012


def test_exchanging_two_visits_inverts_their_change(
    anatomy: tuple[Floats, NDArray[np.int16]], shrunk: tuple[Floats, float]
) -> None:
    earlier, later = noisy(anatomy[0], 1), noisy(shrunk[0], 2)
    there, back = align_visits((earlier, later)), align_visits((later, earlier))
    assert np.array_equal(there.velocities[0], back.velocities[1])
    assert np.array_equal(there.mean, back.mean)
    forward = there.displacement(0, 1)
    undone = there.log_change(0, 1) + warp(back.log_change(0, 1), forward)
    inside = anatomy[0] > 0.1
    assert np.percentile(np.abs(undone[inside]), 99) < 0.02
    assert np.abs(there.log_change(0, 1)[inside]).max() > 0.05


def test_the_order_of_visits_changes_nothing(
    anatomy: tuple[Floats, NDArray[np.int16]], shrunk: tuple[Floats, float]
) -> None:
    visits = [noisy(anatomy[0], 1), noisy(shrunk[0], 2), noisy(anatomy[0], 3)]
    forward, mixed = align_visits(visits), align_visits([visits[k] for k in (2, 0, 1)])
    assert np.abs(forward.velocities[[2, 0, 1]] - mixed.velocities).max() < 1e-5
    assert np.abs(forward.velocities.sum(axis=0)).max() < 1e-5
    assert np.abs(forward.log_jacobians()[[2, 0, 1]] - mixed.log_jacobians()).max() < 1e-4


def test_three_visits_agree_with_each_pair(
    anatomy: tuple[Floats, NDArray[np.int16]], shrunk: tuple[Floats, float]
) -> None:
    space: Midspace = align_visits([anatomy[0], shrunk[0], shrunk[0]])
    direct = region_log_changes(space.log_change(0, 2), anatomy[1], 2)
    assert direct[0] == pytest.approx(shrunk[1], rel=0.25)
    assert np.abs(region_log_changes(space.log_change(1, 2), anatomy[1], 2)).max() < 1e-3


def test_a_region_without_voxels_has_no_change() -> None:
    labels = np.zeros((2, 2, 2), np.int16)
    labels[0] = 2
    change = np.full((2, 2, 2), np.log(0.9), np.float32)
    found = region_log_changes(change, labels, 2)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(np.log(0.9))


def test_one_image_or_two_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more images on one grid"):
        align_visits([np.zeros((4, 4, 4), np.float32)])
    with pytest.raises(ValueError, match="two or more images on one grid"):
        align_visits([np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 5), np.float32)])


def test_labels_follow_the_person() -> None:
    plan = plan_grid(4.0)
    template = template_on(plan)
    shift = warp(template.t1w, np.broadcast_to(np.array([-1, 0, 0], np.float32)[:, None, None, None], (3, *plan.shape)))
    space = person_space(shift, plan)
    labels = template.mask.astype(np.int16) * 7
    moved = space.labels(labels)
    assert set(np.unique(moved)) == {0, 7}
    overlap = lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum())  # noqa: E731
    assert overlap(moved == 7, np.roll(template.mask, 1, axis=0)) > overlap(
        template.mask, np.roll(template.mask, 1, axis=0)
    )
    there_and_back = space.to_template(space.to_scan(template.t1w))
    assert np.corrcoef(there_and_back[template.mask], template.t1w[template.mask])[0, 1] > 0.95
