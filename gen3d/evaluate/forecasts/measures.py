"""Measures of forecasts over people: skill, slope, coverage, scores of intervals, each with a bootstrap interval.

Every figure is a function of sums over people, so that a resample of people is a matrix product. A person with several pairs
of visits counts once, with the mean over the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.evaluate.forecasts.changes import Expected
from gen3d.forecast.folder import LEVELS
from gen3d.maths.stats import Interval

Floats = NDArray[np.float64]
NO_ERROR = 1e-6
"""Mean error below which a floor counts as without error, in log units of volume: tables of volumes have six digits; of squared
differences of T1w it is far below the noise of any scan."""

MIN_CONTROLS = 8
"""Fewer controls say too little about the spread of change where nothing progresses."""


@dataclass(frozen=True)
class Resampling:
    """How intervals over people are made."""

    num: int = 2000
    seed: int = 0
    level: float = 0.95

    def interval(self, sums: Floats, statistic: Callable[[Floats], Floats]) -> Interval:
        """A statistic of sums over people, with its percentile interval.

        Args:
            sums: [n, K], a row per person; rows with a NaN are left out.
            statistic: sums over people [..., K] -> values [...].
        """
        rows = sums[np.isfinite(sums).all(axis=1)] if len(sums) else sums
        if not len(rows):
            return Interval(math.nan, math.nan, math.nan, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(rows.sum(axis=0)))
            if len(rows) == 1 or not math.isfinite(value):
                return Interval(value if math.isfinite(value) else math.nan, math.nan, math.nan, len(rows))
            counts = np.random.default_rng(self.seed).multinomial(
                len(rows), np.full(len(rows), 1 / len(rows)), self.num
            )
            drawn = statistic(counts.astype(np.float64) @ rows)
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn):
            return Interval(value, math.nan, math.nan, len(rows))
        tail = 50.0 * (1.0 - self.level)
        low, high = np.percentile(drawn, [tail, 100.0 - tail])
        return Interval(value, float(low), float(high), len(rows))

    def mean(self, values: Floats) -> Interval:
        """Mean over people of values [n]."""
        return self.interval(np.stack([values, np.ones_like(values)], axis=1), lambda sums: sums[..., 0] / sums[..., 1])

    def skill(self, errors: Floats, of_floor: Floats) -> Interval:
        """1 - mean error / mean error of a floor on the same people [n]; 0 is no better than the floor, 1 is without error.

        NaN where the floor is without error, as copying is where nothing changed: nothing is a share of nothing.
        """
        known = np.isfinite(errors) & np.isfinite(of_floor)
        if not known.any() or float(of_floor[known].mean()) < NO_ERROR:
            return Interval(math.nan, math.nan, math.nan, 0)
        return self.interval(np.stack([errors, of_floor], axis=1), lambda sums: 1.0 - sums[..., 0] / sums[..., 1])

    def slope(self, forecast: Floats, true: Floats) -> Interval:
        """Slope of what came true on the forecast, [n] or [n, R] pooled; 1 is calibrated, below 1 the forecasts are too bold."""
        x, y = (np.atleast_2d(values.T).T for values in (forecast, true))
        known = np.isfinite(x) & np.isfinite(y)
        x, y = np.where(known, x, 0.0), np.where(known, y, 0.0)
        sums = np.stack([part.sum(axis=1) for part in (known.astype(np.float64), x, y, x * x, x * y)], axis=1)
        return self.interval(sums[known.any(axis=1)], _slope)


def _slope(sums: Floats) -> Floats:
    num, x, y, xx, xy = np.moveaxis(sums, -1, 0)
    spread = num * xx - x * x
    varies = spread > 1e-12 * np.maximum(num * xx, 1e-300)
    return np.asarray(np.where(varies, (num * xy - x * y) / np.where(varies, spread, 1.0), np.nan))


class PerPerson:
    """Means over the pairs of each person."""

    def __init__(self, subjects: Sequence[str]) -> None:
        self.people, self._of = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)

    def mean(self, values: NDArray[np.generic]) -> Floats:
        """[P, ...] -> [n, ...] without NaN; NaN where a person has none."""
        numbers = np.asarray(values, dtype=np.float64)
        known = np.isfinite(numbers)
        total, count = (np.zeros((len(self.people), *numbers.shape[1:])) for _ in range(2))
        np.add.at(total, self._of, np.where(known, numbers, 0.0))
        np.add.at(count, self._of, known)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))

    def longest(self, years: Floats) -> NDArray[np.int64]:
        """Of each person the place of the pair that is furthest apart in time [n]."""
        order = np.lexsort((np.asarray(years), self._of))
        return np.asarray(order[np.searchsorted(self._of[order], np.arange(len(self.people)), side="right") - 1])


def mean_over_regions(values: Floats) -> Floats:
    """[..., R] -> [...]: the mean of known regions, NaN without any."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    return np.asarray(np.where(count > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan))


