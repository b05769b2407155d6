"""Diffeomorphic demons at one resolution (Vercauteren et al., NeuroImage 2009), compiled.

The algorithm is that of ITK's DiffeomorphicDemonsRegistrationFilter, step by step, in float32: the symmetric force (their
section 3), each update smoothed, its exponential composed with the field, the field smoothed. Its Gaussians are ITK's too,
the discrete kernels of Lindeberg (PAMI 1990) cut where they hold 90 % of their weight. Where an update is zero, which is
more than half of a brain's grid, nothing is computed. `tests/imaging/test_demons.py` compares it with ITK.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ive

from gen3d.imaging.compiled import Compiled
from gen3d.imaging.warping import combined, warped

Floats = NDArray[np.float32]

LEAST_CHANGE = 0.02  # RMS length of an update at which the iteration ends, in voxels of the finest grid
LEAST_DIFFERENCE = 1e-3  # of intensities: smaller ones exert no force
FIRST_STEP = 0.25  # voxels: longest displacement of the linearised step of the exponential
KERNEL_SHARE = 0.9  # of its weight that a smoothing kernel must hold
HALF_VOXEL = 0.5  # a voxel reaches this far beyond its centre, also at the border of the grid


def demons(
    fixed: Floats,
    moving: Floats,
    start: Floats,
    *,
    num_iterations: int,
    step_voxels: float,
    update_sigma: float,
    field_sigma: float,
    voxel: float = 1.0,
) -> Floats:
    """Displacement [3, X, Y, Z] in voxels of this grid, so that moving(x + u(x)) resembles fixed(x).

    Args:
        fixed, moving: [X, Y, Z] on one grid.
        start: displacement [3, X, Y, Z] to begin from.
        num_iterations: most iterations; fewer if updates become shorter than 0.02 voxels of the finest grid.
        step_voxels: longest step of one iteration.
        update_sigma, field_sigma: SD in voxels of the smoothing of each update and of the whole field; 0: none.
        voxel: edge of a voxel of this grid, in voxels of the finest grid.
    """
    fixed, moving, field = (np.ascontiguousarray(array, dtype=np.float32) for array in (fixed, moving, start))
    update = np.empty_like(field)
    for _ in range(num_iterations):
        seen = warped(moving, field, outside=np.inf, beyond=HALF_VOXEL)
        squared = _force(fixed, seen, np.float32(step_voxels**2), np.float32(LEAST_DIFFERENCE), update)
        smoothed = smooth(update, update_sigma)
        field = combined(field, exponential(smoothed), 1.0, 1.0)
        field = smooth(field, field_sigma)
        if voxel * math.sqrt(squared / fixed.size) < LEAST_CHANGE:
            break
    return field


def exponential(velocity: Floats) -> Floats:
    """Displacement of exp(velocity) by scaling and squaring, [3, X, Y, Z] in voxels; the first step is below 0.25 voxels."""
    longest = math.sqrt(float(np.einsum("cxyz,cxyz->xyz", velocity, velocity).max()))
    num_squarings = max(0, math.floor(math.log2(longest / FIRST_STEP) + 1)) if longest > 0 else 0
    displacement = velocity * np.float32(0.5**num_squarings)
    for _ in range(num_squarings):
        displacement = combined(displacement, displacement, 1.0, 1.0)
    return displacement


def smooth(field: Floats, sigma: float) -> Floats:
    """Each component of a field [3, X, Y, Z] under a discrete Gaussian of this SD in voxels; the border is repeated."""
    if sigma <= 0:
        return field
    kernel, spare, result = kernel_of(sigma), np.empty_like(field), np.empty_like(field)
    _smooth(field, kernel, spare, result)
    return result


def kernel_of(sigma: float) -> Floats:
    """Weights [n + 1] of the discrete Gaussian at 0 to n voxels, cut where they hold 90 % of the weight, and scaled to 1."""
    weights = [float(ive(0, sigma**2)), float(ive(1, sigma**2))]
    while weights[0] + 2 * sum(weights[1:]) < KERNEL_SHARE:
        weights.append(float(ive(len(weights), sigma**2)))
    return np.array(weights, np.float64).astype(np.float32) / np.float32(weights[0] + 2 * sum(weights[1:]))


@Compiled
def _force(fixed: Floats, seen: Floats, step_squared: np.float32, least: np.float32, update: Floats) -> float:
    """Fill in the update; the sum of its squares. `seen` is infinite where the moving image has no voxel."""
    sides = fixed.shape
    half, two, nothing = np.float32(0.5), np.float32(2), np.float32(0)
    total = 0.0
    for x in range(sides[0]):
        for y in range(sides[1]):
            for z in range(sides[2]):
                update[0, x, y, z] = update[1, x, y, z] = update[2, x, y, z] = nothing
                here = seen[x, y, z]
                difference = fixed[x, y, z] - here
                if not np.isfinite(here) or abs(difference) < least:
                    continue
                squared = nothing
                for axis in range(3):
                    at = x if axis == 0 else (y if axis == 1 else z)
                    low, high = here, here
                    low_fixed, high_fixed = nothing, nothing
                    if at > 0:
                        if axis == 0:
                            low, low_fixed = seen[x - 1, y, z], fixed[x - 1, y, z]
                        elif axis == 1:
                            low, low_fixed = seen[x, y - 1, z], fixed[x, y - 1, z]
                        else:
                            low, low_fixed = seen[x, y, z - 1], fixed[x, y, z - 1]
                    if at < sides[axis] - 1:
                        if axis == 0:
                            high, high_fixed = seen[x + 1, y, z], fixed[x + 1, y, z]
                        elif axis == 1:
                            high, high_fixed = seen[x, y + 1, z], fixed[x, y + 1, z]
                        else:
                            high, high_fixed = seen[x, y, z + 1], fixed[x, y, z + 1]
                    inside = 0 < at < sides[axis] - 1
                    share = half if inside and np.isfinite(low) and np.isfinite(high) else np.float32(1)
                    low = low if np.isfinite(low) else here
                    high = high if np.isfinite(high) else here
                    slope = share * (high - low)
                    if inside:
                        slope += half * (high_fixed - low_fixed)
                    update[axis, x, y, z] = slope
                    squared += slope * slope
                denominator = squared + difference * difference / step_squared
                factor = two * difference / denominator
                for axis in range(3):
                    update[axis, x, y, z] *= factor
                total += factor * factor * squared
    return total


@Compiled
def _smooth(field: Floats, kernel: Floats, spare: Floats, result: Floats) -> None:
    """Convolve along x into `result`, along y into `spare`, along z into `result`."""
    reach = kernel.shape[0] - 1
    num_x, num_y, num_z = field.shape[1:]
    for c in range(3):
        for x in range(num_x):
            for y in range(num_y):
                for z in range(num_z):
                    result[c, x, y, z] = kernel[0] * field[c, x, y, z]
            for step in range(1, reach + 1):
                before, after, weight = max(x - step, 0), min(x + step, num_x - 1), kernel[step]
                for y in range(num_y):
                    for z in range(num_z):
                        result[c, x, y, z] += weight * (field[c, before, y, z] + field[c, after, y, z])
        for x in range(num_x):
            for y in range(num_y):
                for z in range(num_z):
                    spare[c, x, y, z] = kernel[0] * result[c, x, y, z]
                for step in range(1, reach + 1):
                    before, after, weight = max(y - step, 0), min(y + step, num_y - 1), kernel[step]
                    for z in range(num_z):
                        spare[c, x, y, z] += weight * (result[c, x, before, z] + result[c, x, after, z])
        for x in range(num_x):
            for y in range(num_y):
                for z in range(num_z):
                    total = kernel[0] * spare[c, x, y, z]
                    for step in range(1, reach + 1):
                        total += kernel[step] * (
                            spare[c, x, y, max(z - step, 0)] + spare[c, x, y, min(z + step, num_z - 1)]
                        )
                    result[c, x, y, z] = total
