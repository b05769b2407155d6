"""Volumes of brain structures: whether synthetic scans and real people have the same distribution."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ks_2samp, wasserstein_distance

from gen3d.cohort.structures import SUFFIX
from gen3d.core.tables import Row
from gen3d.maths.set_distances import half_draws, over_repeats
from gen3d.maths.significance import fdr_adjust
from gen3d.maths.stats import Interval

Values = NDArray[np.float64]
DRAWN_AT_ONCE = 1 << 20
"""Numbers of resamples that are in memory together (8 MiB)."""


def structure_columns(*tables: pd.DataFrame) -> list[str]:
    """Structures whose volume (ml) every table has."""
    first = [str(name) for name in tables[0].columns if str(name).endswith(SUFFIX)]
    return [name for name in first if all(name in table.columns and table[name].notna().all() for table in tables)]


def structure_rows(
    real: pd.DataFrame, synthetic: pd.DataFrame, num_resamples: int, num_repeats: int, seed: int
) -> pd.DataFrame:
    """One row per structure.

    Columns: n and mean and SD of both (ml); `difference_sd`, the difference of means in SDs of real people, and `ratio_sd`,
    the ratio of SDs, with intervals over people; `ks` and its p and q (over structures); `wasserstein_sd` in SDs of real
    people between halves of one size, with the floor of two halves of real people.
    """
    rows = []
    for name in structure_columns(real, synthetic):
        a, b = (table[name].to_numpy(dtype=np.float64) for table in (real, synthetic))
        test = ks_2samp(b, a)
        value, floor = _wasserstein(a, b, num_repeats, seed)
        rows.append(
            {
                "structure": name.removesuffix(SUFFIX).replace("_", " "),
                "n_real": len(a),
                "n_synthetic": len(b),
                "mean_real_ml": a.mean(),
                "mean_synthetic_ml": b.mean(),
                "sd_real_ml": a.std(ddof=1),
                "sd_synthetic_ml": b.std(ddof=1),
                **_resampled(a, b, num_resamples, seed),
                "ks": float(test.statistic),
                "p": float(test.pvalue),
                "n_wasserstein": value.num,
                **_columns("wasserstein_sd", value),
                **_columns("floor_sd", floor),
            }
        )
    table = pd.DataFrame(rows)
    if len(table):
        table.insert(list(table.columns).index("p") + 1, "q", fdr_adjust(table["p"].to_numpy(dtype=np.float64)))
    return table


def _resampled(real: Values, synthetic: Values, num_resamples: int, seed: int) -> Row:
    """Standardised difference of means and ratio of SDs with percentile intervals over people of both sets."""
    generator = np.random.default_rng(seed)
    tiny = 1e-12
    mean_a, sd_a = _moments_of_draws(real, num_resamples, generator)
    mean_b, sd_b = _moments_of_draws(synthetic, num_resamples, generator)
    sd_a = np.maximum(sd_a, tiny)
    spread = max(float(real.std(ddof=1)), tiny)
    difference = Interval(float(synthetic.mean() - real.mean()) / spread, *_limits((mean_b - mean_a) / sd_a), len(real))
    ratio = Interval(float(synthetic.std(ddof=1)) / spread, *_limits(sd_b / sd_a), len(real))
    return _columns("difference_sd", difference) | _columns("ratio_sd", ratio)


def _moments_of_draws(values: Values, num_resamples: int, generator: np.random.Generator) -> tuple[Values, Values]:
    """Mean and SD of resamples of people [r], some at a time, so that memory does not grow with people times resamples."""
    step = max(1, DRAWN_AT_ONCE // len(values))
    sizes = [min(step, num_resamples - start) for start in range(0, num_resamples, step)]
    parts = (values[generator.integers(len(values), size=(size, len(values)))] for size in sizes)
    moments = [(part.mean(axis=1), part.std(axis=1, ddof=1)) for part in parts]
    return np.concatenate([mean for mean, _ in moments]), np.concatenate([sd for _, sd in moments])


def _limits(values: Values) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _wasserstein(real: Values, synthetic: Values, num_repeats: int, seed: int) -> tuple[Interval, Interval]:
    """Distance of synthetic to real halves, and of two real halves, in SDs of real people."""
    spread = max(float(real.std(ddof=1)), 1e-12)
    draws = half_draws(len(real), len(synthetic), num_repeats, seed)
    num = len(draws[0].real)
    values: list[float] = []
    floors: list[float] = []
    for draw in draws:
        values.append(wasserstein_distance(synthetic[draw.positions], real[draw.real]) / spread)
        floors.append(wasserstein_distance(real[draw.other], real[draw.real]) / spread)
    return over_repeats(values, num), over_repeats(floors, num)


def _columns(name: str, interval: Interval) -> Row:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
