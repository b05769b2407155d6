"""What a method of explanation must pass before its pictures are believed, and what counts as passing.

- truth: where the cohort's changes are planted, the strength of a map finds the changed voxels better than chance and than the
  same map turned inside the brain (Siegel et al. 2025: saliency judged by a known signal).
- weights: with the network's weights randomised from the last stage down, the map becomes another one (Adebayo et al. 2018).
- labels: a network that was trained on labels permuted between people gives another map (the same).
- faithfulness: replacing the regions in the order of the map moves the score sooner than in random order (Petsiuk et al. 2018,
  over regions and not voxels).
- retest: two scans of one person are explained by the same regions (Shrout and Fleiss 1979, ICC(A,1)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from gen3d.core.tables import Row
from gen3d.maths.stats import Interval, bootstrap_interval

TRUTH, WEIGHTS, LABELS, FAITHFULNESS, RETEST = JUDGES = ("truth", "weights", "labels", "faithfulness", "retest")
FULLY = "all stages"
"""Name of the last step of the cascade, in which every weight is random."""

MOST_ALIKE = 0.5
"""Spearman correlation over voxels with the map of a random network, at most: more would be a picture of the scan. Adebayo et
al. give no limit; this one is our choice, and the correlations are in the table."""
LEAST_AGREEMENT = 0.5
"""Of ICC between two scans: below it agreement is poor (Koo and Li 2016)."""
FEWEST_PEOPLE = 3
"""A judge asks at least so many people; fewer give no interval to speak of."""


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Rank correlation of two maps' voxels [V]; NaN where one does not vary."""
    ranks = [rankdata(values) for values in (first, second)]
    if min(float(np.ptp(values)) for values in ranks) == 0:
        return math.nan
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def agreement(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """ICC(A,1) of two measurements of the same regions [R]: absolute agreement of single measurements (McGraw and Wong 1996).

    NaN with fewer than two regions or without any variance.
    """
    table = np.stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)], axis=1)
    table = table[np.isfinite(table).all(axis=1)]
    num, raters = table.shape
    if num < 2:
        return math.nan
    mean, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    between = raters * np.sum((rows - mean) ** 2) / (num - 1)
    judges = num * np.sum((columns - mean) ** 2) / (raters - 1)
    residual = table - rows[:, None] - columns[None] + mean
    error = np.sum(residual**2) / ((num - 1) * (raters - 1))
    total = between + (raters - 1) * error + raters * (judges - error) / num
    return float((between - error) / total) if total > 0 else math.nan


def verdicts(tables: dict[str, pd.DataFrame], methods: Sequence[str], seed: int) -> list[Row]:
    """One row per method and judge: value, its 95 % interval over people, what it is compared with, and whether it passed.

    Args:
        tables: `truth`, `randomised`, `faithfulness`, `retest`, a row per person and method (and step); empty for judges that
            could not be asked.
        methods: in the order of the rows.
        seed: of the intervals.

    Returns:
        Rows with `passed` True, False, or None where a judge could not be asked (`why` says why).
    """
    rows: list[Row] = []
    for method in methods:
        of = {name: _of_method(table, method) for name, table in tables.items()}
        rows += [
            _truth(method, of["truth"], seed),
            _alike(method, WEIGHTS, of["randomised"], FULLY, seed),
            _alike(method, LABELS, of["randomised"], LABELS, seed),
            _faithfulness(method, of["faithfulness"], seed),
            _retest(method, of["retest"], seed),
        ]
    return rows


def _of_method(table: pd.DataFrame, method: str) -> pd.DataFrame:
    return table[table["method"] == method] if len(table) else table


def _row(method: str, judge: str, interval: Interval, floor: float, passed: bool | None, why: str = "") -> Row:
    return {
        "method": method,
        "judge": judge,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "floor": floor,
        "num": interval.num,
        "passed": passed,
        "why": why,
    }


NOT_ASKED = Interval(math.nan, math.nan, math.nan, 0)


def _asked(method: str, judge: str, values: NDArray[Any], none: str) -> Row | None:
    num = int(np.isfinite(values).sum())
    if num >= FEWEST_PEOPLE:
        return None
    few = f"{num} people, and {FEWEST_PEOPLE} are needed"
    return _row(method, judge, Interval(math.nan, math.nan, math.nan, num), math.nan, None, few if num else none)


def _numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return table[column].to_numpy(dtype=np.float64) if len(table) else np.empty(0)


def _truth(method: str, table: pd.DataFrame, seed: int) -> Row:
    values = _numbers(table, "auprc")
    absent = _asked(method, TRUTH, values, "nothing is planted in the people explained")
    if absent is not None:
        return absent
    floors = np.maximum(_numbers(table, "prevalence"), _numbers(table, "auprc_turned"))
    gain = bootstrap_interval(values - floors, seed=seed)
    return _row(method, TRUTH, bootstrap_interval(values, seed=seed), float(np.nanmean(floors)), gain.low > 0)


def _alike(method: str, judge: str, table: pd.DataFrame, step: str, seed: int) -> Row:
    chosen = table[table["step"] == step] if len(table) else table
    none = "the run has no member with permuted labels" if judge == LABELS else "weights were not randomised (judged=0)"
    values = _numbers(chosen, "spearman")
    absent = _asked(method, judge, values, none)
    if absent is not None:
        return absent
    interval = bootstrap_interval(values, seed=seed)
    return _row(method, judge, interval, MOST_ALIKE, interval.value <= MOST_ALIKE)


def _faithfulness(method: str, table: pd.DataFrame, seed: int) -> Row:
    """The mean of deletion and insertion, less the same in random order, both as areas in units of the score."""
    values = (
        (_numbers(table, "deletion") - _numbers(table, "deletion_random"))
        + (_numbers(table, "insertion") - _numbers(table, "insertion_random"))
    ) / 2
    absent = _asked(method, FAITHFULNESS, values, "no region was replaced (judged=0)")
    if absent is not None:
        return absent
    interval = bootstrap_interval(values, seed=seed)
    return _row(method, FAITHFULNESS, interval, 0.0, interval.low > 0)


def _retest(method: str, table: pd.DataFrame, seed: int) -> Row:
    values = _numbers(table, "icc")
    absent = _asked(method, RETEST, values, "nobody has two scans")
    if absent is not None:
        return absent
    interval = bootstrap_interval(values, seed=seed)
    return _row(method, RETEST, interval, LEAST_AGREEMENT, interval.low >= LEAST_AGREEMENT)
