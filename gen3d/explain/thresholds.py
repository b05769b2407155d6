"""From which strength on a map is shown: a share of the brain, Otsu's split, or a distance from the mean, inside the brain only.

Outside the brain a map is zero. Counted in, these zeros would be one of Otsu's two classes and draw down every mean.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rule = Literal["percentile", "otsu", "sd"]
RULES: tuple[Rule, ...] = ("percentile", "otsu", "sd")
NUM_BINS = 256


def threshold(strength: NDArray[np.floating], rule: Rule, top_percent: float, sd_above: float) -> float:
    """The strength from which on voxels of the brain are kept.

    Args:
        strength: of the voxels of the brain [V], 0 or more.
        rule: percentile keeps the strongest `top_percent`; otsu splits the histogram so that the variance between both parts is
            largest (Otsu 1979, 256 bins); sd keeps what lies more than `sd_above` standard deviations above the mean.
        top_percent: percent of the brain's voxels.
        sd_above: standard deviations.

    Returns:
        The threshold; voxels of at least this strength are kept. Infinite for a map without differences.
    """
    values = np.asarray(strength, dtype=np.float64).ravel()
    if not values.size or values.max() == values.min():
        return float("inf")
    if rule == "percentile":
        return float(np.percentile(values, 100.0 - top_percent))
    if rule == "sd":
        return float(values.mean() + sd_above * values.std())
    return _otsu(values)


def _otsu(values: NDArray[np.float64]) -> float:
    counts, edges = np.histogram(values, NUM_BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = values.size - below
    sums = np.cumsum(counts * middles)
    # Both parts hold a voxel: the smallest and the largest value lie in the first and the last bin.
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    best = below * above * gap**2
    return float(edges[1:-1][best == best.max()].mean())


def kept_ml(strength: NDArray[np.floating], limit: float, spacing_mm: float) -> float:
    """Volume of the voxels that a threshold keeps, ml."""
    return float(np.count_nonzero(strength >= limit)) * spacing_mm**3 / 1000.0
