"""From z maps to findings: p values, false discovery rate, clusters, conformal p, and one score per person."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import ndtr
from scipy.stats import false_discovery_control

Array = NDArray[np.floating]


def p_values(z: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p of standard normal z, same shape."""
    return np.asarray(2.0 * ndtr(-np.abs(np.asarray(z, dtype=np.float64))))


def fdr_adjust(p: ArrayLike) -> NDArray[np.float64]:
    """Benjamini-Hochberg q values over all known entries of p (1995, J R Statist Soc B 57:289), same shape; NaN stays."""
    values = np.asarray(p, dtype=np.float64)
    known = np.isfinite(values)
    adjusted = np.full(values.shape, math.nan)
    adjusted[known] = false_discovery_control(values[known])
    return adjusted


def fdr(p: ArrayLike, q: float = 0.05) -> NDArray[np.bool_]:
    """Which entries of p survive false discovery rate q (Benjamini-Hochberg), same shape."""
    # The step-up rule needs a sort only: a ninth of the time of q values, which counts for a whole brain per map.
    values = np.asarray(p, dtype=np.float64)
    flat = np.sort(values, axis=None)
    passing = np.flatnonzero(flat <= q * np.arange(1, flat.size + 1) / max(flat.size, 1))
    if not passing.size:
        return np.zeros(values.shape, dtype=bool)
    return np.asarray(values <= flat[passing[-1]])


@dataclass(frozen=True)
class Cluster:
    """One connected finding: peak and centre of its voxels in world millimetres; sign 1 above, -1 below expectation.

    `total_z` is the sum of |z| over its voxels.
    """

    label: int
    sign: int
    num_voxels: int
    volume_ml: float
    total_z: float
    peak_z: float
    peak_mm: tuple[float, float, float]
    centre_mm: tuple[float, float, float]

    def mass(self, threshold: float) -> float:
        """What |z| exceeds the threshold by, summed over voxels (Bullmore et al. 1999, IEEE TMI 18:32)."""
        return self.total_z - threshold * self.num_voxels


def clusters(significant: NDArray[np.bool_], z: Array, min_voxels: int, affine: NDArray[np.float64]) -> list[Cluster]:
    """Connected groups (faces, edges and corners) of significant voxels [X, Y, Z], the largest first.

    Voxels above and below expectation are never joined. Groups under `min_voxels` are left out.
    """
    affine = np.asarray(affine, dtype=np.float64)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    clusters: list[Cluster] = []
    for sign in (1, -1):
        labels, _ = ndimage.label(significant & (sign * z > 0), structure=np.ones((3, 3, 3)))
        for index, box in enumerate(ndimage.find_objects(labels), start=1):
            inside = labels[box] == index
            num_voxels = int(inside.sum())
            if num_voxels < max(1, min_voxels):
                continue
            corner = np.array([part.start for part in box])
            voxels = np.argwhere(inside) + corner
            values = z[box][inside]
            peak = int(np.argmax(sign * values))
            clusters.append(
                Cluster(
                    label=0,
                    sign=sign,
                    num_voxels=num_voxels,
                    volume_ml=num_voxels * voxel_ml,
                    total_z=float(np.abs(values).sum(dtype=np.float64)),
                    peak_z=float(values[peak]),
                    peak_mm=_world(affine, voxels[peak]),
                    centre_mm=_world(affine, voxels.mean(axis=0)),
                )
            )
    clusters.sort(key=lambda cluster: (-cluster.num_voxels, -abs(cluster.peak_z)))
    return [replace(cluster, label=label) for label, cluster in enumerate(clusters, start=1)]


def heaviest_cluster(z: Array, threshold: float) -> float:
    """Mass of the heaviest cluster of z [X, Y, Z] beyond the threshold on either side, 0 without any."""
    masses = [0.0]
    for sign in (1, -1):
        labels, num = ndimage.label(sign * z > threshold, structure=np.ones((3, 3, 3)))
        if num:
            inside = labels > 0
            masses.append(float(np.bincount(labels[inside], sign * z[inside] - threshold).max()))
    return max(masses)


def _world(affine: NDArray[np.float64], voxel: NDArray[Any]) -> tuple[float, float, float]:
    x, y, z = affine[:3, :3] @ voxel + affine[:3, 3]
    return float(x), float(y), float(z)


def conformal_p(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """(1 + number of calibration scores >= score) / (n + 1) for each of `scores`: valid for any distribution.

    Larger scores are more unusual. calibration [n], scores [m] -> [m]. No p below `conformal_resolution(n)` can occur.
    Vovk, Gammerman and Shafer 2005, Algorithmic learning in a random world, ch. 2. NaN scores give NaN.
    """
    reference = np.sort(_finite(calibration))
    values = np.asarray(scores, dtype=np.float64)
    at_least = reference.size - np.searchsorted(reference, values, side="left")
    return np.where(np.isnan(values), math.nan, (1.0 + at_least) / (reference.size + 1.0))


def conformal_p_columns(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """`conformal_p` of each of R scores [R] among its own column of calibration scores [n, R]."""
    reference, values = np.asarray(calibration, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    at_least = (reference >= values).sum(axis=0)
    return np.where(np.isnan(values), math.nan, (1.0 + at_least) / (len(reference) + 1.0))


def conformal_resolution(num_calibration: int) -> float:
    """The smallest conformal p that n calibration people can give, 1 / (n + 1); 5 % needs 19 people."""
    return 1.0 / (num_calibration + 1.0)


def burden(z: Array, fraction: float = 0.05) -> float:
    """Mean of the largest `fraction` of |z| over the voxels of one person."""
    magnitudes = np.abs(np.asarray(z)).ravel()
    if not magnitudes.size:
        return math.nan
    num = max(1, round(fraction * magnitudes.size))
    return float(np.partition(magnitudes, magnitudes.size - num)[-num:].mean(dtype=np.float64))


def percentile(scores: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Percentage (0 to 100) of reference scores below each score, ties counted half; NaN without a reference."""
    sorted_reference = np.sort(_finite(reference))
    values = np.asarray(scores, dtype=np.float64)
    if not sorted_reference.size:
        return np.full(values.shape, math.nan)
    below = np.searchsorted(sorted_reference, values, side="left")
    not_above = np.searchsorted(sorted_reference, values, side="right")
    return np.where(np.isnan(values), math.nan, 50.0 * (below + not_above) / sorted_reference.size)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]