def noise_of(true: Floats, years: Floats, controls: NDArray[np.bool_], subjects: Sequence[str], least: float) -> Floats:
    """Size of change per region [R] that is not told from none: the robust SD over controls about their mean rate.

    Never below `least`, which stands alone with fewer than 8 controls. 1.4826 x median absolute deviation, one pair per person.
    """
    noise = np.full(true.shape[1], least)
    if not controls.any():
        return noise
    rows = np.flatnonzero(controls)
    rows = rows[PerPerson([subjects[int(row)] for row in rows]).longest(years[rows])]
    if len(rows) < MIN_CONTROLS:
        return noise
    with np.errstate(invalid="ignore"):
        rate = np.nansum(true[rows], axis=0) / np.maximum(1e-9, years[rows].sum())
        off = np.abs(true[rows] - rate * years[rows, None])
    for region in range(true.shape[1]):
        known = off[np.isfinite(off[:, region]), region]
        if len(known) >= MIN_CONTROLS:
            noise[region] = max(least, 1.4826 * float(np.median(known)))
    return noise


def right_sign(forecast: Floats, true: Floats, noise: Floats) -> Floats:
    """1 where the direction of a change beyond the noise was forecast, 0.5 where none was forecast, 0 where the other; else NaN."""
    agreed = 0.5 + 0.5 * np.sign(forecast) * np.sign(true)
    return np.asarray(np.where((np.abs(true) > noise) & np.isfinite(forecast), agreed, np.nan))


def covered(expected: Expected, true: Floats, level: int) -> Floats:
    """1 where the truth lies in the interval, 0 where not, NaN without an interval or truth [P, R]."""
    low, high = expected.low[level], expected.high[level]
    known = np.isfinite(low) & np.isfinite(high) & np.isfinite(true)
    inside = (true >= low) & (true <= high)
    return np.asarray(np.where(known, inside, np.nan))


def crps_of_intervals(expected: Expected, true: Floats) -> Floats:
    """The continuous ranked probability score [P, R] from the forecast and the ends of its intervals: smaller is better.

    The CRPS is twice the integral of the quantile loss over all probabilities (Gneiting and Ranjan 2011, equation 6). Each known
    quantile (the forecast is that of 1/2) stands for the probabilities nearest to it. Without any interval it is the absolute
    error, which is the CRPS of a forecast that is sure of itself. In the unit of change.
    """
    known = np.stack([np.isfinite(expected.low[level]) & np.isfinite(expected.high[level]) for level in LEVELS])
    score = np.full(true.shape, np.nan)
    for pattern in np.unique(known.reshape(len(LEVELS), -1), axis=1).T:
        here = (known == pattern[:, None, None]).all(axis=0)
        ends = [(0.5, expected.change[here])]
        for level in (level for level, there in zip(LEVELS, pattern, strict=True) if there):
            tail = 0.5 - level / 200.0
            ends += [(tail, expected.low[level][here]), (1.0 - tail, expected.high[level][here])]
        ends.sort(key=lambda end: end[0])
        places = np.array([place for place, _ in ends])
        borders = np.concatenate([[0.0], 0.5 * (places[1:] + places[:-1]), [1.0]])
        loss = [(place - (true[here] < value)) * (true[here] - value) for place, value in ends]
        score[here] = 2.0 * np.sum(np.diff(borders)[:, None] * np.array(loss), axis=0)
    return score


def in_one_direction(curve: Floats, direction: int) -> Floats:
    """1 where a curve over time [n, H] goes the one way (+1 or -1) at every step, 0 where not; NaN with an unknown value."""
    steps = np.diff(curve, axis=1) * direction
    known = np.isfinite(curve).all(axis=1)
    return np.asarray(np.where(known, (steps > 0).all(axis=1), np.nan))


def as_columns(values: Mapping[str, Interval]) -> dict[str, float]:
    """Values and their intervals as columns of a table."""
    return {
        column: number
        for name, interval in values.items()
        for column, number in ((name, interval.value), (f"{name}_low", interval.low), (f"{name}_high", interval.high))
    }
