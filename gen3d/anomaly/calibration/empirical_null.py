"""The empirical null: a map of z that makes it standard normal in healthy people.

A per-voxel linear model assumes normal errors. Edges of a folded brain have heavier tails, so a threshold far out (the
one that FDR control over a whole brain uses) is passed too often. Pooled over voxels and held-out calibration people
the distribution of z is known well; mapping its quantiles to those of the normal distribution gives p values that hold
on average over voxels (Efron 2004, JASA 99:96, the empirical null). Beyond the outermost `TAIL_SHARE` of the pool on
either side the tail is a generalised Pareto distribution fitted by probability-weighted moments (Hosking and Wallis
1987, Technometrics 29:339; tail approximation as in Winkler et al. 2016, NeuroImage 141:502), never lighter than
exponential.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri_exp

LIMIT = 30.0
WIDTH = 0.01
TAIL_SHARE = 0.005  # further out, single people decide the empirical quantiles
MAX_SHAPE = 0.5  # from here on the fitted tail would have an infinite variance
EDGES = np.linspace(-LIMIT, LIMIT, round(2 * LIMIT / WIDTH) + 1)
CENTRES = 0.5 * (EDGES[1:] + EDGES[:-1])

Counts = NDArray[np.float64]


def count(z: NDArray[np.floating]) -> Counts:
    """Histogram of z over bins of width 0.01 from -30 to 30; values outside are counted in the outermost bins."""
    return np.histogram(np.clip(z, -LIMIT, LIMIT), EDGES)[0].astype(np.float64)


@dataclass(frozen=True)
class NullMap:
    """A monotone function of z, tabulated at `CENTRES`."""

    mapped: NDArray[np.float64]

    def __call__(self, z: NDArray[np.floating]) -> NDArray[np.float32]:
        """z as it would be if the pool were standard normal; any shape."""
        return np.interp(z, CENTRES, self.mapped).astype(np.float32)


def fit_null_map(counts: Counts) -> NullMap:
    """The map that makes a pool of held-out z standard normal.

    Args:
        counts: histogram of the pool, from `count`; at least a few thousand values.
    """
    upper = ndtri_exp(_log_survival(counts))
    lower = ndtri_exp(_log_survival(counts[::-1]))[::-1]
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    mapped = np.where(np.arange(len(counts)) < middle, lower, -upper)
    return NullMap(np.maximum.accumulate(mapped))


def _log_survival(counts: Counts) -> NDArray[np.float64]:
    """Logarithm of P(Z > centre of bin), empirical inside and generalised Pareto in the outermost share."""
    total = counts.sum()
    above = (np.cumsum(counts[::-1])[::-1] - 0.5 * counts) / total
    start = int(np.argmax(above <= TAIL_SHARE))
    log_survival = np.log(np.maximum(above, 0.5 / total))
    weights, excess = counts[start:], CENTRES[start:] - CENTRES[start] + 0.5 * WIDTH
    shape, scale = _generalised_pareto(excess, weights)
    if shape < 1e-6:
        tail = -excess / scale
    else:
        tail = -np.log1p(shape * excess / scale) / shape
    share = max(weights.sum() / total, 0.5 / total)
    log_survival[start:] = np.log(share) + tail
    return np.minimum.accumulate(log_survival)


def _generalised_pareto(excess: NDArray[np.float64], weights: Counts) -> tuple[float, float]:
    """Shape (>= 0) and scale of the excesses by probability-weighted moments; excesses ascending, with counts."""
    total = weights.sum()
    if total < 10:
        return 0.0, 0.25
    not_exceeded = (np.cumsum(weights) - 0.5 * weights) / total
    first = float(np.sum(weights * excess) / total)
    second = float(np.sum(weights * excess * (1.0 - not_exceeded)) / total)
    shape = 2.0 - first / (first - 2.0 * second) if first > 2.0 * second else MAX_SHAPE
    shape = float(np.clip(shape, 0.0, MAX_SHAPE))
    return shape, first * (1.0 - shape)
