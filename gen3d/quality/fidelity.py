"""Conditioning fidelity: what was requested of a synthetic scan against what is measured in it, covariate by covariate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.structures import SUFFIX
from gen3d.core.tables import Row
from gen3d.maths.stats import Interval, auroc, bootstrap_interval, correlation, wilson_interval
from gen3d.quality.people import REQUESTED, numbers_of
from gen3d.quality.predictors import (
    MIN_CLASS,
    MIN_TRAINING,
    Readings,
    fit_categorical,
    fit_numeric,
    folds,
)

Values = NDArray[np.float64]
MIN_PAIRS = 4


@dataclass(frozen=True)
class PredictorMaterial:
    """What predictors are trained and tested on.

    Attributes:
        real: table of real people, those with role train first, then those that the generator never saw.
        synthetic: table of synthetic scans.
        real_readings, synthetic_readings: what predictors see of the scans of both tables.
        held_out: rows of `real` that the generator never saw.
        reference: rows of `held_out` people who match what was requested.
    """

    real: pd.DataFrame
    synthetic: pd.DataFrame
    real_readings: Readings
    synthetic_readings: Readings
    held_out: NDArray[np.int64]
    reference: NDArray[np.int64]


@dataclass(frozen=True)
class Fidelity:
    """`table`: rows of covariates; `people`: the numbers behind them, one row per scan; `notes`: why a covariate has no row."""

    table: pd.DataFrame
    people: pd.DataFrame
    notes: tuple[str, ...]


def fidelity(material: PredictorMaterial, names: Sequence[str], num_resamples: int, seed: int) -> Fidelity:
    """Two rows per covariate that was requested: one of synthetic scans, one of real people outside the predictor's training.

    A structure's volume is measured in the scan. Everything else is predicted by ridge or logistic regression on structure
    volumes and principal components. Predictors are trained on real people alone, in five folds over held-out people; the
    prediction of a synthetic scan is the mean over the five. The row of real people shows what the predictor can do.

    Columns of the table: covariate, method, people, n, then r, slope, mae or accuracy, auc with `_low` and `_high`.
    """
    rows: list[Row] = []
    people: list[pd.DataFrame] = []
    notes: list[str] = []
    for name in names:
        requested = material.synthetic[f"{REQUESTED}{name}"]
        numbers = numbers_of(requested)
        if numbers is not None:
            method, pairs = _pairs(material, name, numbers.to_numpy(dtype=np.float64), seed)
            for kind, (target, reading) in pairs.items():
                rows.append(_agreement(name, method, kind, target, reading, num_resamples, seed))
                people.append(
                    pd.DataFrame({"covariate": name, "people": kind, "requested": target, "measured": reading}).dropna()
                )
            if not pairs:
                notes.append(f"{name}: fewer than {MIN_TRAINING} real people whose value is known")
            continue
        category_rows = _classified(material, name, requested, num_resamples, seed)
        rows += category_rows
        if not category_rows:
            notes.append(f"{name}: fewer than {MIN_CLASS} real people of each of two categories to train on")
    columns = ["covariate", "people", "requested", "measured"]
    everybody = pd.concat(people, ignore_index=True) if people else pd.DataFrame(columns=columns)
    return Fidelity(pd.DataFrame(rows), everybody, tuple(notes))


def _pairs(
    material: PredictorMaterial, name: str, requested: Values, seed: int
) -> tuple[str, dict[str, tuple[Values, Values]]]:
    """The method, measured or predicted, and for synthetic and real scans the pair (requested or true value, its reading)."""
    if name.endswith(SUFFIX) and name in material.synthetic.columns:
        return "measured", {"synthetic": (requested, material.synthetic[name].to_numpy(dtype=np.float64))}
    column = numbers_of(material.real[name]) if name in material.real.columns else None
    if column is None:
        return "predicted", {}
    values = column.to_numpy(dtype=np.float64)
    known = np.isfinite(values)

    def fit(rows: NDArray[np.int64]) -> Callable[[Readings], Values]:
        return fit_numeric(material.real_readings.rows(rows), values[rows]).numbers

    predictions = cross_predicted(material, known, fit, seed)
    if predictions is None:
        return "predicted", {}
    real, synthetic = predictions
    reference = material.reference[known[material.reference]]
    return "predicted", {"synthetic": (requested, synthetic), "real": (values[reference], real[reference])}


def _classified(
    material: PredictorMaterial, name: str, requested: pd.Series, num_resamples: int, seed: int
) -> list[Row]:
    if name not in material.real.columns:
        return []
    codes = material.real[name].astype(object).where(material.real[name].notna(), "").astype(str).to_numpy(dtype=object)
    counts = pd.Series(codes[codes != ""]).value_counts()
    usable = sorted(str(code) for code, count in counts.items() if count >= MIN_CLASS)
    wanted = requested.astype(object).where(requested.notna(), "").astype(str).to_numpy(dtype=object)
    if len(usable) < 2 or not set(wanted) & set(usable):
        return []
    known = np.isin(codes.astype(str), usable)

    def fit(rows: NDArray[np.int64]) -> Callable[[Readings], Values]:
        predictor = fit_categorical(material.real_readings.rows(rows), codes[rows])
        return lambda readings: predictor.shares(readings, usable)

    predictions = cross_predicted(material, known, fit, seed, len(usable))
    if predictions is None:
        return []
    real, synthetic = predictions
    reference = material.reference[known[material.reference]]
    requested_rows = np.isin(wanted.astype(str), usable)
    return [
        _recognition(name, "synthetic", wanted[requested_rows], synthetic[requested_rows], usable, num_resamples, seed),
        _recognition(name, "real", codes[reference], real[reference], usable, num_resamples, seed),
    ]


def cross_predicted(
    material: PredictorMaterial,
    known: NDArray[np.bool_],
    fit: Callable[[NDArray[np.int64]], Callable[[Readings], Values]],
    seed: int,
    num_columns: int = 0,
) -> tuple[Values, Values] | None:
    """Predictions of held-out real people by predictors not trained on them, and of synthetic scans; None with too few people.

    Args:
        known: real people whose value is known, [n].
        fit: rows of real people -> a function of readings.
        num_columns: of a prediction; 0 for one number.

    Returns:
        for all real rows (NaN where not held out or unknown) and for all synthetic scans: [n] or [n, columns].
    """
    shape = (num_columns,) if num_columns else ()
    real = np.full((len(known), *shape), np.nan)
    tested = material.held_out[known[material.held_out]]
    total, parts = np.zeros((len(material.synthetic_readings), *shape)), folds(len(tested), seed) if len(tested) else []
    for part in parts:
        rows = np.setdiff1d(np.flatnonzero(known), tested[part])
        if len(rows) < MIN_TRAINING:
            return None
        predict = fit(rows)
        real[tested[part]] = predict(material.real_readings.rows(tested[part]))
        total += predict(material.synthetic_readings)
    return (real, total / len(parts)) if parts else None


def _agreement(
    name: str, method: str, people: str, requested: Values, measured: Values, num_resamples: int, seed: int
) -> Row:
    """Correlation, slope of measured on requested, and mean absolute error, with intervals over people."""
    kept = np.isfinite(requested) & np.isfinite(measured)
    x, y = requested[kept], measured[kept]
    row: Row = {"covariate": name, "method": method, "people": people, "n": len(x)}
    nothing = Interval(float("nan"), float("nan"), float("nan"), len(x))
    varied = len(x) >= MIN_PAIRS and float(np.ptp(x)) > 0
    slope = bootstrap_interval(np.column_stack([x, y]), _slope, num_resamples, seed) if varied else nothing
    return (
        row
        | _columns("r", correlation(x, y) if varied else nothing)
        | _columns("slope", slope)
        | _columns("mae", bootstrap_interval(np.abs(y - x), num_resamples=num_resamples, seed=seed))
    )


def _slope(pairs: Values) -> float:
    x = pairs[:, 0] - pairs[:, 0].mean()
    total = float(x @ x)
    return float(x @ pairs[:, 1]) / total if total > 0 else float("nan")


def _recognition(
    name: str, people: str, codes: NDArray[np.object_], shares: Values, known: list[str], num_resamples: int, seed: int
) -> Row:
    """Accuracy and AUC of a category (the mean of one against the rest), with intervals over people."""
    labels = np.array([known.index(str(code)) for code in codes], dtype=np.int64)
    right = int((shares.argmax(axis=1) == labels).sum()) if len(labels) else 0
    return (
        {"covariate": name, "method": "classified", "people": people, "n": len(labels)}
        | _columns("accuracy", wilson_interval(right, len(labels)))
        | _columns("auc", auc_interval(shares, labels, num_resamples, seed))
    )


def auc_interval(shares: Values, labels: NDArray[np.int64], num_resamples: int, seed: int) -> Interval:
    """Mean over categories of the AUC of one against the rest, with its interval over people; NaN for one category."""
    if len(np.unique(labels)) < 2:
        return Interval(float("nan"), float("nan"), float("nan"), len(labels))
    return bootstrap_interval(np.column_stack([labels, shares]), macro_auc, num_resamples, seed)


def macro_auc(table: Values) -> float:
    """Rows of label and shares [n, 1 + codes] -> mean AUC over the labels that occur; NaN where only one does."""
    labels = table[:, 0].astype(np.int64)
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    return float(np.mean([auroc(table[:, 1 + code], labels == code) for code in present]))


def _columns(name: str, interval: Interval) -> Row:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
