"""Whether predicted probabilities (or numbers) agree with the outcomes: Brier score, calibration error, recalibration.

Rows may be repeats of the same scans: `share` weighs them (1 / repeats), and intervals are over people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri

from gen3d.maths.cross_validated import Bootstrap, Values, influence_variance, percentiles
from gen3d.maths.stats import Interval, wilson_interval

CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1 before a logarithm is taken."""

NEWTON_STEPS = 50


def ratio(sums: Values) -> Values:
    """First column of sums [..., 2] over the second; NaN where that is 0."""
    return np.where(sums[..., 1] > 0, sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1.0), np.nan)


def brier(bootstrap: Bootstrap, probabilities: ArrayLike, truth: ArrayLike, share: Values) -> Interval:
    """Mean squared distance of probabilities from the outcomes (Brier 1950).

    Two classes: probabilities and truth (0 or 1) [n], between 0 and 1. More: [n, classes], summed over the classes, up to 2.
    """
    difference = np.asarray(probabilities, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    squared = np.sum(difference.reshape(len(share), -1) ** 2, axis=1)
    return bootstrap.interval(np.stack([share * squared, share], axis=1), ratio)


def equal_count_bins(predicted: ArrayLike, num_bins: int) -> NDArray[np.int64]:
    """Bin of each prediction, 0 to num_bins - 1, about equally many in each; equal predictions share a bin, [n]."""
    values = np.asarray(predicted, dtype=np.float64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="right")
    return np.unique(bins, return_inverse=True)[1].ravel().astype(np.int64)


def expected_calibration_error(
    bootstrap: Bootstrap, predicted: ArrayLike, truth: ArrayLike, share: Values, num_bins: int
) -> Interval:
    """Mean over bins of equal count of |mean prediction - share that came true|, weighted by their size.

    The bins stay those of all people in every resample. The error is never negative, so that it is too large for few people
    even where calibration is perfect (0.08 for 200 people and 10 bins, 0.04 for 1,000, in simulation), and larger still in
    resamples. The interval is therefore the reflected one (2 x value - percentile, Davison and Hinkley 1997, section 5.2),
    not below 0 and with the value inside. It is no test: it left out 0 in half of such simulated cohorts. The slope is one.
    """
    bins = equal_count_bins(predicted, num_bins)
    member = (bins[:, None] == np.arange(bins.max() + 1)) * share[:, None]
    gaps = member * (np.asarray(predicted, dtype=np.float64) - np.asarray(truth, dtype=np.float64))[:, None]
    num = gaps.shape[1]

    def error(sums: Values) -> Values:
        return np.asarray(np.abs(sums[..., :num]).sum(axis=-1) / sums[..., num:].sum(axis=-1))

    value, resampled = bootstrap.resample(np.hstack([gaps, member]), error)
    low, high = percentiles(resampled)
    people = len(np.unique(bootstrap.people))
    return Interval(value, min(value, max(0.0, 2 * value - high)), max(value, 2 * value - low), people)


@dataclass(frozen=True)
class Bin:
    """Predictions of one bin: their mean, and the share that came true with its interval.

    Its number is of the people who were in the bin in any repeat.
    """

    predicted: float
    observed: Interval


def reliability(
    bootstrap: Bootstrap, predicted: ArrayLike, truth: ArrayLike, share: Values, num_bins: int
) -> list[Bin]:
    """The bins of `expected_calibration_error`, from the lowest predictions to the highest.

    Where the event came true for none or all people of a bin, the interval is Wilson's for the number of people.
    """
    values, came = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    bins = equal_count_bins(values, num_bins)
    rows = []
    for index in range(int(bins.max()) + 1):
        inside = bins == index
        people = len(np.unique(bootstrap.people[inside]))
        weight = share * inside
        observed = bootstrap.interval(np.stack([weight * came, weight], axis=1), ratio)
        low, high = observed.low, observed.high
        if observed.value in (0.0, 1.0):
            exact = wilson_interval(round(observed.value * people), people)
            low, high = exact.low, exact.high
        rows.append(
            Bin(float(np.average(values[inside], weights=share[inside])), Interval(observed.value, low, high, people))
        )
    return rows


def calibration_slope(people: NDArray[np.int64], predicted: ArrayLike, truth: ArrayLike, share: Values) -> Interval:
    """Slope of the logistic regression of the truth on the logit of the prediction (Cox 1958): 1 is right, below 1 too bold.

    The interval is normal with the variance that is robust to several rows per person (Liang and Zeger 1986). NaN where
    predictions do not vary or separate the classes completely, for then the slope is infinite.
    """
    x = logit(np.clip(np.asarray(predicted, dtype=np.float64), CLIP, 1 - CLIP))
    y = np.asarray(truth, dtype=np.float64)
    num = len(np.unique(people))
    if np.ptp(x) < 1e-9 or not 0 < y.mean() < 1 or _separated(x, y):
        return Interval(math.nan, math.nan, math.nan, num)
    design = np.stack([np.ones_like(x), x], axis=1)
    fit = _logistic(design, y, share, np.zeros_like(x), people)
    return Interval(math.nan, math.nan, math.nan, num) if fit is None else _normal(fit[0][1], fit[1][1], num)


def calibration_intercept(people: NDArray[np.int64], predicted: ArrayLike, truth: ArrayLike, share: Values) -> Interval:
    """What must be added to all logits to be right on the whole (calibration in the large, slope 1): 0 is right.

    Above 0 the predictions are too low. Interval as for the slope; NaN with one class.
    """
    x = logit(np.clip(np.asarray(predicted, dtype=np.float64), CLIP, 1 - CLIP))
    y = np.asarray(truth, dtype=np.float64)
    num = len(np.unique(people))
    if not 0 < y.mean() < 1:
        return Interval(math.nan, math.nan, math.nan, num)
    fit = _logistic(np.ones((len(x), 1)), y, share, x, people)
    return Interval(math.nan, math.nan, math.nan, num) if fit is None else _normal(fit[0][0], fit[1][0], num)


def _separated(x: Values, y: Values) -> bool:
    ill, well = x[y > 0.5], x[y <= 0.5]
    return bool(ill.min() >= well.max() or well.min() >= ill.max())


def _logistic(
    design: Values, truth: Values, share: Values, offset: Values, people: NDArray[np.int64]
) -> tuple[Values, Values] | None:
    """Weighted logistic regression by Newton's method with halved steps: coefficients and their robust variances."""

    def deviance(coefficients: Values) -> float:
        eta = design @ coefficients + offset
        return float(np.sum(share * (np.logaddexp(0.0, eta) - truth * eta)))

    estimate = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = expit(design @ estimate + offset)
        score = design.T @ (share * (truth - chance))
        information = (design * (share * chance * (1 - chance))[:, None]).T @ design
        if not np.isfinite(information).all() or np.linalg.cond(information) > 1e14:
            return None
        step = np.linalg.solve(information, score)
        while deviance(estimate + step) > deviance(estimate) + 1e-12 and np.abs(step).max() > 1e-10:
            step = step / 2
        estimate = estimate + step
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    chance = expit(design @ estimate + offset)
    residual = design * (share * (truth - chance))[:, None]
    scores = np.stack([np.bincount(people, weights=column) for column in residual.T], axis=1)
    influence = scores[np.unique(people)] @ np.linalg.inv(information)
    together = np.zeros(len(influence), dtype=np.int64)
    return estimate, np.array([influence_variance(column, together) for column in influence.T])


def _normal(value: float, variance: float, num: int, level: float = 0.95) -> Interval:
    half = float(ndtri(0.5 + level / 2)) * math.sqrt(variance)
    return Interval(float(value), float(value) - half, float(value) + half, num)
