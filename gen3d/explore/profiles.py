"""Profiles of intensity: histograms and quantiles by level with intervals over people, bands of grey values, and their trend.

Grey values are those of an 8-bit scan: the white-matter median of a prepared scan is set to a fixed value of 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.explore.levels import Exploring
from gen3d.explore.permuting import Effects, Shuffles, effects_of
from gen3d.maths.stats import bootstrap_interval

Floats = NDArray[np.float64]
BANDS = ((40, 60), (100, 140))
"""Grey values of 8-bit scans, ends included: about fluid, and about grey matter, where white matter is at 180."""

PER_BIN = 4
"""Grey values in a bin of the curves."""

SHARES = np.arange(0.02, 0.985, 0.02)
"""Of voxels, at which quantiles are taken."""

MEASURES = ("mean", "median", *(f"share {low} to {high}" for low, high in BANDS))


@dataclass(frozen=True)
class LevelCurve:
    """One level's mean curve with the interval of each point over people: x, value, low and high [k]."""

    level: str
    x: Floats
    value: Floats
    low: Floats
    high: Floats


def measures(histogram: NDArray[np.floating]) -> Floats:
    """The MEASURES of every person [n, 4] from histograms [n, 256]."""
    shares = np.asarray(histogram, dtype=np.float64)
    greys = np.arange(shares.shape[1])
    columns = [shares @ greys, quantiles(shares, np.array([0.5]))[:, 0]]
    columns += [shares[:, low : high + 1].sum(axis=1) for low, high in BANDS]
    return np.stack(columns, axis=1)


def quantiles(histogram: NDArray[np.floating], shares: Floats) -> Floats:
    """Grey values [n, q] below which these shares of a person's voxels lie, linear within a grey value."""
    cumulative = np.cumsum(np.asarray(histogram, dtype=np.float64), axis=1)
    edges = np.arange(histogram.shape[1] + 1) - 0.5
    return np.stack(
        [np.interp(shares, np.concatenate([[0.0], row / max(row[-1], 1e-12)]), edges) for row in cumulative]
    )


def density_curves(histogram: NDArray[np.floating], people: Exploring, num: int, seed: int) -> list[LevelCurve]:
    """Mean share of voxels per grey value, by level."""
    binned = np.asarray(histogram, dtype=np.float64).reshape(len(histogram), -1, PER_BIN).mean(axis=2)
    return _curves(np.arange(binned.shape[1]) * PER_BIN + (PER_BIN - 1) / 2, binned, people, num, seed)


def quantile_curves(histogram: NDArray[np.floating], people: Exploring, num: int, seed: int) -> list[LevelCurve]:
    """Mean grey value at each share of voxels, by level."""
    return _curves(100 * SHARES, quantiles(histogram, SHARES), people, num, seed)


def _curves(x: Floats, values: Floats, people: Exploring, num: int, seed: int) -> list[LevelCurve]:
    curves = []
    for place, level in enumerate(people.levels):
        chosen = values[people.of_level == place]
        generator = np.random.default_rng((seed, place))
        weights = generator.multinomial(len(chosen), np.full(len(chosen), 1 / len(chosen)), size=num) / len(chosen)
        low, high = np.percentile(weights @ chosen, [2.5, 97.5], axis=0)
        curves.append(LevelCurve(level, x, chosen.mean(axis=0), low, high))
    return curves


def intensity_rows(histogram: NDArray[np.floating], people: Exploring, num: int, seed: int) -> pd.DataFrame:
    """One row per measure and level: mean over people with its interval."""
    values, rows = measures(histogram), []
    for column, name in enumerate(MEASURES):
        for place, level in enumerate(people.levels):
            found = bootstrap_interval(values[people.of_level == place, column], None, num, seed)
            rows.append((name, level, found.value, found.low, found.high, found.num))
    return pd.DataFrame(rows, columns=["measure", "level", "value", "low", "high", "num_people"])


def trend_rows(histogram: NDArray[np.floating], people: Exploring, shuffles: Shuffles) -> pd.DataFrame:
    """One row per measure: its change per level with age held fixed, corrected for all of them."""
    found: Effects = effects_of(measures(histogram), shuffles)
    return pd.DataFrame(
        {
            "measure": MEASURES,
            "per_level": found.slope,
            "sd": found.sd,
            "t": found.t,
            "p_fwe": found.p_fwe if shuffles.possible else np.nan,
            "num_people": len(people.table),
        }
    )
