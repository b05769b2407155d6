"""From a table of predictions to every table of `gen3d classify`: performance, differences, curves, subgroups.

Scans are compared with each other only where one fitted model predicted both, people are the unit of every interval, and
repeats of the cross-validation are averaged, never counted as more people.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from gen3d.classify.scores.measures import (
    Areas,
    balanced_accuracy,
    draw_areas,
    mean_absolute_error,
    mean_error,
    roc_within_models,
)
from gen3d.classify.scores.rows import (
    ModelPredictions,
    difference_rows,
    headline_measure,
    most_likely,
    performance_rows,
    rates,
    read_predictions,
)
from gen3d.cohort.target import Target, as_label
from gen3d.core.config import Config
from gen3d.core.errors import UserError
from gen3d.core.tables import Row
from gen3d.maths.cross_validated import Bootstrap, Values, codes_of, permutation_p, resampled_weights, strata_of
from gen3d.maths.predictive_value import (
    count_people,
    even_prevalence,
    likelihood_ratios,
    net_benefit,
    net_benefit_of_all,
    predictive_values,
)
from gen3d.maths.probability import reliability
from gen3d.maths.stats import Interval

COLUMNS: dict[str, tuple[str, ...]] = {
    "performance": ("model", "kind", "measure", "class", "value", "low", "high", "num_people", "num_positive"),
    "differences": (
        "model",
        "against",
        "measure",
        "difference",
        "low",
        "high",
        "p_delong",
        "p_resampled",
        "num_people",
    ),
    "permutation": (
        *("model", "statistic", "value", "null_mean", "null_low", "null_high", "p", "num_permutations"),
        "fixed_scores",
    ),
    "roc": ("model", "false_positive_rate", "true_positive_rate", "threshold"),
    "reliability": ("model", "bin", "predicted", "observed", "low", "high", "num"),
    "confusion": ("model", "true", "predicted", "num"),
    "predictive_values": ("model", "prevalence", "ppv", "ppv_low", "ppv_high", "npv", "npv_low", "npv_high"),
    "likelihood_ratios": (
        *("model", "lr_positive", "lr_positive_low", "lr_positive_high", "lr_negative", "lr_negative_low"),
        *("lr_negative_high", "even_prevalence", "even_prevalence_low", "even_prevalence_high"),
    ),
    "decision": ("model", "threshold_probability", "net_benefit", "net_benefit_all"),
    "subgroups": ("model", "column", "group", "measure", "value", "low", "high", "num_people", "num_positive"),
}
"""Columns of the tables, which they have even where they have no row."""

AGE = "age_years"
FEWEST_PEOPLE = 10
"""A subgroup with fewer people has no area under the curve."""

FEWEST_PER_BIN = 10
RATES = np.linspace(0, 1, 201)
THRESHOLDS = np.arange(1, 100) / 100


class ScoreSettings(Config):
    """How predictions are scored."""

    bootstrap: int = Field(2000, ge=100, description="resamples of people behind each interval")
    seed: int = Field(0, ge=0, description="seed of the resampling")
    prevalences: tuple[float, ...] = Field(
        (0.03, 0.1, 0.25), description="shares of ill people, 0 to 1, at which predictive values are computed"
    )
    subgroups: tuple[str, ...] = Field(
        ("sex", "site", AGE), description="columns whose groups are scored apart; age_years in bands"
    )
    age_bands: tuple[float, ...] = Field((60.0, 70.0, 80.0), description="ages at which a band ends, years")
    bins: int = Field(10, ge=2, description="bins of equal count of the calibration error; fewer for few people")


def score(predictions: pd.DataFrame, target: Target, settings: ScoreSettings) -> dict[str, pd.DataFrame]:
    """All tables but `permutation`, by name, with the columns of `COLUMNS`.

    Raises:
        UserError: prevalences outside (0, 1), a column of subgroups that the table does not have, cross-validation and
            external people in one table, or nobody whose truth is known.
    """
    _check(predictions, settings)
    models = read_predictions(predictions, target)
    if not models:
        raise UserError(f"nobody in the predictions has a known {target.name}, so nothing can be scored.")
    weights = _weights(models, settings)
    cross_validated = bool((predictions["split"] == "cross-validation").all())
    areas = {model.name: draw_areas(model.areas, weights) for model in models if target.task != "number"}
    rows: dict[str, list[Row]] = {name: [] for name in COLUMNS if name != "permutation"}
    for model in models:
        bootstrap = Bootstrap(model.people, weights)
        num_bins = max(2, min(settings.bins, len(np.unique(model.people)) // FEWEST_PER_BIN))
        rows["performance"] += performance_rows(model, areas.get(model.name), weights, num_bins)
        if target.task != "number":
            rows["reliability"] += _reliability_rows(model, bootstrap, num_bins)
            rows["confusion"] += _confusion_rows(model)
        if target.is_binary and len(model.present) == 2:
            rows["roc"] += _roc_rows(model)
            rows["predictive_values"] += _predictive_rows(model, settings)
            rows["likelihood_ratios"].append(_likelihood_row(model, settings))
            rows["decision"] += _decision_rows(model)
    rows["differences"] = difference_rows(models, areas, weights, cross_validated)
    rows["subgroups"] = _subgroup_rows(models, settings)
    return {name: pd.DataFrame(listed, columns=list(COLUMNS[name])) for name, listed in rows.items()}


def permutation_row(
    observed: float,
    null_values: ArrayLike,
    model: str = "",
    statistic: str = "auc",
    fixed_scores: bool = False,
    level: float = 0.95,
) -> Row:
    """A row of the table `permutation`: the value, its null distribution under permuted labels, and p.

    `fixed_scores`: labels of tested people were permuted and the classifier was not trained again.

    For errors (mae) small is good, and p counts null values at least as small.
    """
    null = np.asarray(null_values, dtype=np.float64)
    null = null[np.isfinite(null)]
    sign = -1.0 if statistic == "mae" else 1.0
    low, high = np.percentile(null, [50 * (1 - level), 50 * (1 + level)]) if null.size else (math.nan, math.nan)
    return {
        "model": model,
        "statistic": statistic,
        "value": observed,
        "null_mean": float(null.mean()) if null.size else math.nan,
        "null_low": float(low),
        "null_high": float(high),
        "p": permutation_p(sign * observed, sign * null),
        "num_permutations": int(null.size),
        "fixed_scores": int(fixed_scores),
    }


def _check(predictions: pd.DataFrame, settings: ScoreSettings) -> None:
    wrong = [value for value in settings.prevalences if not 0 < value < 1]
    if wrong:
        raise UserError(f"prevalences={wrong[0]:g} is not a share between 0 and 1; 3 % is 0.03.")
    absent = [name for name in settings.subgroups if name not in predictions.columns]
    if absent:
        columns = ", ".join(str(name) for name in predictions.columns)
        raise UserError(f"subgroups={absent[0]} is no column of the predictions; choose of {columns}.")
    if list(settings.age_bands) != sorted(set(settings.age_bands)):
        raise UserError(f"age_bands={list(settings.age_bands)} must rise, for example [60, 70, 80].")
    splits = sorted(predictions["split"].unique()) if len(predictions) else []
    if len(splits) > 1:
        raise UserError(f"the predictions are of {' and '.join(splits)} people; score them apart.")


def _weights(models: list[ModelPredictions], settings: ScoreSettings) -> Values:
    """Resamples of people within their classes, shared by all models, so that differences are paired."""
    people = np.concatenate([model.people for model in models])
    labels = np.concatenate([model.truth for model in models])
    if models[0].target.task == "number":
        labels = np.zeros_like(labels)
    return resampled_weights(strata_of(people, labels, models[0].num_people), settings.bootstrap, settings.seed)


def _roc_rows(model: ModelPredictions) -> list[Row]:
    hits, cuts = roc_within_models(model.areas[0], RATES)
    if not hits.size:
        return []
    columns = zip(np.append(0.0, RATES), np.append(0.0, hits), np.append(math.nan, cuts), strict=True)
    return [
        {"model": model.name, "false_positive_rate": x, "true_positive_rate": y, "threshold": cut}
        for x, y, cut in columns
    ]


def _reliability_rows(model: ModelPredictions, bootstrap: Bootstrap, num_bins: int) -> list[Row]:
    """Of the last class for two classes; of the most likely class for more. None where two classes are one."""
    if model.target.is_binary and len(model.present) < 2:
        return []
    chance, is_true = most_likely(model)
    if model.target.is_binary:
        chance, is_true = model.outputs[:, 1], (model.truth == 1).astype(np.float64)
    return [
        {
            "model": model.name,
            "bin": number + 1,
            "predicted": group.predicted,
            "observed": group.observed.value,
            "low": group.observed.low,
            "high": group.observed.high,
            "num": group.observed.num,
        }
        for number, group in enumerate(reliability(bootstrap, chance, is_true, model.share, num_bins))
    ]


def _confusion_rows(model: ModelPredictions) -> list[Row]:
    """Scans by truth and answer, means over the repeats."""
    names = model.target.classes
    return [
        {
            "model": model.name,
            "true": true,
            "predicted": predicted,
            "num": round(float(model.share[(model.truth == i) & (model.answer == j)].sum()), 6),
        }
        for i, true in enumerate(names)
        for j, predicted in enumerate(names)
    ]


def _predictive_rows(model: ModelPredictions, settings: ScoreSettings) -> list[Row]:
    counts = count_people(model.people, model.truth == 1, model.answer == 1)
    rows = []
    for prevalence in settings.prevalences:
        row: Row = {"model": model.name, "prevalence": prevalence}
        for name, interval in zip(("ppv", "npv"), predictive_values(counts, prevalence, settings.seed), strict=True):
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return rows


def _likelihood_row(model: ModelPredictions, settings: ScoreSettings) -> Row:
    counts = count_people(model.people, model.truth == 1, model.answer == 1)
    positive, negative = likelihood_ratios(counts)
    named = {
        "lr_positive": positive,
        "lr_negative": negative,
        "even_prevalence": even_prevalence(counts, settings.seed),
    }
    row: Row = {"model": model.name}
    for name, interval in named.items():
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def _decision_rows(model: ModelPredictions) -> list[Row]:
    positive = model.truth == 1
    benefit = net_benefit(model.outputs[:, 1], positive, THRESHOLDS, model.share)
    everybody = net_benefit_of_all(positive, THRESHOLDS, model.share)
    return [
        {"model": model.name, "threshold_probability": float(cut), "net_benefit": float(x), "net_benefit_all": float(y)}
        for cut, x, y in zip(THRESHOLDS, benefit, everybody, strict=True)
    ]


def _subgroup_rows(models: list[ModelPredictions], settings: ScoreSettings) -> list[Row]:
    """Each group scored with resamples of its own people."""
    rows: list[Row] = []
    for column in settings.subgroups:
        labels = [_groups(model.rows, column, settings) for model in models]
        for group in _in_order({name for groups in labels for name in groups if name}, column, settings):
            chosen = [np.flatnonzero(groups == group) for groups in labels]
            numbers = codes_of(
                np.concatenate([model.people[members] for model, members in zip(models, chosen, strict=True)])
            )
            ends = np.cumsum([len(members) for members in chosen])[:-1]
            num_people = int(numbers.max()) + 1
            inside = [
                model.take(members, people, num_people)
                for model, members, people in zip(models, chosen, np.split(numbers, ends), strict=True)
                if len(members)
            ]
            weights = _weights(inside, settings)
            for model in inside:
                rows += [
                    {"model": model.name, "column": column, "group": group, **row} for row in _group(model, weights)
                ]
    order = {model.name: place for place, model in enumerate(models)}
    return sorted(rows, key=lambda row: order[row["model"]])


def _group(model: ModelPredictions, weights: Values) -> list[Row]:
    bootstrap = Bootstrap(model.people, weights)
    people = len(np.unique(model.people))
    none = Interval(math.nan, math.nan, math.nan, people)
    intervals: dict[str, Interval] = {}
    if model.target.task == "number":
        intervals["mae"] = mean_absolute_error(bootstrap, model.truth, model.outputs[:, 0], model.share)
        intervals["calibration_intercept"] = mean_error(bootstrap, model.truth, model.outputs[:, 0], model.share)
    else:
        enough = people >= FEWEST_PEOPLE and len(model.present) == len(model.target.classes)
        areas: Areas | None = draw_areas(model.areas, weights) if enough else None
        intervals[headline_measure(model.target)] = areas.interval() if areas else none
        num_classes = len(model.target.classes)
        truth, answer = model.truth.astype(np.int64), model.answer.astype(np.int64)
        intervals["balanced_accuracy"] = balanced_accuracy(bootstrap, truth, answer, num_classes, model.share)
        if model.target.is_binary:
            intervals |= rates(model, bootstrap)
    positive: Any = model.people_of(1) if model.target.is_binary else math.nan
    return [
        {
            "measure": measure,
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "num_people": interval.num,
            "num_positive": positive,
        }
        for measure, interval in intervals.items()
    ]


def _groups(table: pd.DataFrame, column: str, settings: ScoreSettings) -> NDArray[np.object_]:
    """The group of every row as text, "" where it is missing; ages in bands."""
    if column == AGE:
        ages = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
        names = np.array(_bands(settings), dtype=object)
        bands = names[np.searchsorted(settings.age_bands, np.nan_to_num(ages), side="right")]
        return np.where(np.isfinite(ages), bands, "")
    return np.array([as_label(cell) for cell in table[column]], dtype=object)


def _bands(settings: ScoreSettings) -> list[str]:
    edges = [f"{edge:g}" for edge in settings.age_bands]
    if not edges:
        return ["all ages"]
    between = [f"{low} to <{high}" for low, high in pairwise(edges)]
    return [f"<{edges[0]}", *between, f">={edges[-1]}"]


def _in_order(groups: set[str], column: str, settings: ScoreSettings) -> list[str]:
    return [band for band in _bands(settings) if band in groups] if column == AGE else sorted(groups)
