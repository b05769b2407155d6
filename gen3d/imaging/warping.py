"""Trilinear sampling at displaced voxels, compiled: all components of a field and all maps share one set of weights.

`scipy.ndimage.map_coordinates` computes them once per component and map; sampling is most of the time of a deformation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gen3d.imaging.compiled import Compiled

Floats = NDArray[np.float32]


def combined(field: Floats, places: Floats, of_places: float, of_field: float) -> Floats:
    """``of_places * u(x) + of_field * f(x + u(x))`` of a field ``f`` and the displacement ``u``, both [3, X, Y, Z] in voxels.

    Outside the grid the field has the value of the nearest voxel.
    """
    result = np.empty_like(places, dtype=np.float32)
    _combine(_ready(field), _ready(places), np.float32(of_places), np.float32(of_field), result)
    return result


def warped(volume: Floats, displacement: Floats, outside: float = 0.0, beyond: float = 0.0) -> Floats:
    """A volume [X, Y, Z] at ``x + displacement(x)``; ``outside`` where that is more than ``beyond`` voxels off the grid."""
    result = np.empty(displacement.shape[1:], np.float32)
    _warp(_ready(volume), _ready(displacement), np.float32(outside), np.float32(beyond), result)
    return result


def sampled(maps: Floats, places: NDArray[np.float32]) -> Floats:
    """Maps [X, Y, Z, M] at points [3, N] in voxels: [N, M]; beyond the grid the value of the nearest voxel."""
    result = np.empty((places.shape[1], maps.shape[3]), np.float32)
    _sample(_ready(maps), _ready(places), result)
    return result


def resampled(volume: Floats, to_voxels: NDArray[np.float64], shape: tuple[int, ...], outside: float = 0.0) -> Floats:
    """A volume [X, Y, Z] at the voxels of another grid, [shape]: ``to_voxels`` [4, 4] takes its indices to the volume's."""
    result = np.empty(shape, np.float32)
    _resample(_ready(volume), np.asarray(to_voxels, dtype=np.float64), np.float32(outside), result)
    return result


def _ready(array: Floats) -> Floats:
    return np.ascontiguousarray(array, dtype=np.float32)


@Compiled
def _combine(field: Floats, places: Floats, of_places: np.float32, of_field: np.float32, result: Floats) -> None:
    one, nothing = np.float32(1), np.float32(0)
    sides = field.shape[1:]
    last_x, last_y, last_z = np.float32(sides[0] - 1), np.float32(sides[1] - 1), np.float32(sides[2] - 1)
    for x in range(sides[0]):
        for y in range(sides[1]):
            for z in range(sides[2]):
                dx, dy, dz = places[0, x, y, z], places[1, x, y, z], places[2, x, y, z]
                if dx == nothing and dy == nothing and dz == nothing:
                    for c in range(3):
                        result[c, x, y, z] = of_field * field[c, x, y, z]
                    continue
                px, py, pz = np.float32(x) + dx, np.float32(y) + dy, np.float32(z) + dz
                px = min(px, last_x) if px > nothing else nothing  # also where it is not a number
                py = min(py, last_y) if py > nothing else nothing
                pz = min(pz, last_z) if pz > nothing else nothing
                i, j, k = min(int(px), sides[0] - 2), min(int(py), sides[1] - 2), min(int(pz), sides[2] - 2)
                fx, fy, fz = px - np.float32(i), py - np.float32(j), pz - np.float32(k)
                gx, gy, gz = one - fx, one - fy, one - fz
                for c in range(3):
                    value = gx * (
                        gy * (gz * field[c, i, j, k] + fz * field[c, i, j, k + 1])
                        + fy * (gz * field[c, i, j + 1, k] + fz * field[c, i, j + 1, k + 1])
                    ) + fx * (
                        gy * (gz * field[c, i + 1, j, k] + fz * field[c, i + 1, j, k + 1])
                        + fy * (gz * field[c, i + 1, j + 1, k] + fz * field[c, i + 1, j + 1, k + 1])
                    )
                    result[c, x, y, z] = of_places * places[c, x, y, z] + of_field * value


