"""Synthetic scans as training material: classifiers trained on them alone or with real scans, tested on real people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.tables import Row
from gen3d.maths.stats import Interval, bootstrap_interval
from gen3d.quality.fidelity import PredictorMaterial, auc_interval, macro_auc
from gen3d.quality.folder import BOTH, REAL, SAME_N, SYNTHETIC
from gen3d.quality.people import REQUESTED, numbers_of
from gen3d.quality.predictors import MIN_CLASS, MIN_TRAINING, Readings, fit_categorical, folds

Values = NDArray[np.float64]
Codes = NDArray[np.object_]
NUM_REPEATS = 3
"""Splits into folds over which the scores of a person are averaged."""


def utility_rows(
    material: PredictorMaterial, names: Sequence[str], num_resamples: int, seed: int
) -> tuple[pd.DataFrame, list[str]]:
    """Four rows per category that was requested: the same classifier trained on different scans, tested on the same people.

    The people tested are real, never seen by the generator, and in no training (five folds by subject, scores averaged over
    three splits). `gain` is a difference of AUC, paired over people: `synthetic` minus as many real scans, and
    `real and synthetic` minus the real ones.

    Returns:
        the table (target, trained_on, n_train, n_test, auc, gain, each with `_low` and `_high`), and why a category has none.
    """
    rows: list[Row] = []
    notes: list[str] = []
    for name in names:
        if name not in material.real.columns or numbers_of(material.synthetic[f"{REQUESTED}{name}"]) is not None:
            continue
        real, synthetic = _codes(material.real[name]), _codes(material.synthetic[f"{REQUESTED}{name}"])
        shared = [
            code
            for code in sorted(set(synthetic) - {""})
            if min((synthetic == code).sum(), (real[material.held_out] == code).sum()) >= MIN_CLASS
        ]
        if len(shared) < 2:
            notes.append(f"{name}: not two categories with {MIN_CLASS} synthetic scans and {MIN_CLASS} held-out people")
            continue
        of_target = _of_target(material, name, real, synthetic, shared, num_resamples, seed)
        rows += of_target
        if not of_target:
            notes.append(f"{name}: fewer than {MIN_TRAINING} scans to train on")
    return pd.DataFrame(rows), notes


def _codes(column: pd.Series) -> Codes:
    filled = column.astype(object).where(column.notna(), "")
    return np.asarray(filled.astype(str).to_numpy(dtype=object))


def _of_target(
    material: PredictorMaterial,
    name: str,
    real: Codes,
    synthetic: Codes,
    codes: list[str],
    num_resamples: int,
    seed: int,
) -> list[Row]:
    known, usable = np.isin(real.astype(str), codes), np.flatnonzero(np.isin(synthetic.astype(str), codes))
    tested = material.held_out[known[material.held_out]]
    training = np.flatnonzero(known)
    if min(len(usable), len(training) - -(-len(tested) // 5)) < MIN_TRAINING:
        return []
    generator = np.random.default_rng(seed)
    shares = {kind: np.zeros((len(tested), len(codes))) for kind in (REAL, SAME_N, SYNTHETIC, BOTH)}
    sizes = dict.fromkeys(shares, 0)

    def score(kind: str, readings: Readings, labels: Codes, part: NDArray[np.int64]) -> None:
        predictor = fit_categorical(readings, labels)
        shares[kind][part] += predictor.shares(material.real_readings.rows(tested[part]), codes) / NUM_REPEATS
        sizes[kind] = max(sizes[kind], len(labels))

    synthetic_readings, synthetic_codes = material.synthetic_readings.rows(usable), synthetic[usable]
    for repeat in range(NUM_REPEATS):
        score(SYNTHETIC, synthetic_readings, synthetic_codes, np.arange(len(tested)))
        for part in folds(len(tested), seed + repeat):
            rows = np.setdiff1d(training, tested[part])
            real_readings = material.real_readings.rows(rows)
            score(REAL, real_readings, real[rows], part)
            both = real_readings.joined(synthetic_readings)
            score(BOTH, both, np.concatenate([real[rows], synthetic_codes]), part)
            fewer = _as_many(rows, real, len(usable), generator)
            score(SAME_N, material.real_readings.rows(fewer), real[fewer], part)
    labels = np.array([codes.index(str(code)) for code in real[tested]], dtype=np.int64)
    against = {SYNTHETIC: SAME_N, BOTH: REAL}
    return [
        {"target": name, "trained_on": kind, "n_train": sizes[kind], "n_test": len(tested)}
        | _columns("auc", auc_interval(of_kind, labels, num_resamples, seed))
        | _columns(
            "gain", _gain(of_kind, shares[against[kind]], labels, num_resamples, seed) if kind in against else NOTHING
        )
        for kind, of_kind in shares.items()
    ]


def _as_many(rows: NDArray[np.int64], codes: Codes, num: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """At most `num` of the rows, each category in its share, with two rows at least."""
    if len(rows) <= num:
        return rows
    order = generator.permutation(rows)
    by_code = [order[codes[order] == code] for code in np.unique(codes[rows].astype(str))]
    kept = [part[: max(2, round(num * len(part) / len(rows)))] for part in by_code]
    return np.sort(np.concatenate(kept))


NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


def _gain(of_kind: Values, other: Values, labels: NDArray[np.int64], num_resamples: int, seed: int) -> Interval:
    """Difference of two AUCs of the same people, with its interval over people."""
    width = of_kind.shape[1]

    def difference(table: Values) -> float:
        return macro_auc(table[:, : 1 + width]) - macro_auc(table[:, [0, *range(1 + width, 1 + 2 * width)]])

    statistic: Callable[[Values], float] = difference
    return bootstrap_interval(np.column_stack([labels, of_kind, other]), statistic, num_resamples, seed)


def _columns(name: str, interval: Interval) -> Row:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
