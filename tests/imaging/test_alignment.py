"""The metric of alignments has the derivative that it claims, and the ascent goes where it leads."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.imaging.affine import BRAIN_CENTRE_MM, Climber, align, coarse_copy
from gen3d.imaging.ascent import AllLinear, Turns, climb
from tests.phantoms import distance_mm, matrix, scan_of

TRUE = matrix()


def moved(linear_change: np.ndarray, shift_mm: np.ndarray) -> np.ndarray:
    """The true matrix with another linear part, changed about the brain's centre, which then goes elsewhere."""
    result = TRUE.copy()
    result[:3, :3] += linear_change
    result[:3, 3] += shift_mm - linear_change @ BRAIN_CENTRE_MM
    return result


@pytest.fixture(scope="module")
def climber() -> Climber:
    scan = scan_of(TRUE)
    return Climber(scan, coarse_copy(scan), margin_mm=12.0)


def test_the_derivative_is_that_of_the_information(climber: Climber) -> None:
    metric, here = (
        climber._metric(climber.scan.data, climber.scan.affine, 2.0, every=7),
        (0.03, np.array([3.0, -2.0, 1.0])),
    )
    start = moved(here[0] * np.eye(3), here[1])
    information, gradient = metric(start)
    assert 0 < information < metric(TRUE)[0]
    for row in range(3):
        for column in range(4):
            step = 2e-3 if column < 3 else 0.1
            change, shift = np.zeros((3, 3)), np.zeros(3)
            if column < 3:
                change[row, column] = step
            else:
                shift[row] = step
            up, down = (
                metric(moved(here[0] * np.eye(3) + sign * change, here[1] + sign * shift))[0] for sign in (1, -1)
            )
            scale = np.abs(gradient[:, :3] if column < 3 else gradient[:, 3]).max()
            assert (up - down) / (2 * step) == pytest.approx(gradient[row, column], abs=0.1 * scale)


def test_a_scan_out_of_sight_has_no_information(climber: Climber) -> None:
    far = moved(np.zeros((3, 3)), np.array([1000.0, 0.0, 0.0]))
    information, gradient = climber._coarse(far)
    assert information == 0
    assert not gradient.any()
    assert np.array_equal(climb(climber._coarse, far, AllLinear(), 4.0, 0.1, 20), far)


def test_the_ascent_ends_at_the_truth(climber: Climber) -> None:
    start = moved(0.05 * np.eye(3), np.array([6.0, -5.0, 4.0]))
    near = climb(climber._middle, start, AllLinear(), 4.0, 0.05, 100)
    found = climb(climber._fine(scale=0.92), near, AllLinear(), 1.0, 0.01, 100)
    assert distance_mm(found, TRUE) < 0.05 < distance_mm(near, TRUE) < 0.5 < distance_mm(start, TRUE)


@pytest.mark.parametrize("spacing_mm", [1.5, 2.0, 3.0])
def test_no_brain_looks_larger_because_its_voxels_are_large(spacing_mm: float) -> None:
    """Compared at different blurs, the volume was 0.7 % off at 2 mm and 1.3 % at 3 mm."""
    found = align(scan_of(TRUE, spacing_mm), whole_head=False).template_to_scan
    assert distance_mm(found, TRUE) < 0.06
    assert np.linalg.det(found[:3, :3]) == pytest.approx(np.linalg.det(TRUE[:3, :3]), rel=0.003)


@pytest.mark.parametrize("scaled", [True, False])
def test_turns_keep_right_angles(scaled: bool) -> None:
    rng = np.random.default_rng(0)
    linear = Turns(scaled).change(np.eye(3), rng.normal(0, 10, 7 if scaled else 6))
    gram = linear.T @ linear
    assert np.allclose(gram, gram[0, 0] * np.eye(3), atol=1e-9)
    assert (abs(gram[0, 0] - 1) > 1e-3) == scaled
