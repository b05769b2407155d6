"""Noise of a scan that is already on the grid: how much there is, taken away, and made anew.

The level is that of the pseudo-residuals in white matter (Gasser et al. 1986, Biometrika 73; used for MR images by Coupe et
al. 2008, IEEE TMI 27), as a median absolute deviation, so that edges do not count. Denoising is the bilateral filter
(Tomasi and Manduchi 1998) of SimpleITK with a range of 2.5 noise levels (Zhang and Gunturk 2008, IEEE TIP 17: two to three
are best). Interpolation leaves neighbouring voxels correlated; new noise has the correlation of what was taken away.

No filter separates all noise from cortex two voxels thick. Measured with noise that was added, a third of its amplitude
stays in white matter and most of it in cortex, where a stronger filter would take more anatomy than noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import brentq

from gen3d.imaging.template import Template

Floats = NDArray[np.float32]
Correlation = tuple[float, float, float]

MAD_TO_SD = 1.4826
PSEUDO_RESIDUAL_SD = 0.68  # of noise of SD 1 whose neighbours correlate by 0.35, as after one interpolation
LARGEST_CORRELATION = 0.6  # a moving average over three voxels cannot have more than 0.707
FILTER_RADIUS_VOXELS = 1.0  # SD of the bilateral filter in space: cortex is two voxels thick
FILTER_RANGE = 2.5  # SD of the bilateral filter in intensity, in noise levels
PURE_WHITE, WHITE_LIMITS, MIN_CORE_VOXELS = 0.9, (0.8, 1.2), 50
SMALLEST_LEVEL = 1e-3  # of white matter: less is below the steps in which volumes are stored


@dataclass(frozen=True)
class Noise:
    """SD (white matter is 1) and the correlation of neighbours along each axis."""

    level: float
    correlation: Correlation

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
        """New noise [X, Y, Z]: white noise under a moving average over three voxels along each axis."""
        field = rng.standard_normal(shape, dtype=np.float32)
        for axis, rho in enumerate(self.correlation):
            side = (1 - np.sqrt(1 - 2 * rho**2)) / (2 * rho) if abs(rho) > 1e-3 else 0.0
            kernel = np.array([side, 1.0, side]) / np.sqrt(1 + 2 * side**2)
            field = ndimage.correlate1d(field, kernel, axis=axis, mode="wrap")
        return (self.level * field).astype(np.float32)


def white_matter(scan: Floats, template: Template) -> NDArray[np.bool_]:
    """Voxels [X, Y, Z] of the scan in which intensity should not vary: inside the template's white matter, and as bright."""
    low, high = WHITE_LIMITS
    core: NDArray[np.bool_] = ndimage.binary_erosion(template.wm > PURE_WHITE) & (scan > low) & (scan < high)
    return core


def split_noise(scan: Floats, template: Template) -> tuple[Floats, Noise]:
    """The scan without its noise [X, Y, Z], and what the noise was like.

    ``Noise.level`` is such that the denoised scan with new noise has the pseudo-residuals of the scan as it was.
    Raises ``ValueError`` where hardly any white matter is found.
    """
    core = white_matter(scan, template)
    if core.sum() < MIN_CORE_VOXELS:
        raise ValueError("hardly any white matter was found, so its noise cannot be measured")
    target = _robust_sd(pseudo_residual(scan)[core])
    clean = _bilateral(scan, FILTER_RANGE * max(target, SMALLEST_LEVEL) / PSEUDO_RESIDUAL_SD)
    clean = np.where(scan > 0, clean, 0).astype(np.float32)
    correlation = neighbour_correlation(scan - clean, core)
    left = pseudo_residual(clean)[core]
    trial = pseudo_residual(Noise(1.0, correlation).draw(scan.shape, np.random.default_rng(0)))[core]

    def excess(level: float) -> float:
        return _robust_sd(left + np.float32(level) * trial) - target

    level = brentq(excess, 0.0, 4 * target, xtol=1e-5) if excess(0.0) < 0 < excess(4 * target) else 0.0
    return clean, Noise(float(level), correlation)


def pseudo_residual(scan: Floats) -> Floats:
    """``sqrt(6/7)`` times each voxel minus the mean of its six neighbours [X, Y, Z]: SD 1 for white noise of SD 1."""
    kernel = np.zeros((3, 3, 3), np.float32)
    kernel[1, 1, :] = kernel[1, :, 1] = kernel[:, 1, 1] = -1 / 6
    kernel[1, 1, 1] = 1.0
    return ndimage.convolve(scan, np.sqrt(6 / 7).astype(np.float32) * kernel).astype(np.float32)


def neighbour_correlation(residual: Floats, inside: NDArray[np.bool_]) -> Correlation:
    """Correlation of neighbours along each axis, of pairs that both lie ``inside``; 0 to 0.6."""
    correlations = []
    for axis in range(3):
        first, second = (
            np.take(residual, range(residual.shape[axis] - 1), axis),
            np.take(residual, range(1, residual.shape[axis]), axis),
        )
        both = np.take(inside, range(inside.shape[axis] - 1), axis) & np.take(
            inside, range(1, inside.shape[axis]), axis
        )
        rho = float(np.mean(first[both] * second[both]) / max(float(np.mean(residual[inside] ** 2)), 1e-12))
        correlations.append(float(np.clip(rho, 0.0, LARGEST_CORRELATION)))
    return correlations[0], correlations[1], correlations[2]


def _bilateral(scan: Floats, intensity_range: float) -> Floats:
    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.T))
    smooth = sitk.Bilateral(image, FILTER_RADIUS_VOXELS, intensity_range)
    return np.ascontiguousarray(sitk.GetArrayFromImage(smooth).T, dtype=np.float32)


def _robust_sd(values: Floats) -> float:
    return MAD_TO_SD * float(np.median(np.abs(values - np.median(values))))
