"""N4 correction of the smooth intensity drift of the receive coils (Tustison et al., IEEE TMI 2010)."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.imaging.volume import Volume

Matrix = NDArray[np.float64]

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
N4_SPACING_MM = (
    6.0  # the drift of a coil is smooth over several centimetres, and cost grows with the cube of resolution
)
LARGEST_GAIN = 4.0  # beyond a factor of 4 either way the fit has left the brain


def bias_field(scan: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Multiplicative bias [X, Y, Z] of a scan, geometric mean 1 inside the mask; divide by it.

    Estimated on a 6 mm copy. Raises UserError where N4 cannot be fitted (hardly any tissue).
    """
    image = world_image(scan.data, scan.affine)
    inside = sitk.Cast(world_image((mask & (scan.data > 0)).astype(np.float32), scan.affine) > 0.5, sitk.sitkUInt8)
    factors = [max(1, round(N4_SPACING_MM / spacing)) for spacing in scan.spacing_mm]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([40, 40, 30])
    n4.SetConvergenceThreshold(5e-4)
    try:
        n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(inside, factors))
    except RuntimeError:
        raise UserError(
            "the bias field could not be estimated (N4 failed); look at the scan, or use bias_correction=false."
        ) from None
    log_bias = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T.astype(np.float32)
    log_bias -= log_bias[mask].mean()
    limit = np.float32(np.log(LARGEST_GAIN))
    bias: NDArray[np.float32] = np.exp(np.clip(log_bias, -limit, limit))
    return bias


def world_image(data: NDArray[np.floating], affine: Matrix) -> sitk.Image:
    """SimpleITK image of an array with a RAS affine, placed in ITK's LPS world (a slight shear is left out)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(data, dtype=np.float32).T))
    lps = LPS_FROM_RAS @ _orthogonal(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _orthogonal(affine: Matrix) -> Matrix:
    """The affine with its axes turned the least to stand at right angles."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    result = affine.copy()
    result[:3, :3] = left @ right * spacing
    return result
