"""Sampling one volume on another grid through an affine, with the antialiasing that a coarser grid needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.plan import GridPlan
from gen3d.imaging.volume import Volume
from gen3d.imaging.warping import resampled

WORKING_SPACING_MM = 2.0
MARGIN_VOXELS = 12
FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))


def working_copy(scan: Volume) -> Volume:
    """The scan averaged over blocks of voxels to about 2 mm: alignment, mask and bias need no more."""
    return averaged(scan, [max(1, round(WORKING_SPACING_MM / spacing - 0.1)) for spacing in scan.spacing_mm])


def averaged(scan: Volume, factors: Sequence[int]) -> Volume:
    """The scan averaged over blocks of so many voxels along each axis; what is left at the far ends is cut off."""
    factors = [int(factor) for factor in factors]
    if factors == [1, 1, 1]:
        return scan
    sides = [side // factor for side, factor in zip(scan.data.shape, factors, strict=True)]
    cropped = scan.data[: sides[0] * factors[0], : sides[1] * factors[1], : sides[2] * factors[2]]
    blocks = cropped.reshape(sides[0], factors[0], sides[1], factors[1], sides[2], factors[2])
    affine = scan.affine.copy()
    affine[:3, :3] *= factors
    affine[:3, 3] += scan.affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    return Volume(blocks.mean(axis=(1, 3, 5), dtype=np.float32), affine, scan.assumed)


def sample(
    source: Volume, matrix: NDArray[np.float64], shape: tuple[int, ...], order: int = 1, outside: float = 0.0
) -> NDArray[np.float32]:
    """The source at the world points `matrix @ (i, j, k, 1)`, without antialiasing; [shape] float32."""
    to_voxels = np.linalg.inv(source.affine) @ matrix
    if order == 1:
        return resampled(source.data, to_voxels, shape, outside)
    moved: NDArray[np.float32] = ndimage.affine_transform(
        source.data, to_voxels[:3, :3], to_voxels[:3, 3], output_shape=shape, order=order, mode="constant", cval=outside
    )
    return moved


def onto_plan(
    scan: Volume, template_to_scan: NDArray[np.float64], plan: GridPlan, where: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """The scan on the plan's grid in one interpolation from the original voxels; [X, Y, Z] float32, never below the scan's minimum.

    Cubic B-splines, because trilinear interpolation would blur a scan whose voxels are as large as the grid's, and by an
    amount that depends on where the voxels happen to fall; a Gaussian first where the grid is coarser than the scan, so
    that nothing aliases. Only the part of the scan under the grid is filtered.

    Args:
        scan: the scan, in its own voxels.
        template_to_scan: [4, 4], world mm.
        plan: the grid.
        where: [X, Y, Z] the voxels that are needed; outside of the box around them the result is 0.
    """
    result = np.zeros(plan.shape, np.float32)
    box = _box_around(where) if where is not None else tuple(slice(0, side) for side in plan.shape)
    first = np.array([side.start for side in box])
    to_voxels = np.linalg.inv(scan.affine) @ template_to_scan @ plan.matrix
    to_voxels[:3, 3] += to_voxels[:3, :3] @ first
    shape = tuple(side.stop - side.start for side in box)
    low, high = _box(to_voxels, shape, scan.data.shape)
    part = scan.data[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    if part.size == 0:
        return result
    sigma = antialiasing_sigma(to_voxels)
    if (sigma > 0).any():
        part = ndimage.gaussian_filter(part, sigma)
    result[box] = ndimage.affine_transform(
        part, to_voxels[:3, :3], to_voxels[:3, 3] - low, output_shape=shape, order=3, mode="constant"
    )
    return np.maximum(result, np.float32(min(0.0, float(scan.data.min()))))


def _box_around(where: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds all voxels of a mask, and none where it is empty."""
    sides = []
    for axis in range(3):
        there = np.flatnonzero(where.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0))
    return tuple(sides)


def antialiasing_sigma(to_voxels: NDArray[np.float64]) -> NDArray[np.float64]:
    """SD in source voxels, per axis, of the Gaussian that makes the source as coarse as the target grid (0 where it already is)."""
    ratio = np.linalg.norm(to_voxels[:3, :3], axis=1)
    sigma: NDArray[np.float64] = np.sqrt(np.maximum(ratio**2 - 1, 0)) / FWHM_PER_SIGMA
    return np.where(sigma > 0.1, sigma, 0.0)


def _box(
    to_voxels: NDArray[np.float64], shape: tuple[int, ...], bounds: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The source voxels under the target grid, with a margin of 12: farther away the cubic B-spline's filter has decayed."""
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])], dtype=float)
    places = (corners @ to_voxels.T)[:, :3]
    low = np.clip(np.floor(places.min(axis=0)).astype(int) - MARGIN_VOXELS, 0, bounds)
    high = np.clip(np.ceil(places.max(axis=0)).astype(int) + MARGIN_VOXELS + 1, 0, bounds)
    return low, high
