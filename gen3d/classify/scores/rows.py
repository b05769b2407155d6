"""The predictions of one model as arrays, and the measures of one model as rows of a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.scores.measures import (
    Areas,
    Difference,
    auc_difference,
    average_precision,
    balanced_accuracy,
    correlation_within_models,
    draw_areas,
    hit_rate,
    macro_f1,
    majority_share,
    mean_absolute_error,
    mean_error,
    quadratic_kappa,
    r_squared,
    recall,
    root_mean_squared_error,
    rows_by_model,
    share_of_rows,
    slope_of_truth,
)
from gen3d.cohort.target import Target
from gen3d.core.tables import Row
from gen3d.maths.cross_validated import (
    Bootstrap,
    Codes,
    Values,
    WithinModels,
    codes_of,
    corrected_resampled_t,
)
from gen3d.maths.probability import brier, calibration_intercept, calibration_slope, expected_calibration_error, ratio
from gen3d.maths.stats import Interval, auroc

NOTHING = Interval(math.nan, math.nan, math.nan, 0)
FEWEST_EVALUABLE = 5
"""Tested people of a class, below which its recall and its area are not told: five of five right may be one in two."""

BINARY_MEASURES = (
    "auc",
    "auprc",
    "balanced_accuracy",
    "accuracy",
    "majority_share",
    "sensitivity",
    "specificity",
    "brier",
    "ece",
    "calibration_slope",
    "calibration_intercept",
)


@dataclass(frozen=True)
class ModelPredictions:
    """Predictions of one model for scans whose truth is known; rows are in the order of repeat and scan.

    Attributes:
        name, kind: of the model; target: what was predicted.
        truth: class numbers or values [n]; outputs: probabilities [n, classes] or predictions [n, 1].
        answer: class numbers or predictions [n].
        scans, people, models: numbers of the scan, the person and the fitted model (repeat and fold) of each row [n].
        num_people: people altogether, in the numbering shared with other models.
        rows: key, repeat and fold of each row.
    """

    name: str
    kind: str
    target: Target
    truth: Values
    outputs: Values
    answer: Values
    scans: Codes
    people: Codes
    models: Codes
    num_people: int
    rows: pd.DataFrame

    @cached_property
    def share(self) -> Values:
        """1 / repeats of the scan, [n]."""
        return share_of_rows(self.scans)

    @cached_property
    def present(self) -> tuple[int, ...]:
        """Numbers of the classes that occur."""
        return tuple(int(code) for code in np.unique(self.truth)) if self.target.task != "number" else ()

    def people_of(self, code: int) -> int:
        """How many people have a scan of a class."""
        return len(np.unique(self.people[self.truth == code]))

    def take(
        self, chosen: NDArray[Any], people: Codes | None = None, num_people: int | None = None
    ) -> ModelPredictions:
        """Some of the rows; with `people`, those are numbered anew (given for the chosen rows)."""
        return replace(
            self,
            truth=self.truth[chosen],
            outputs=self.outputs[chosen],
            answer=self.answer[chosen],
            scans=codes_of(self.scans[chosen]),
            people=self.people[chosen] if people is None else people,
            models=codes_of(self.models[chosen]),
            num_people=self.num_people if num_people is None else num_people,
            rows=self.rows.iloc[chosen].reset_index(drop=True),
        )

    def area(self, code: int) -> WithinModels:
        """A class against the rest."""
        return WithinModels(self.outputs[:, code], self.truth == code, self.models, self.people, self.num_people)

    @cached_property
    def areas(self) -> tuple[WithinModels, ...]:
        """Of the last class for two classes; of each class for more."""
        codes = [1] if self.target.is_binary else range(len(self.target.classes))
        return tuple(self.area(code) for code in codes)


def read_predictions(table: pd.DataFrame, target: Target) -> list[ModelPredictions]:
    """The models of a table of predictions, in its order; scans without truth or prediction are left out."""
    truth = target.codes(table["y_true"])
    outputs = table[list(target.output_columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    known = np.isfinite(truth) & np.isfinite(outputs).all(axis=1)
    table, truth, outputs = table[known].reset_index(drop=True), truth[known], outputs[known]
    answer = target.codes(table["y_pred"])
    people = codes_of(table["subject"].astype(str)) if len(table) else np.zeros(0, dtype=np.int64)
    num_people = int(people.max(initial=-1)) + 1
    models = []
    for name in table["model"].drop_duplicates():
        rows = np.flatnonzero((table["model"] == name).to_numpy())
        order = np.lexsort((table["key"].astype(str).to_numpy()[rows], table["repeat"].to_numpy()[rows]))
        rows = rows[order]
        frame = table.iloc[rows].reset_index(drop=True)
        models.append(
            ModelPredictions(
                str(name),
                str(frame["kind"].iloc[0]),
                target,
                truth[rows],
                outputs[rows],
                answer[rows],
                codes_of(frame["key"].astype(str)),
                people[rows],
                codes_of(frame["repeat"], frame["fold"]),
                num_people,
                frame,
            )
        )
    return models


def headline_measure(target: Target) -> str:
    """The measure that models are compared by: auc, macro_auc or mae."""
    return "mae" if target.task == "number" else "auc" if target.is_binary else "macro_auc"


def performance_rows(model: ModelPredictions, areas: Areas | None, weights: Values, num_bins: int) -> list[Row]:
    """Every measure of one model; areas: of `model.areas`, None for numbers; weights [resamples, people]."""
    bootstrap = Bootstrap(model.people, weights)
    if model.target.task == "number":
        return _number_rows(model, bootstrap)
    assert areas is not None
    if model.target.is_binary:
        return _binary_rows(model, areas, bootstrap, num_bins)
    return _multiclass_rows(model, areas, bootstrap, num_bins)


def measure_row(
    model: ModelPredictions, measure: str, interval: Interval, name: str = "", positive: int | None = None
) -> Row:
    """A row of the table `performance`; positive: number of the class whose people are counted."""
    return {
        "model": model.name,
        "kind": model.kind,
        "measure": measure,
        "class": name,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "num_people": interval.num,
        "num_positive": math.nan if positive is None else model.people_of(positive),
    }


def rates(model: ModelPredictions, bootstrap: Bootstrap) -> dict[str, Interval]:
    """Sensitivity and specificity at the threshold, NaN for a class that is not there."""
    right = model.answer == model.truth
    return {
        name: hit_rate(bootstrap, right, model.truth == code, model.share) if code in model.present else NOTHING
        for name, code in (("sensitivity", 1), ("specificity", 0))
    }


def _binary_rows(model: ModelPredictions, areas: Areas, bootstrap: Bootstrap, num_bins: int) -> list[Row]:
    intervals: dict[str, Interval] = dict(rates(model, bootstrap))
    if len(model.present) == 2:
        chance, positive, share = model.outputs[:, 1], (model.truth == 1).astype(np.float64), model.share
        answer, truth = model.answer.astype(np.int64), model.truth.astype(np.int64)
        everybody = np.ones(len(truth), dtype=bool)
        intervals |= {
            "auc": areas.interval(),
            "auprc": average_precision(model.areas[0], bootstrap.weights),
            "balanced_accuracy": balanced_accuracy(bootstrap, truth, answer, 2, share),
            "accuracy": hit_rate(bootstrap, answer == truth, everybody, share),
            "majority_share": majority_share(model.people, truth, share),
            "brier": brier(bootstrap, chance, positive, share),
            "ece": expected_calibration_error(bootstrap, chance, positive, share, num_bins),
            "calibration_slope": calibration_slope(model.people, chance, positive, share),
            "calibration_intercept": calibration_intercept(model.people, chance, positive, share),
        }
    people = len(np.unique(model.people))
    none = Interval(math.nan, math.nan, math.nan, people)
    return [measure_row(model, measure, intervals.get(measure, none), positive=1) for measure in BINARY_MEASURES]


def most_likely(model: ModelPredictions) -> tuple[Values, Values]:
    """Probability of the most likely class, and whether that class is the true one, [n] each."""
    return model.outputs.max(axis=1), (model.outputs.argmax(axis=1) == model.truth).astype(np.float64)


def _multiclass_rows(model: ModelPredictions, areas: Areas, bootstrap: Bootstrap, num_bins: int) -> list[Row]:
    names, share = model.target.classes, model.share
    truth, answer = model.truth.astype(np.int64), model.answer.astype(np.int64)
    top, right = most_likely(model)
    everybody = np.ones(len(truth), dtype=bool)
    intervals = [("macro_auc", areas.interval())]
    intervals += [
        ("balanced_accuracy", balanced_accuracy(bootstrap, truth, answer, len(names), share)),
        ("macro_f1", macro_f1(bootstrap, truth, answer, len(names), share)),
        ("accuracy", hit_rate(bootstrap, answer == truth, everybody, share)),
        ("majority_share", majority_share(model.people, truth, share)),
        ("brier", brier(bootstrap, model.outputs, np.eye(len(names))[truth], share)),
        ("ece", expected_calibration_error(bootstrap, top, right, share, num_bins)),
    ]
    if model.target.graded:
        intervals.append(("kappa", quadratic_kappa(bootstrap, truth, answer, share)))
    if model.target.task == "ordered":
        grades = model.outputs @ np.arange(len(names), dtype=np.float64)
        intervals.append(("mean_absolute_grade_error", mean_absolute_error(bootstrap, model.truth, grades, share)))
    rows = [measure_row(model, measure, interval) for measure, interval in intervals]
    for code, (name, area) in enumerate(zip(names, model.areas, strict=True)):
        area_interval = draw_areas([area], bootstrap.weights).interval()
        rows.append(measure_row(model, "auc", _evaluable(model, code, area_interval), name, code))
    for code, name in enumerate(names):
        rate = recall(model.people, truth, answer, code, share)
        rows.append(measure_row(model, "recall", _evaluable(model, code, rate), name, code))
    return rows


def _evaluable(model: ModelPredictions, code: int, interval: Interval) -> Interval:
    """The figure of a class, NaN where too few of its people were tested; their number stays."""
    if model.people_of(code) >= FEWEST_EVALUABLE:
        return interval
    return Interval(math.nan, math.nan, math.nan, interval.num)


def _number_rows(model: ModelPredictions, bootstrap: Bootstrap) -> list[Row]:
    truth, predicted, share, models = model.truth, model.outputs[:, 0], model.share, model.models
    intervals = {
        "mae": mean_absolute_error(bootstrap, truth, predicted, share),
        "rmse": root_mean_squared_error(bootstrap, truth, predicted, share),
        "r2": r_squared(bootstrap, truth, predicted, share),
        "pearson": correlation_within_models(bootstrap, truth, predicted, models, "pearson"),
        "spearman": correlation_within_models(bootstrap, truth, predicted, models, "spearman"),
        "calibration_slope": slope_of_truth(bootstrap, truth, predicted, models, share),
        "calibration_intercept": mean_error(bootstrap, truth, predicted, share),
    }
    return [measure_row(model, measure, interval) for measure, interval in intervals.items()]


def difference_rows(
    models: list[ModelPredictions], areas: dict[str, Areas], weights: Values, cross_validated: bool
) -> list[Row]:
    """Every head against every baseline, and against the heads after it; columns of the table `differences`.

    Only scans that both models predicted in the same repeat are compared. A difference of errors (mae) is good below 0.
    areas: of each model, empty for numbers; weights [resamples, people].
    """
    rows = []
    heads = [model for model in models if model.kind == "head"]
    for place, head in enumerate(heads):
        others = [model for model in models if model.kind == "baseline"] + heads[place + 1 :]
        for other in others:
            rows.append(_row(head, other, areas, weights, cross_validated))
    return rows


def _row(
    head: ModelPredictions, other: ModelPredictions, areas: dict[str, Areas], weights: Values, cross_validated: bool
) -> Row:
    first, second = align(head, other)
    if not len(first.truth):
        difference = Difference(math.nan, math.nan, math.nan, math.nan, 0)
    elif first.target.task == "number":
        difference = _error_difference(first, second, weights)
    else:
        if not (first is head and second is other):
            areas = {model.name: draw_areas(model.areas, weights) for model in (first, second)}
        difference = auc_difference(areas[head.name], areas[other.name])
    p_resampled = _p_resampled(first, second) if cross_validated and len(first.truth) else math.nan
    return {
        "model": head.name,
        "against": other.name,
        "measure": headline_measure(head.target),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_delong": difference.p,
        "p_resampled": p_resampled,
        "num_people": difference.num,
    }


def align(first: ModelPredictions, second: ModelPredictions) -> tuple[ModelPredictions, ModelPredictions]:
    """Both models on the rows (repeat and scan) that both predicted; the models themselves where nothing has to be done.

    Rows are of one fitted model where they are for both, so that folds that differ are cut up.
    """
    keys = ["repeat", "key", "fold"]
    if len(first.rows) == len(second.rows) and bool(
        np.array_equal(first.rows[keys].to_numpy(dtype=object), second.rows[keys].to_numpy(dtype=object))
    ):
        return first, second
    left = first.rows[["repeat", "key"]].assign(left=np.arange(len(first.rows)))
    right = second.rows[["repeat", "key"]].assign(right=np.arange(len(second.rows)))
    both = left.merge(right, on=["repeat", "key"])
    one, two = first.take(both["left"].to_numpy()), second.take(both["right"].to_numpy())
    if len(both):
        together = codes_of(one.models, two.models)
        one, two = (replace(model, models=together) for model in (one, two))
    return one, two


def _error_difference(first: ModelPredictions, second: ModelPredictions, weights: Values) -> Difference:
    errors = [np.abs(model.outputs[:, 0] - model.truth) for model in (first, second)]
    columns = np.stack([first.share * (errors[0] - errors[1]), first.share], axis=1)
    interval = Bootstrap(first.people, weights).interval(columns, ratio)
    return Difference(interval.value, interval.low, interval.high, math.nan, interval.num)


def _p_resampled(first: ModelPredictions, second: ModelPredictions) -> float:
    """Corrected resampled t over folds; the people of a repeat who are not tested in a fold are taken for its training set."""
    differences, shares = [], []
    repeats = first.rows["repeat"].to_numpy()
    for rows in rows_by_model(first.models):
        differences.append(_in_fold(first, rows) - _in_fold(second, rows))
        tested = len(np.unique(first.people[rows]))
        learned = len(np.unique(first.people[repeats == repeats[rows[0]]])) - tested
        shares.append(tested / learned if learned else math.nan)
    usable = np.isfinite(shares)
    if not usable.any():
        return math.nan
    return corrected_resampled_t(np.array(differences)[usable], float(np.mean(np.array(shares)[usable])))[1]


def _in_fold(model: ModelPredictions, rows: np.ndarray) -> float:
    truth, outputs = model.truth[rows], model.outputs[rows]
    if model.target.task == "number":
        return float(np.mean(np.abs(outputs[:, 0] - truth)))
    codes = [1] if model.target.is_binary else range(len(model.target.classes))
    return float(np.mean([auroc(outputs[:, code], truth == code) for code in codes]))
