"""Agreement of repeated measurements, and change beyond measurement error.

With d = x2 - x1 of n people who did not change, the within-person standard deviation is sqrt(sum d^2 / 2n) (Bland and
Altman 1996, BMJ 313:744), and a change is reliable when it is large against the standard deviation of d (Jacobson and
Truax 1991, Journal of Consulting and Clinical Psychology 59:12). With n people that standard deviation is an estimate,
so the quotient follows Student's t; its variance is moderated across regions as in `gen3d.anomaly.calibration.normative`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri_exp
from scipy.stats import f as f_distribution

from gen3d.anomaly.calibration.normative import estimate_prior
from gen3d.anomaly.calibration.student import log_survival

Array = NDArray[np.float64]
MIN_YEARS = 0.25
"""Repeats closer than this carry no information on change per year."""


@dataclass(frozen=True)
class RetestNoise:
    """Differences of two scans of people who did not change, per region.

    `sd` [R] is the moderated standard deviation of a difference, `drift` [R] the mean change per year, `dof` the degrees
    of freedom of `sd`, `squared_years` the sum of squares behind the drift (infinite where no drift was estimated).
    """

    sd: Array
    drift: Array
    dof: float
    squared_years: float
    num_pairs: int


def fit_retest(differences: ArrayLike, years: ArrayLike, min_drift_pairs: int = 10) -> RetestNoise:
    """Standard deviation of differences of unchanged people, around their own mean change per year.

    Args:
        differences: second minus first value, [n, R].
        years: between the two scans, [n]; NaN counts as 0.
        min_drift_pairs: a drift is estimated when at least this many pairs are `MIN_YEARS` or more apart; else it is 0.

    Raises:
        ValueError: fewer than two pairs.
        UserError: no region differs at all.
    """
    d = np.asarray(differences, dtype=np.float64)
    t = np.nan_to_num(np.asarray(years, dtype=np.float64))
    if len(d) < 2:
        raise ValueError(f"{len(d)} pairs give no standard deviation; at least 2 are needed")
    has_drift = int((t >= MIN_YEARS).sum()) >= max(2, min_drift_pairs)
    squared = float(t @ t) if has_drift else math.inf
    drift = t @ d / squared if has_drift else np.zeros(d.shape[1])
    dof = len(d) - int(has_drift)
    variance = ((d - t[:, None] * drift) ** 2).sum(axis=0) / dof
    prior = estimate_prior(variance, dof)
    if math.isinf(prior.dof):
        moderated = np.full(variance.shape, prior.variance)
    else:
        moderated = (prior.dof * prior.variance + dof * variance) / (prior.dof + dof)
    return RetestNoise(np.sqrt(moderated), drift, dof + prior.dof, squared, len(d))


def reliable_change(difference: ArrayLike, years: float, noise: RetestNoise) -> Array:
    """z [R] of a change [R] after `years`: (change - expected) over its standard deviation, standard normal without change.

    The uncertainty of the expected change is in the standard deviation, and Student's t is mapped to z.
    """
    t = years if math.isfinite(years) else 0.0
    scale = noise.sd * math.sqrt(1.0 + t * t / noise.squared_years)
    quotient = (np.asarray(difference, dtype=np.float64) - t * noise.drift) / scale
    if math.isinf(noise.dof):
        return quotient
    return np.copysign(-ndtri_exp(log_survival(np.abs(quotient), noise.dof)), quotient)


def within_person_sd(first: ArrayLike, second: ArrayLike) -> Array:
    """sqrt(sum d^2 / 2n) per region: first, second [n, R] -> [R]."""
    d = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    return np.sqrt((d**2).mean(axis=0) / 2.0)


@dataclass(frozen=True)
class Agreement:
    """Intraclass correlation with its confidence interval, each [R]."""

    value: Array
    low: Array
    high: Array


def icc(values: ArrayLike, level: float = 0.95) -> Agreement:
    """ICC(2,1): two-way random effects, absolute agreement, single measurement (Shrout and Fleiss 1979, Psych Bull 86).

    The interval is that of McGraw and Wong 1996 (Psychological Methods 1, table 7). values [n people, k scans, R];
    NaN with fewer than 3 people.
    """
    x = np.asarray(values, dtype=np.float64)
    n, k, num = x.shape
    if n < 3 or k < 2:
        empty = np.full(num, np.nan)
        return Agreement(empty, empty, empty)
    mean = x.mean(axis=(0, 1))
    rows = k * ((x.mean(axis=1) - mean) ** 2).sum(axis=0) / (n - 1)
    columns = n * ((x.mean(axis=0) - mean) ** 2).sum(axis=0) / (k - 1)
    error = ((x - x.mean(axis=1, keepdims=True) - x.mean(axis=0, keepdims=True) + mean) ** 2).sum(axis=(0, 1))
    error = error / ((n - 1) * (k - 1))
    rest = k * columns + (k * n - k - n) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (rows - error) / (rows + (k - 1) * error + k * (columns - error) / n)
        a, b = k * value / (n * (1 - value)), 1 + k * value * (n - 1) / (n * (1 - value))
        dof = (a * columns + b * error) ** 2
        dof = dof / ((a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1)))
        tail = 0.5 + level / 2
        lower, upper = f_distribution.ppf(tail, n - 1, dof), f_distribution.ppf(tail, dof, n - 1)
        low = n * (rows - lower * error) / (lower * rest + n * rows)
        high = n * (upper * rows - error) / (rest + n * upper * rows)
    return Agreement(value, low, high)