@Compiled
def _warp(volume: Floats, displacement: Floats, outside: np.float32, beyond: np.float32, result: Floats) -> None:
    one, nothing = np.float32(1), np.float32(0)
    sides = volume.shape
    last_x, last_y, last_z = np.float32(sides[0] - 1), np.float32(sides[1] - 1), np.float32(sides[2] - 1)
    for x in range(result.shape[0]):
        for y in range(result.shape[1]):
            for z in range(result.shape[2]):
                px = np.float32(x) + displacement[0, x, y, z]
                py = np.float32(y) + displacement[1, x, y, z]
                pz = np.float32(z) + displacement[2, x, y, z]
                if not (
                    -beyond <= px <= last_x + beyond
                    and -beyond <= py <= last_y + beyond
                    and -beyond <= pz <= last_z + beyond
                ):
                    result[x, y, z] = outside
                    continue
                px, py, pz = min(max(px, nothing), last_x), min(max(py, nothing), last_y), min(max(pz, nothing), last_z)
                i, j, k = min(int(px), sides[0] - 2), min(int(py), sides[1] - 2), min(int(pz), sides[2] - 2)
                fx, fy, fz = px - np.float32(i), py - np.float32(j), pz - np.float32(k)
                gx, gy, gz = one - fx, one - fy, one - fz
                result[x, y, z] = gx * (
                    gy * (gz * volume[i, j, k] + fz * volume[i, j, k + 1])
                    + fy * (gz * volume[i, j + 1, k] + fz * volume[i, j + 1, k + 1])
                ) + fx * (
                    gy * (gz * volume[i + 1, j, k] + fz * volume[i + 1, j, k + 1])
                    + fy * (gz * volume[i + 1, j + 1, k] + fz * volume[i + 1, j + 1, k + 1])
                )


@Compiled
def _sample(maps: Floats, places: Floats, result: Floats) -> None:
    one, nothing = np.float32(1), np.float32(0)
    sides, num_maps = maps.shape[:3], maps.shape[3]
    last_x, last_y, last_z = np.float32(sides[0] - 1), np.float32(sides[1] - 1), np.float32(sides[2] - 1)
    for n in range(places.shape[1]):
        px, py, pz = places[0, n], places[1, n], places[2, n]
        px = min(px, last_x) if px > nothing else nothing  # also where it is not a number
        py = min(py, last_y) if py > nothing else nothing
        pz = min(pz, last_z) if pz > nothing else nothing
        i, j, k = min(int(px), sides[0] - 2), min(int(py), sides[1] - 2), min(int(pz), sides[2] - 2)
        fx, fy, fz = px - np.float32(i), py - np.float32(j), pz - np.float32(k)
        gx, gy, gz = one - fx, one - fy, one - fz
        for m in range(num_maps):
            result[n, m] = gx * (
                gy * (gz * maps[i, j, k, m] + fz * maps[i, j, k + 1, m])
                + fy * (gz * maps[i, j + 1, k, m] + fz * maps[i, j + 1, k + 1, m])
            ) + fx * (
                gy * (gz * maps[i + 1, j, k, m] + fz * maps[i + 1, j, k + 1, m])
                + fy * (gz * maps[i + 1, j + 1, k, m] + fz * maps[i + 1, j + 1, k + 1, m])
            )


@Compiled
def _resample(volume: Floats, to_voxels: NDArray[np.float64], outside: np.float32, result: Floats) -> None:
    sides = volume.shape
    last_x, last_y, last_z = sides[0] - 1, sides[1] - 1, sides[2] - 1
    for x in range(result.shape[0]):
        for y in range(result.shape[1]):
            start_x = to_voxels[0, 0] * x + to_voxels[0, 1] * y + to_voxels[0, 3]
            start_y = to_voxels[1, 0] * x + to_voxels[1, 1] * y + to_voxels[1, 3]
            start_z = to_voxels[2, 0] * x + to_voxels[2, 1] * y + to_voxels[2, 3]
            for z in range(result.shape[2]):
                px = start_x + to_voxels[0, 2] * z
                py = start_y + to_voxels[1, 2] * z
                pz = start_z + to_voxels[2, 2] * z
                if not (0 <= px <= last_x and 0 <= py <= last_y and 0 <= pz <= last_z):
                    result[x, y, z] = outside
                    continue
                i, j, k = min(int(px), sides[0] - 2), min(int(py), sides[1] - 2), min(int(pz), sides[2] - 2)
                fx, fy, fz = np.float32(px - i), np.float32(py - j), np.float32(pz - k)
                gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
                result[x, y, z] = gx * (
                    gy * (gz * volume[i, j, k] + fz * volume[i, j, k + 1])
                    + fy * (gz * volume[i, j + 1, k] + fz * volume[i, j + 1, k + 1])
                ) + fx * (
                    gy * (gz * volume[i + 1, j, k] + fz * volume[i + 1, j, k + 1])
                    + fy * (gz * volume[i + 1, j + 1, k] + fz * volume[i + 1, j + 1, k + 1])
                )
