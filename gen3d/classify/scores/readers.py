"""A classifier against people who read the same scans, pair by pair; and published readers, who read other scans.

Each reader is compared with the classifier on the people whom that reader read, in pairs of people whom one fitted model tested, so
that both are measured on the same pairs. Several readers are summarised over readers and people: both are drawn anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.scores.checklist import rows_of
from gen3d.classify.scores.measures import auc_difference, draw_areas
from gen3d.classify.scores.rows import NOTHING, ModelPredictions, rates, read_predictions
from gen3d.cohort.manifest import CONTROL_NAMES
from gen3d.cohort.target import Target
from gen3d.core.tables import Row
from gen3d.maths.cross_validated import Bootstrap, Values, percentiles, resampled_weights, strata_of
from gen3d.maths.stats import Interval, mcnemar

PUBLISHED = "readers.tsv"
PUBLISHED_COLUMNS = ("source", "population", "readers", "result", "machine")
ALZHEIMER_NAMES = ("ad", "alzheimer", "alzheimers", "dat", "dementia")
COLUMNS: tuple[str, ...] = (
    *("reader", "num_people", "num_positive", "auc", "auc_low", "auc_high", "model_auc", "model_low", "model_high"),
    *("difference", "low", "high", "p_delong", "sensitivity", "sensitivity_low", "sensitivity_high"),
    *("specificity", "specificity_low", "specificity_high", "model_sensitivity", "model_specificity"),
    *("reader_only_right", "model_only_right", "p_mcnemar"),
)
"""Of the table `readers`: areas of the reader and of the classifier on the same pairs of people; difference: the classifier's minus
the reader's. Over all readers, `reader` is "" and the rates are those of nobody."""


@dataclass(frozen=True)
class _Pair:
    """The classifier and one reader on the same rows, and the difference of their areas in every resample of people."""

    row: Row
    areas: tuple[float, float]
    draws: Values


def reader_table(
    predictions: pd.DataFrame, target: Target, model: str, readings: pd.DataFrame, resamples: int, seed: int
) -> pd.DataFrame:
    """A row per reader, and one over all of them where there are several.

    Args:
        predictions: table of predictions, one scan per person.
        target: of two classes.
        model: the classifier that is compared.
        readings: subject, reader, score and call, see `study.readings`.
        resamples: of people (and of readers) behind intervals.
        seed: of the resampling.
    """
    ours = read_predictions(predictions[predictions["model"] == model].reset_index(drop=True), target)[0]
    weights = resampled_weights(strata_of(ours.people, ours.truth, ours.num_people), resamples, seed)
    pairs = []
    for reader, table in readings.groupby("reader", sort=True):
        told = table.drop_duplicates("subject").set_index("subject")
        chosen = np.flatnonzero(ours.rows["subject"].astype(str).isin(told.index).to_numpy())
        if len(chosen):
            pairs.append(_pair(str(reader), ours.take(chosen), told, weights))
    rows = [pair.row for pair in pairs]
    if len(pairs) > 1:
        rows.append(_over_readers(pairs, seed))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _pair(reader: str, ours: ModelPredictions, told: pd.DataFrame, weights: Values) -> _Pair:
    subjects = ours.rows["subject"].astype(str)
    scores, calls = told.loc[subjects.tolist(), ["score", "call"]].to_numpy(dtype=np.float64).T
    theirs = replace(ours, name=reader, outputs=np.stack([-scores, scores], axis=1), answer=calls)
    row: Row = {"reader": reader, "num_people": len(np.unique(ours.people)), "num_positive": ours.people_of(1)}
    mine, other = (draw_areas(model.areas, weights) for model in (ours, theirs))
    row |= _spread(other.interval(), "auc", "auc_low", "auc_high")
    row |= _spread(mine.interval(), "model_auc", "model_low", "model_high")
    difference = auc_difference(mine, other)
    row |= {"difference": difference.value, "low": difference.low, "high": difference.high, "p_delong": difference.p}
    bootstrap = Bootstrap(ours.people, weights)
    called = bool(np.isfinite(calls).all())
    told_rates = rates(theirs, bootstrap) if called else {"sensitivity": NOTHING, "specificity": NOTHING}
    for name, rate in told_rates.items():
        row |= _spread(rate, name, f"{name}_low", f"{name}_high")
    row |= {f"model_{name}": rate.value for name, rate in rates(ours, bootstrap).items()}
    row |= _agreement(ours, calls) if called else {}
    return _Pair(row, (mine.value, other.value), mine.draws - other.draws)


def _spread(interval: Interval, *names: str) -> Row:
    return dict(zip(names, (interval.value, interval.low, interval.high), strict=True))


def _agreement(ours: ModelPredictions, calls: NDArray[np.float64]) -> Row:
    """People whom one of the two is right about; the classifier's answer is that of most repeats."""
    people, first, number = np.unique(ours.people, return_index=True, return_inverse=True)
    answer = np.bincount(number, weights=ours.answer == 1) / np.bincount(number) >= 0.5
    truth = ours.truth[first] == 1
    right, told_right = answer == truth, (calls[first] == 1) == truth
    told_only, ours_only = int((told_right & ~right).sum()), int((right & ~told_right).sum())
    return {
        "reader_only_right": told_only,
        "model_only_right": ours_only,
        "p_mcnemar": mcnemar(told_only, ours_only) if len(people) else math.nan,
    }


def _over_readers(pairs: list[_Pair], seed: int) -> Row:
    """The mean over readers; a resample draws people, the same for all readers, and then readers with replacement."""
    num, resamples = len(pairs), len(pairs[0].draws)
    drawn = np.random.default_rng([seed, num]).integers(num, size=(resamples, num))
    every = np.stack([pair.draws for pair in pairs], axis=1)
    means = np.take_along_axis(every, drawn, axis=1).mean(axis=1)
    model, reader = (float(np.mean([pair.areas[place] for pair in pairs])) for place in (0, 1))
    low, high = percentiles(means)
    row: Row = dict.fromkeys(COLUMNS, math.nan)
    sizes = {name: max(int(pair.row[name]) for pair in pairs) for name in ("num_people", "num_positive")}
    return (
        row
        | sizes
        | {"reader": "", "auc": reader, "model_auc": model, "difference": model - reader}
        | {
            "low": low,
            "high": high,
        }
    )


def published_readers(target: Target) -> pd.DataFrame:
    """Published figures of readers of MRI for Alzheimer's disease against controls; without rows for another question.

    They are of other people and other scans than those of a study, so they are no test of anything.
    """
    rows = list(rows_of(PUBLISHED)) if _is_alzheimer(target) else []
    return pd.DataFrame(rows, columns=list(PUBLISHED_COLUMNS), dtype=object)


def _is_alzheimer(target: Target) -> bool:
    if not target.is_binary:
        return False
    healthy, ill = (name.lower().replace("'", "") for name in target.classes)
    return healthy in CONTROL_NAMES and ill in ALZHEIMER_NAMES
