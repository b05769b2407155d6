"""Likeness of two volumes against plain SSIM, its limits, and intervals over scans."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.similarity import ssim
from gen3d.quality.diversity import MultiScaleSSIM, PairMeans, choose_pairs, num_scales

DATA_RANGE = 1.2


def ball(side: int) -> NDArray[np.bool_]:
    places = np.indices((side, side + 2, side)) - (side - 1) / 2
    return np.asarray((places**2).sum(axis=0) < (0.45 * side) ** 2)


def volume(seed: int, mask: NDArray[np.bool_], smooth: float = 1.0) -> NDArray[np.float32]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(mask.shape), smooth)
    return ((0.6 + 0.2 * noise / noise.std()) * mask).astype(np.float32)


def test_one_scale_is_ssim() -> None:
    mask = ball(20)
    measure = MultiScaleSSIM(mask, DATA_RANGE)
    assert measure.scales == num_scales(mask) == 1
    x = volume(0, mask)
    y = 0.7 * x + 0.3 * volume(1, mask)
    assert measure.pair(measure.prepare(x), measure.prepare(y)) == pytest.approx(ssim(x, y, DATA_RANGE, mask), abs=1e-5)


@pytest.mark.parametrize(("side", "scales"), [(20, 1), (30, 2), (50, 3), (110, 4), (180, 5)])
def test_scales_stop_where_the_window_is_wider_than_the_brain(side: int, scales: int) -> None:
    assert num_scales(np.ones((side, side + 4, side), dtype=bool)) == scales


def test_equal_volumes_are_1_and_a_pair_has_no_order() -> None:
    mask = ball(48)
    measure = MultiScaleSSIM(mask, DATA_RANGE)
    x, y = measure.prepare(volume(0, mask)), measure.prepare(volume(1, mask))
    assert measure.pair(x, x) == pytest.approx(1, abs=1e-5)
    assert measure.pair(x, y) == pytest.approx(measure.pair(y, x), abs=1e-6)
    assert measure.pair(x, y) < 0.6


def test_likeness_grows_with_the_shared_part() -> None:
    mask = ball(32)
    measure, shared = MultiScaleSSIM(mask, DATA_RANGE), volume(9, mask)
    means = []
    for share in (0.0, 0.5, 0.9):
        a, b = (measure.prepare(share * shared + (1 - share) * volume(seed, mask)) for seed in (1, 2))
        means.append(measure.pair(a, b))
    assert means[0] < means[1] < means[2]


def test_what_is_outside_the_mask_does_not_matter() -> None:
    mask = ball(40)
    measure = MultiScaleSSIM(mask, DATA_RANGE)
    x, y = measure.prepare(volume(0, mask)), measure.prepare(volume(1, mask))
    bright = measure.prepare(volume(0, mask) + ~mask * np.float32(3))
    assert measure.pair(bright, y) == measure.pair(x, y)


def test_pairs_are_all_or_as_many_as_asked() -> None:
    first, second = choose_pairs(6, 1000, 0)
    assert len(first) == 15
    assert (first < second).all()
    first, second = choose_pairs(60, 100, 0)
    assert len({*zip(first.tolist(), second.tolist(), strict=True)}) == 100


def test_interval_over_scans_is_that_of_a_mean_over_pairs() -> None:
    """Values a_i + a_j have a mean with standard error 2 sd(a) / sqrt(n): pairs are not independent."""
    effects = np.random.default_rng(0).standard_normal(40)
    first, second = choose_pairs(40, 1000, 0)
    pairs = PairMeans(first, second, effects[first] + effects[second], 40)
    assert pairs.mean == pytest.approx(2 * effects.mean())
    drawn = pairs.resampled(2000, seed=1)
    assert drawn.std() == pytest.approx(2 * effects.std() / np.sqrt(40), rel=0.1)
