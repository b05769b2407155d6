"""Slices: left is left, front is front, up is up; colours mean below and above."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.figures.brain import Cut, DisplaySpace, Overlay, Tile, image_of, lightbox, peak
from gen3d.imaging.plan import plan_grid

PLAN = plan_grid(4.0)


def _ball(centre_mm: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    axes = [PLAN.matrix[a, 3] + 4.0 * np.arange(PLAN.shape[a]) for a in range(3)]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.asarray(sum((g - c) ** 2 for g, c in zip(grid, centre_mm, strict=True)) < radius_mm**2)


SPACE = DisplaySpace(PLAN.matrix, _ball((0, -18, 6), 60))
GREY = 0.6 * SPACE.mask.astype(np.float32)


def _centre(values: NDArray[np.floating], cut: Cut) -> tuple[float, float]:
    """Centre of the coloured pixels as shares of width (from the left) and height (from the top)."""
    picture = image_of(Tile(cut, GREY, Overlay(values, 6, 2)), SPACE)
    coloured = np.ptp(picture, axis=2) > 0.1
    rows, columns = np.nonzero(coloured)
    return float(columns.mean() / picture.shape[1]), float(rows.mean() / picture.shape[0])


@pytest.mark.parametrize(
    ("at_mm", "cut", "side"),
    [
        ((-35, -18, 6), Cut("axial", 6), "left"),
        ((35, -18, 6), Cut("axial", 6), "right"),
        ((0, 20, 6), Cut("axial", 6), "top"),
        ((-35, -18, 6), Cut("coronal", -18), "left"),
        ((0, -18, 45), Cut("coronal", -18), "top"),
        ((0, 20, 6), Cut("sagittal", 0), "right"),
        ((0, -18, -35), Cut("sagittal", 0), "bottom"),
    ],
)
def test_sides(at_mm: tuple[float, float, float], cut: Cut, side: str) -> None:
    across, down = _centre(5.0 * _ball(at_mm, 10), cut)
    found = {"left": across < 0.4, "right": across > 0.6, "top": down < 0.4, "bottom": down > 0.6}
    assert found[side]


def test_below_is_blue_above_is_orange_and_half_the_threshold_is_grey() -> None:
    def colour(value: float) -> NDArray[np.float64]:
        picture = image_of(Tile(Cut("axial", 6), GREY, Overlay(value * SPACE.mask, 6, 2)), SPACE)
        return np.asarray(picture[picture.shape[0] // 2, picture.shape[1] // 2])

    assert colour(-5)[2] > colour(-5)[0] + 0.3
    assert colour(5)[0] > colour(5)[2] + 0.3
    assert np.ptp(colour(0.99)) == pytest.approx(0, abs=1e-9)


def test_outside_the_brain_is_white_and_a_slice_beyond_it_is_empty() -> None:
    picture = image_of(Tile(Cut("axial", 6), GREY), SPACE)
    assert np.all(picture[0, 0] == 1)
    assert np.all(image_of(Tile(Cut("axial", 86), GREY), SPACE) == 1)


def test_peak_is_where_it_was_put() -> None:
    found = peak(-3.0 * _ball((-26, -22, -14), 7), SPACE.mask, SPACE)
    assert np.abs(np.subtract(found, (-26, -22, -14))).max() <= 4.0


def test_the_lightbox_stays_inside_the_brain() -> None:
    for cut in lightbox(SPACE):
        assert (image_of(Tile(cut, GREY), SPACE) < 1).any()
