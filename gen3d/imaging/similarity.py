"""Comparing two volumes: squared error, PSNR, correlation, structural similarity; what screening measures of an aligned
scan; and Gaussian smoothing inside a mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gen3d.imaging.intensity import TissueLevels
from gen3d.imaging.template import Template

Spacing = float | tuple[float, float, float]
FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
TRUNCATE_SIGMAS = 3.0
SMOOTHING_MM = 3.0


def mse(x: NDArray[np.floating], y: NDArray[np.floating], mask: NDArray[np.bool_] | None = None) -> float:
    """Mean squared difference of two volumes of one shape, inside the mask when there is one."""
    difference = np.subtract(x, y, dtype=np.float64)
    return float(np.mean(np.square(difference if mask is None else difference[mask])))


def psnr(
    x: NDArray[np.floating], y: NDArray[np.floating], data_range: float, mask: NDArray[np.bool_] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(data_range^2 / MSE); infinite for equal volumes."""
    error = mse(x, y, mask)
    return math.inf if error == 0 else 10.0 * math.log10(data_range**2 / error)


def smoother(
    mask: NDArray[np.bool_], fwhm_mm: float, spacing_mm: Spacing = 1.0
) -> Callable[[NDArray[np.floating]], NDArray[np.float32]]:
    """A function that smooths the masked values [V] of a volume by a Gaussian, ignoring all that is outside.

    Normalised convolution (Knutsson and Westin 1993): G * (x M) / G * M, in the mask's own voxel order. FWHM 0 returns
    the values unchanged. The weights G * M are computed once, so smoothing many maps costs one filter each.
    """
    sigmas = np.broadcast_to(fwhm_mm / FWHM_PER_SIGMA / np.asarray(spacing_mm, dtype=np.float64), (3,))
    if fwhm_mm <= 0:
        return lambda values: np.array(values, dtype=np.float32)
    weights = gaussian_filter(mask.astype(np.float32), sigmas, mode="constant", truncate=TRUNCATE_SIGMAS)[mask]

    def smooth(values: NDArray[np.floating]) -> NDArray[np.float32]:
        volume = np.zeros(mask.shape, dtype=np.float32)
        volume[mask] = values
        smoothed = gaussian_filter(volume, sigmas, mode="constant", truncate=TRUNCATE_SIGMAS)
        return np.asarray(smoothed[mask] / weights, dtype=np.float32)

    return smooth


def smooth_inside(
    volume: NDArray[np.floating], mask: NDArray[np.bool_], fwhm_mm: float, spacing_mm: Spacing = 1.0
) -> NDArray[np.float32]:
    """Smooth a volume [X, Y, Z] by a Gaussian of this FWHM inside the mask; zero outside."""
    smoothed = np.zeros(mask.shape, dtype=np.float32)
    smoothed[mask] = smoother(mask, fwhm_mm, spacing_mm)(volume[mask])
    return smoothed


def structural_similarity(
    covariance: Any, variances: Any, data_range: float, means: tuple[Any, Any] | None = None
) -> Any:
    """SSIM from local moments of two volumes (Wang et al. 2004, equation 13, K1 = 0.01, K2 = 0.03), same shape.

    Args:
        covariance: local covariance; arrays or tensors, as all moments.
        variances: sum of the two local variances.
        data_range: L, what the constants are shares of.
        means: local means; without them the luminance factor is left out, as at the finer scales of MS-SSIM.
    """
    luminance_constant, contrast_constant = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2.0 * covariance + contrast_constant) / (variances + contrast_constant)
    if means is None:
        return similarity
    x, y = means
    return similarity * ((2.0 * x * y + luminance_constant) / (x**2 + y**2 + luminance_constant))


def ssim_map(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    data_range: float,
    mask: NDArray[np.bool_],
    sigma_voxels: Spacing = 1.5,
) -> NDArray[np.float32]:
    """Local structural similarity of two volumes [X, Y, Z] in a Gaussian window; 1 outside the mask.

    Local moments are taken inside the mask only. A sigma per axis may be 0: pictures [S, H, W] are then compared one by one.
    """
    if isinstance(sigma_voxels, tuple):
        widths = tuple(math.inf if sigma == 0 else 1.0 / sigma for sigma in sigma_voxels)
        smooth = smoother(mask, FWHM_PER_SIGMA, (widths[0], widths[1], widths[2]))
    else:
        smooth = smoother(mask, sigma_voxels * FWHM_PER_SIGMA)
    inside_x, inside_y = (np.asarray(volume[mask], dtype=np.float32) for volume in (x, y))
    # Moments about the global mean: float32 then loses nothing to cancellation.
    centre = np.float32(0.5 * (inside_x.mean() + inside_y.mean()))
    centred_x, centred_y = inside_x - centre, inside_y - centre
    mean_x, mean_y = smooth(centred_x), smooth(centred_y)
    variances = smooth(centred_x**2 + centred_y**2) - mean_x**2 - mean_y**2
    covariance = smooth(centred_x * centred_y) - mean_x * mean_y
    means = (mean_x + centre, mean_y + centre)
    similarity = structural_similarity(covariance, np.maximum(variances, 0.0), data_range, means)
    result = np.ones(mask.shape, dtype=np.float32)
    result[mask] = np.clip(similarity, -1.0, 1.0)
    return result


def ssim(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    data_range: float,
    mask: NDArray[np.bool_],
    sigma_voxels: Spacing = 1.5,
) -> float:
    """Mean of `ssim_map` inside the mask."""
    return float(ssim_map(x, y, data_range, mask, sigma_voxels)[mask].mean())


def measure(
    t1w: NDArray[np.float32],
    brain: NDArray[np.bool_],
    template: Template,
    spacing_mm: float,
    template_to_scan: NDArray[np.float64],
    mutual_information: float,
    levels: TissueLevels,
) -> dict[str, float | str]:
    """Screening numbers of an aligned scan [X, Y, Z]; `brain` is the person's own mask on the grid."""
    sigma = SMOOTHING_MM / spacing_mm
    smooth, expected = gaussian_filter(t1w, sigma), gaussian_filter(template.t1w, sigma)
    stretches = np.linalg.svd(template_to_scan[:3, :3], compute_uv=False)
    both = float((brain & template.mask).sum())
    return {
        "mutual_information": mutual_information,
        "correlation": correlation(smooth[template.mask], expected[template.mask]),
        "mask_dice": 2 * both / float(brain.sum() + template.mask.sum()),
        "brain_ml": float(brain.sum()) * spacing_mm**3 * float(np.linalg.det(template_to_scan[:3, :3])) / 1000,
        "volume_scale": float(np.prod(stretches)),
        "stretch": float(stretches.max() / stretches.min()),
        "tissue_ratio": levels.grey / levels.white,
    }


def correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Pearson correlation of two flat samples; 0 where one of them is constant."""
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
