"""Image comparison against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gen3d.imaging.similarity import mse, psnr, smooth_inside, smoother, ssim, ssim_map, structural_similarity


@pytest.fixture
def brain() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 26, 22), dtype=bool)
    mask[4:-4, 4:-4, 4:-4] = True
    return gaussian_filter(rng.standard_normal(mask.shape), 1.5).astype(np.float32) + 1, mask


def test_mse_and_psnr() -> None:
    x, y = np.zeros((4, 4, 4)), np.full((4, 4, 4), 0.1)
    mask = np.zeros(x.shape, dtype=bool)
    mask[0] = True
    y[~mask] = 9
    assert mse(x, y, mask) == pytest.approx(0.01)
    assert psnr(x, y, data_range=1.0, mask=mask) == pytest.approx(20.0)
    assert math.isinf(psnr(x, x, data_range=1.0))


def test_ssim_of_equal_volumes_is_one(brain: tuple[np.ndarray, np.ndarray]) -> None:
    volume, mask = brain
    np.testing.assert_allclose(ssim_map(volume, volume, 1.0, mask), 1.0, atol=1e-5)


def test_ssim_of_constants_is_the_luminance_factor(brain: tuple[np.ndarray, np.ndarray]) -> None:
    _, mask = brain
    x, y = np.full(mask.shape, 0.8), np.full(mask.shape, 0.4)
    expected = (2 * 0.8 * 0.4 + 1e-4) / (0.8**2 + 0.4**2 + 1e-4)
    assert ssim(x, y, 1.0, mask) == pytest.approx(expected, rel=1e-5)


def test_contrast_of_a_scaled_pattern() -> None:
    """y = a x of large variance v: contrast and structure tend to 2 a v / (v + a^2 v); equal means change nothing."""
    variance = 1e4
    for scale, expected in ((0.5, 2 * 0.5 / 1.25), (-1.0, -1.0)):
        covariance, variances = scale * variance, (1 + scale**2) * variance
        assert structural_similarity(covariance, variances, 1.0) == pytest.approx(expected, rel=1e-5)
        assert structural_similarity(covariance, variances, 1.0, (0.7, 0.7)) == pytest.approx(expected, rel=1e-5)


def test_ssim_at_one_voxel_against_the_formula(brain: tuple[np.ndarray, np.ndarray]) -> None:
    volume, mask = brain
    other = volume + np.random.default_rng(1).normal(0, 0.1, volume.shape).astype(np.float32)
    sigma, centre = 1.0, (12, 13, 11)
    grid = np.indices(mask.shape) - np.array(centre).reshape(3, 1, 1, 1)
    window = np.exp(-0.5 * (grid**2).sum(axis=0)) * (np.abs(grid).max(axis=0) <= 3)
    window /= window.sum()
    x, y = volume.astype(float), other.astype(float)
    mean_x, mean_y = (window * x).sum(), (window * y).sum()
    cov = (window * (x - mean_x) * (y - mean_y)).sum()
    var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert ssim_map(volume, other, 1.0, mask, sigma)[centre] == pytest.approx(expected, rel=1e-4)


def test_outside_the_mask_has_no_influence(brain: tuple[np.ndarray, np.ndarray]) -> None:
    volume, mask = brain
    other = volume + 0.1
    disturbed = np.where(mask, other, 1e3)
    np.testing.assert_array_equal(ssim_map(volume, other, 1.0, mask), ssim_map(volume, disturbed, 1.0, mask))
    assert (ssim_map(volume, other, 1.0, mask)[~mask] == 1).all()
    np.testing.assert_array_equal(smooth_inside(other, mask, 4.0), smooth_inside(disturbed, mask, 4.0))


def test_smoothing_has_the_width_asked_for() -> None:
    mask = np.ones((41, 41, 41), dtype=bool)
    point = np.zeros(mask.shape)
    point[20, 20, 20] = 1
    smoothed = smooth_inside(point, mask, fwhm_mm=8.0, spacing_mm=(2.0, 1.0, 4.0))
    assert smoothed[22, 20, 20] == pytest.approx(smoothed[20, 20, 20] / 2, rel=0.01)
    assert smoothed[20, 24, 20] == pytest.approx(smoothed[20, 20, 20] / 2, rel=0.01)
    assert smoothed[20, 20, 21] == pytest.approx(smoothed[20, 20, 20] / 2, rel=0.01)


def test_no_smoothing_is_a_copy() -> None:
    values = np.arange(8.0)
    result = smoother(np.ones((2, 2, 2), dtype=bool), 0.0)(values)
    np.testing.assert_array_equal(result, values)
    assert not np.shares_memory(result, values)
