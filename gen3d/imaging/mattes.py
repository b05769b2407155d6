"""Mattes mutual information of a template and a scan, and its derivative, compiled (Mattes et al., IEEE TMI 2003).

Template intensities fall into one bin each, those of the scan into four under a cubic B-spline (their equations 2 to 6), so
that the information has a derivative with respect to the matrix (equations 9 and 10).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.imaging.compiled import Compiled

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]

NUM_BINS = 32
PADDING = 2  # bins at either end, which the spline reaches from the darkest and the brightest voxel
FEWEST_POINTS = 0.05  # share of the points that must fall into the scan


@dataclass(frozen=True)
class Mattes:
    """The metric at fixed points of the template.

    `points` [N, 3] are world mm of the template relative to `centre`, `bins` [N] their intensities' bins; `image` [X, Y, Z] is
    the scan, `to_voxels` [4, 4] takes world mm of the scan to its voxels; intensities range from 0 to `ceiling`.
    """

    points: NDArray[np.float64]
    bins: NDArray[np.int64]
    centre: NDArray[np.float64]
    image: Floats
    to_voxels: Matrix
    ceiling: float

    def __call__(self, matrix: Matrix) -> tuple[float, NDArray[np.float64]]:
        """Mutual information (nats) under template -> scan `matrix`, and its derivative [3, 4].

        The derivative is that by the linear part (first three columns, a change about `centre`, per unit) and by the place
        of the centre (last column, per mm). Too few points in the scan have no information, and no derivative.
        """
        to_image = self.to_voxels @ matrix
        centre = to_image[:3, :3] @ self.centre + to_image[:3, 3]
        values = np.empty(len(self.points), np.float32)
        slopes = np.empty((len(self.points), 3), np.float32)
        scale = (NUM_BINS - 2 * PADDING) / self.ceiling
        joint = np.zeros((NUM_BINS, NUM_BINS))
        seen = _gather(self.points, self.bins, to_image[:3, :3], centre, self.image, scale, values, slopes, joint)
        if seen < FEWEST_POINTS * len(self.points):
            return 0.0, np.zeros((3, 4))
        joint /= joint.sum()
        of_template, of_scan = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
        there = joint > 1e-16
        relative = np.zeros_like(joint)
        np.log(joint, out=relative, where=there)
        relative -= np.log(of_scan, out=np.zeros_like(of_scan), where=of_scan > 1e-16)
        information = float((joint * np.where(there, relative, 0)).sum())
        information -= float((of_template[of_template > 0] * np.log(of_template[of_template > 0])).sum())
        gradient = np.zeros((3, 4))
        _differentiate(self.points, self.bins, values, slopes, np.where(there, relative, 0), gradient)
        return information, self.to_voxels[:3, :3].T @ gradient * (scale / seen)


def bins_of(values: Floats, ceiling: float) -> NDArray[np.int64]:
    """Bin of each intensity of the template, from 0 to its ceiling."""
    return np.clip(values / ceiling * (NUM_BINS - 2 * PADDING) + PADDING, PADDING, NUM_BINS - PADDING - 1).astype(
        np.int64
    )


@Compiled
def _gather(
    points: NDArray[np.float64],
    bins: NDArray[np.int64],
    linear: NDArray[np.float64],
    centre: NDArray[np.float64],
    image: Floats,
    scale: float,
    values: Floats,
    slopes: Floats,
    joint: NDArray[np.float64],
) -> int:
    """Sample the scan (bins, NaN outside of it) and its slopes (intensity per voxel), and fill the joint histogram."""
    sides, num_seen = image.shape, 0
    last = joint.shape[1] - 3
    for n in range(points.shape[0]):
        p0, p1, p2 = points[n, 0], points[n, 1], points[n, 2]
        x = linear[0, 0] * p0 + linear[0, 1] * p1 + linear[0, 2] * p2 + centre[0]
        y = linear[1, 0] * p0 + linear[1, 1] * p1 + linear[1, 2] * p2 + centre[1]
        z = linear[2, 0] * p0 + linear[2, 1] * p1 + linear[2, 2] * p2 + centre[2]
        if not (0 <= x <= sides[0] - 1 and 0 <= y <= sides[1] - 1 and 0 <= z <= sides[2] - 1):
            values[n] = np.nan
            continue
        num_seen += 1
        i, j, k = min(int(x), sides[0] - 2), min(int(y), sides[1] - 2), min(int(z), sides[2] - 2)
        fx, fy, fz = x - i, y - j, z - k
        v000, v001, v010, v011 = image[i, j, k], image[i, j, k + 1], image[i, j + 1, k], image[i, j + 1, k + 1]
        i += 1
        v100, v101, v110, v111 = image[i, j, k], image[i, j, k + 1], image[i, j + 1, k], image[i, j + 1, k + 1]
        v00, v01 = v000 + fz * (v001 - v000), v010 + fz * (v011 - v010)
        v10, v11 = v100 + fz * (v101 - v100), v110 + fz * (v111 - v110)
        v0, v1 = v00 + fy * (v01 - v00), v10 + fy * (v11 - v10)
        slopes[n, 0] = v1 - v0
        slopes[n, 1] = (1 - fx) * (v01 - v00) + fx * (v11 - v10)
        near = (1 - fy) * (v001 - v000) + fy * (v011 - v010)
        slopes[n, 2] = (1 - fx) * near + fx * ((1 - fy) * (v101 - v100) + fy * (v111 - v110))
        term = (v0 + fx * (v1 - v0)) * scale + 2.0
        if not 2.0 <= term <= last:  # beyond the range: no change of the matrix moves it
            term = last if term > last else 2.0
            slopes[n, 0] = slopes[n, 1] = slopes[n, 2] = 0.0
        values[n] = term
        bin_, row = min(int(term), int(last)), bins[n]
        t = term - bin_
        joint[row, bin_ - 1] += (1 - t) ** 3 / 6
        joint[row, bin_] += 2.0 / 3.0 - t * t * (1 - t / 2)
        joint[row, bin_ + 1] += 2.0 / 3.0 - (1 - t) ** 2 * (1 + t) / 2
        joint[row, bin_ + 2] += t**3 / 6
    return num_seen


@Compiled
def _differentiate(
    points: NDArray[np.float64],
    bins: NDArray[np.int64],
    values: Floats,
    slopes: Floats,
    relative: NDArray[np.float64],
    gradient: NDArray[np.float64],
) -> None:
    """Sum over points of the derivative of their spline weights, times the logarithm of relative probability."""
    last = relative.shape[1] - 3
    for n in range(points.shape[0]):
        term = values[n]
        if not np.isfinite(term):
            continue
        bin_, row = min(int(term), int(last)), bins[n]
        t = term - bin_
        slope = -((1 - t) ** 2) / 2 * relative[row, bin_ - 1]
        slope += (1.5 * t * t - 2 * t) * relative[row, bin_]
        slope += (0.5 + t - 1.5 * t * t) * relative[row, bin_ + 1]
        slope += t * t / 2 * relative[row, bin_ + 2]
        for axis in range(3):
            pull = slope * slopes[n, axis]
            gradient[axis, 0] += pull * points[n, 0]
            gradient[axis, 1] += pull * points[n, 1]
            gradient[axis, 2] += pull * points[n, 2]
            gradient[axis, 3] += pull
