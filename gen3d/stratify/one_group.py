"""Cohorts that vary like a given one, but in one group: the null against which groups are tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

Floats = NDArray[np.float64]
NUM_MODES = 25
"""Places of the mode that are tried, evenly over the sorted values."""


@dataclass(frozen=True)
class Unimodal:
    """A distribution with one mode: cumulative probabilities [n] at the sorted values [n], linear between.

    `distance` is the largest difference from the empirical distribution function, which the dip statistic of Hartigan
    and Hartigan 1985 is the least of over all unimodal distributions.
    """

    values: Floats
    cumulative: Floats
    distance: float


def nearest_unimodal(values: Floats) -> Unimodal:
    """The unimodal distribution of greatest likelihood, given the best of 25 places of its mode (Grenander 1956).

    It keeps skew, heavy and light tails; only further modes are filled up. values [n], n >= 3.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    num = len(ordered)
    gaps = np.maximum(np.diff(ordered), 1e-12 * max(ordered[-1] - ordered[0], 1e-300))
    density = 1.0 / ((num - 1) * gaps)
    empirical = np.linspace(0.0, 1.0, num)
    best: Unimodal | None = None
    for mode in np.unique(np.linspace(0, num - 1, NUM_MODES).round().astype(int)):
        rising = isotonic_regression(density[:mode], weights=gaps[:mode]).x if mode else density[:0]
        falling = (
            isotonic_regression(density[mode:], weights=gaps[mode:], increasing=False).x
            if mode < num - 1
            else density[:0]
        )
        cumulative = np.concatenate([[0.0], np.cumsum(np.concatenate([rising, falling]) * gaps)])
        cumulative /= cumulative[-1]
        distance = float(np.abs(cumulative - empirical).max())
        if best is None or distance < best.distance:
            best = Unimodal(ordered, cumulative, distance)
    assert best is not None
    return best


@dataclass(frozen=True)
class OneGroup:
    """A Gaussian copula with the unimodal marginals of a cohort: the same size, correlations, skew and tails."""

    marginals: tuple[Unimodal, ...]
    root: Floats

    def draw(self, num: int, generator: np.random.Generator) -> Floats:
        """A cohort [num, d] of one group, rotated to principal components as the original was."""
        uniform = ndtr(generator.standard_normal((num, len(self.marginals))) @ self.root.T)
        drawn = [
            np.interp(uniform[:, axis], marginal.cumulative, marginal.values)
            for axis, marginal in enumerate(self.marginals)
        ]
        values = np.stack(drawn, axis=1)
        left, singular, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
        return np.asarray(left * singular)


def one_group(values: Floats) -> OneGroup:
    """The null of a cohort [n, d]."""
    num, dimensions = values.shape
    normal = ndtri((rankdata(values, axis=0) - 0.5) / num)
    correlation = np.atleast_2d(np.corrcoef(normal, rowvar=False)) + 1e-9 * np.eye(dimensions)
    marginals = tuple(nearest_unimodal(values[:, axis]) for axis in range(dimensions))
    return OneGroup(marginals, np.asarray(np.linalg.cholesky(correlation), dtype=np.float64))
