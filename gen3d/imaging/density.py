"""Grey matter of a scan on the template's voxels, multiplied by local volume: the modulated density of voxel-based morphometry.

Voxel-based morphometry brings each person's grey matter to the template and multiplies it by the Jacobian determinant of the
deformation, so that its sum over a structure is the structure's grey matter (Ashburner & Friston, NeuroImage 2000; Good et al.,
NeuroImage 2001). Tissues are a mixture of three Gaussians whose priors are the template's tissue maps (Ashburner & Friston,
NeuroImage 2005, without their bias field and deformation, which are known here).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gen3d.imaging.deformation import warp
from gen3d.imaging.registration import Deformation
from gen3d.imaging.template import Template

Floats = NDArray[np.float32]

ITERATIONS = 12
SMALLEST_PRIOR = 0.02
"""Of every tissue in every voxel: a person's fold may lie where the template has none."""
SMALLEST_SD = 0.02
"""Of a tissue's intensities, white matter = 1: a scan without noise must not make its tissues certain."""
PURE = 0.9
LARGEST = 4.0


def modulated_density(t1w: Floats, deformation: Deformation, template: Template) -> Floats:
    """Grey matter per voxel of the template, in units of that voxel's volume.

    Args:
        t1w: [X, Y, Z] scan on the template's grid after the intensity rule (white matter 1, background 0).
        deformation: of the template to this scan.
        template: on the same grid.

    Returns:
        density [X, Y, Z] float32, 0 outside the template's mask, at most 4 (which is as much as is stored); 1 is a voxel full of
        grey matter that is as large in the scan as in the template. Its sum times the volume of a voxel is the volume of grey
        matter in the aligned scan.
    """
    warped = np.asarray(warp(t1w, deformation.displacement), dtype=np.float32)
    density = grey_shares(warped, template) * np.exp(deformation.log_jacobian)
    return np.where(template.mask, np.minimum(density, LARGEST), 0).astype(np.float32)


def grey_shares(warped: Floats, template: Template) -> Floats:
    """Probability of grey matter in every voxel [X, Y, Z] of a scan that was brought to the template; 0 outside its mask."""
    values = warped[template.mask].astype(np.float64)
    priors = np.stack([tissue[template.mask] for tissue in (template.csf, template.gm, template.wm)]).astype(np.float64)
    pure = [priors[tissue] > min(PURE, float(np.quantile(priors[tissue], 0.99))) for tissue in range(len(priors))]
    means = np.array([np.median(values[where]) if where.any() else np.median(values) for where in pure])
    deviations = np.full(len(priors), max(SMALLEST_SD, float(np.ptp(means)) / 6))
    priors = np.maximum(priors, SMALLEST_PRIOR)
    priors /= priors.sum(axis=0)
    shares = priors
    for _ in range(ITERATIONS):
        distances = (values[None] - means[:, None]) / deviations[:, None]
        likelihoods = priors * np.exp(-0.5 * np.square(distances)) / deviations[:, None]
        total = likelihoods.sum(axis=0)
        # A voxel that no tissue explains, such as background inside the mask or a vessel, goes to the nearest one.
        nearest = np.eye(len(priors))[np.abs(distances).argmin(axis=0)].T
        shares = np.where(total > np.finfo(np.float64).tiny, likelihoods / np.maximum(total, 1e-300), nearest)
        weights = shares.sum(axis=1) + 1e-9
        means = (shares @ values) / weights
        spreads = np.einsum("tv,tv->t", shares, np.square(values[None] - means[:, None])) / weights
        deviations = np.maximum(np.sqrt(spreads), SMALLEST_SD)
    result = np.zeros(warped.shape, np.float32)
    result[template.mask] = shares[1]
    return result
