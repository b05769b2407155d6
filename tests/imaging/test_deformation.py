"""Deformations against closed forms and prescribed volumes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.imaging import deformation

SHAPE = (40, 44, 40)
GRID = deformation.identity_grid(SHAPE)


def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    return ((GRID - np.array(centre)[:, None, None, None]) ** 2).sum(axis=0) < radius**2


HEAD = ball((20, 22, 20), 18)
SHELL = HEAD & ~ball((20, 22, 20), 15)
LABELS = np.zeros(SHAPE, np.int16)
for number, (place, size) in enumerate((((12, 22, 18), 4), ((28, 22, 18), 4), ((20, 24, 26), 4)), start=1):
    LABELS[ball(place, size)] = number
FLUID = SHELL.astype(np.float32)


@pytest.mark.parametrize("change", [-0.12, -0.24, -0.40, 0.35])
def test_volumes_of_several_regions_are_met_and_nothing_folds(change: float) -> None:
    targets = {1: np.log1p(change), 2: np.log1p(change / 2), 3: 0.0}
    found = deformation.reach_volumes(LABELS, targets, FLUID)
    determinant = deformation.jacobian_determinant(found.displacement)
    assert determinant.min() > 0
    for label, log_change in targets.items():
        measured = determinant[label == LABELS].mean() - 1
        assert measured == pytest.approx(np.expm1(log_change), abs=0.01)
    np.testing.assert_allclose(found.log_jacobian, np.log(determinant), atol=1e-6)


def test_volume_is_exchanged_with_the_fluid_and_the_rest_keeps_its_volume() -> None:
    found = deformation.reach_volumes(LABELS, {1: np.log(0.7)}, FLUID)
    determinant = np.exp(found.log_jacobian)
    around = ball((12, 22, 18), 7)
    lost = (determinant - 1)[around & ~SHELL].sum()
    gained = (determinant - 1)[SHELL].sum()
    assert gained == pytest.approx(-lost, rel=0.1)
    elsewhere = HEAD & ~SHELL & ~around
    assert np.percentile(np.abs(determinant[elsewhere] - 1), 95) < 0.01


def test_targets_hold_for_the_volumes_of_a_person_whose_anatomy_comes_afterwards() -> None:
    anatomy = deformation.exponential(deformation.random_velocity(SHAPE, 4, 0.7, np.random.default_rng(3), HEAD))
    found = deformation.reach_volumes(LABELS, {1: np.log(0.8), 2: np.log(1.1)}, FLUID, after=anatomy, tolerance=0.003)
    with_change = deformation.jacobian_determinant(deformation.compose(anatomy, found.displacement))
    without = deformation.jacobian_determinant(anatomy)
    for label, ratio in ((1, 0.8), (2, 1.1)):
        measured = with_change[label == LABELS].sum() / without[label == LABELS].sum()
        assert measured == pytest.approx(ratio, abs=0.01)


def test_an_unreachable_or_missing_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"regions \[9\] have no voxel"):
        deformation.reach_volumes(LABELS, {9: -0.1}, FLUID)
    with pytest.raises(ValueError, match="too large"):
        deformation.reach_volumes(LABELS, {1: np.log(40.0)}, FLUID, max_iterations=4)
    with pytest.raises(ValueError, match="take up"):
        deformation.reach_volumes(LABELS, {1: -0.1}, np.zeros(SHAPE, np.float32))


def test_exponential_of_a_linear_velocity_is_a_known_scaling() -> None:
    rate = 0.1
    velocity = (rate * (GRID - 20)).astype(np.float32)
    displacement = deformation.exponential(velocity)
    inner = (slice(None), slice(10, 30), slice(10, 30), slice(10, 30))
    expected = (np.expm1(rate) * (GRID - 20))[inner]
    np.testing.assert_allclose(displacement[inner], expected, atol=0.03)
    log_jacobian = deformation.log_jacobian(displacement)[12:28, 12:28, 12:28]
    np.testing.assert_allclose(log_jacobian, 3 * rate, atol=0.01)


def test_exponentials_of_opposite_velocities_undo_each_other() -> None:
    velocity = deformation.random_velocity(SHAPE, 5, 0.6, np.random.default_rng(0), HEAD)
    forward, backward = deformation.exponential(velocity), deformation.exponential(-velocity)
    there_and_back = deformation.compose(backward, forward)[:, HEAD]
    assert np.abs(forward[:, HEAD]).max() > 1
    assert np.abs(there_and_back).mean() < 0.02
    refined = deformation.invert(forward, backward)
    assert np.abs(deformation.compose(forward, refined)[:, HEAD]).max() < 0.02


def test_velocity_has_the_divergence_it_was_asked_for_and_no_curl() -> None:
    x, y, z = (2 * np.pi * GRID[axis] / SHAPE[axis] for axis in range(3))
    divergence = (np.sin(x) * np.cos(2 * y) * np.cos(z)).astype(np.float32)
    velocity = deformation.velocity_from_divergence(divergence)
    slopes = [[np.gradient(velocity[component], axis=axis) for axis in range(3)] for component in range(3)]
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(sum(slopes[a][a] for a in range(3))[inner], divergence[inner], atol=0.03)
    np.testing.assert_allclose(slopes[0][1][inner], slopes[1][0][inner], atol=0.03)


def test_the_affine_part_of_random_anatomy_is_gone() -> None:
    field = deformation.random_velocity(SHAPE, 6, 1.0, np.random.default_rng(1), HEAD)
    assert field[:, HEAD].std() == pytest.approx(1.0, rel=1e-3)
    moved = deformation.remove_affine((field + 0.3 * GRID + 2).astype(np.float32), HEAD)
    np.testing.assert_allclose(moved[:, HEAD], field[:, HEAD], atol=1e-3)


def test_folding_is_an_error() -> None:
    folded = np.zeros((3, *SHAPE), np.float32)
    folded[0] = -1.5 * (GRID[0] - 20)
    with pytest.raises(ValueError, match="folds"):
        deformation.log_jacobian(folded)


def test_labels_follow_a_translation() -> None:
    displacement = np.zeros((3, *SHAPE), np.float32)
    displacement[0] = 3
    moved = deformation.warp(LABELS, displacement, order=0)
    assert moved.dtype == LABELS.dtype
    np.testing.assert_array_equal(moved[:-3], LABELS[3:])
