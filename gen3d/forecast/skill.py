"""What the forecasts of people whom a model never saw are worth: skill against floors, coverage and width of intervals.

Everything is read from the errors that a run keeps; people are the unit: a person's pairs of visits are averaged first.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.tables import Row
from gen3d.forecast.conformal import LEVELS, ConformalIntervals, Floats, ModelErrors
from gen3d.forecast.folder import ALL_REGIONS, COPY_FORWARD
from gen3d.maths.stats import Interval, bootstrap_interval

FEWEST_PEOPLE = 3
"""Below this no skill is told."""


def skill_rows(calibration: ConformalIntervals, seed: int = 0) -> list[Row]:
    """Per model, other model and region 1 - error / error of the other, with a 95 % interval over people.

    Errors are absolute, of log volume change. The interval resamples people, each with both errors (paired). The row of all
    regions has the mean error over a person's regions.
    """
    names = sorted(calibration.models, key=lambda name: name != COPY_FORWARD)
    return [
        row
        for model in calibration.models
        for against in names
        if against != model
        for row in _against(calibration, model, against, seed)
    ]


def _against(calibration: ConformalIntervals, model: str, against: str, seed: int) -> list[Row]:
    errors = [person_means(np.abs(part.errors), part) for part in map(calibration.models.__getitem__, (model, against))]
    both = [np.column_stack([_mean(part), part]) for part in errors]
    found = relative_gains(both[0], both[1], seed)
    names = (ALL_REGIONS, *calibration.regions)
    return [
        {
            "model": model,
            "against": against,
            "region": name,
            "skill": gain.value,
            "low": gain.low,
            "high": gain.high,
            "num_people": gain.num,
            "error": _known_mean(both[0][:, place]),
            "error_against": _known_mean(both[1][:, place]),
        }
        for place, (name, gain) in enumerate(zip(names, found, strict=True))
    ]


def _known_mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _mean(values: Floats) -> Floats:
    """Mean over the last axis, NaN where nothing is known."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.asarray(np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan))


def relative_gains(own: Floats, other: Floats, seed: int = 0, num_resamples: int = 2000) -> list[Interval]:
    """1 - sum of `own` / sum of `other` over people, with 95 % bootstrap intervals over people.

    Args:
        own, other: errors >= 0 [people, R]; a person counts where both are known.

    Returns:
        one per column, NaN where `other` makes no error or fewer than `FEWEST_PEOPLE` are known.
    """
    known = np.isfinite(own) & np.isfinite(other)
    above, below = np.where(known, own, 0.0), np.where(known, other, 0.0)
    num = len(own)
    draws = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=num_resamples).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        values, resampled = 1 - above.sum(axis=0) / below.sum(axis=0), 1 - (draws @ above) / (draws @ below)
    found = []
    for place, counted in enumerate(known.sum(axis=0)):
        column = resampled[np.isfinite(resampled[:, place]), place]
        if counted < FEWEST_PEOPLE or not np.isfinite(values[place]) or not len(column):
            found.append(Interval(math.nan, math.nan, math.nan, int(counted)))
            continue
        low, high = np.percentile(column, [2.5, 97.5])
        found.append(Interval(float(values[place]), float(low), float(high), int(counted)))
    return found


def person_means(values: Floats, pairs: ModelErrors) -> Floats:
    """Mean over a person's pairs of visits [people, R], NaN where there is none; people in the order of their numbers."""
    num = int(pairs.people.max()) + 1 if len(pairs.people) else 0
    known, total = np.zeros((num, values.shape[1])), np.zeros((num, values.shape[1]))
    np.add.at(known, pairs.people, np.isfinite(values))
    np.add.at(total, pairs.people, np.nan_to_num(values))
    return np.asarray(np.where(known > 0, total / np.maximum(known, 1), np.nan))


def coverage_rows(calibration: ConformalIntervals, seed: int = 0) -> list[Row]:
    """Per model, bin of horizons and level: share of observed changes inside the interval, and its mean width.

    The interval of a person is made from the errors of all others. A person counts once, whatever the number of regions and pairs.
    """
    rows: list[Row] = []
    for model, pairs in calibration.models.items():
        for place, part in enumerate(calibration.bins):
            chosen = calibration.inside(pairs, place)
            covered, width = _leave_one_out(calibration, model, place, np.flatnonzero(chosen))
            for number, level in enumerate(LEVELS):
                share = bootstrap_interval(_by_person(covered[number], pairs.people[chosen]), seed=seed)
                width_of = _by_person(width[number], pairs.people[chosen])
                known = width_of[np.isfinite(width_of)]
                rows.append(
                    {
                        "model": model,
                        "years_low": part.low,
                        "years_high": part.high,
                        "years": float(pairs.years[chosen].mean()) if chosen.any() else np.nan,
                        "level": round(100 * level),
                        "num_people": share.num,
                        "coverage": share.value,
                        "low": share.low,
                        "high": share.high,
                        "width": float(known.mean()) if len(known) else np.nan,
                    }
                )
    return rows


def _leave_one_out(
    calibration: ConformalIntervals, model: str, place: int, chosen: NDArray[np.int_]
) -> tuple[Floats, Floats]:
    """Whether each pair's change lies inside its interval, and how wide that is, [levels, pairs] as means over regions."""
    pairs = calibration.models[model]
    covered, width = (np.full((len(LEVELS), len(chosen)), np.nan) for _ in range(2))
    middle = (calibration.bins[place].low + calibration.bins[place].high) / 2
    for column, pair in enumerate(chosen):
        half = calibration.half_widths(model, middle, pairs.spread[pair], calibration.subjects[pairs.people[pair]])
        error = np.abs(pairs.errors[pair])
        inside = np.where(np.isfinite(half) & np.isfinite(error)[None], error[None] <= half, np.nan)
        covered[:, column], width[:, column] = _mean(inside), _mean(2 * half)
    return covered, width


def _by_person(values: Floats, people: NDArray[np.int_]) -> Floats:
    known = np.isfinite(values)
    frame = pd.DataFrame({"person": people[known], "value": values[known]})
    return np.asarray(frame.groupby("person")["value"].mean().to_numpy(dtype=np.float64))
