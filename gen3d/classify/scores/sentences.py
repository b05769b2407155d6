"""A sentence for each table of a scorecard."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gen3d.classify.scores.rows import FEWEST_EVALUABLE
from gen3d.cohort.target import Target
from gen3d.core import words as spell
from gen3d.core.tables import Row

Tables = dict[str, pd.DataFrame]

MEASURES = {"auc": "AUC", "macro_auc": "macro AUC", "mae": "mean absolute error"}
NOT_EVALUABLE = "not evaluable"
MANY_GROUPS = 4
"""Of more groups a sentence names the lowest and the highest only."""


def with_interval(row: Row) -> str:
    """The value of a row with its interval, as many decimals as each number needs."""
    return spell.interval(row["value"], row["low"], row["high"], None)


def rows_where(table: pd.DataFrame | None, **where: str) -> list[Row]:
    """Rows of a table in which columns have these values, as dictionaries; none where there is no such table."""
    if table is None or table.empty:
        return []
    for column, value in where.items():
        table = table[table[column] == value]
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def measured(tables: Tables, model: str, measure: str, class_name: str = "") -> Row | None:
    """The row of one measure of one model in the table `performance`, or None."""
    rows = rows_where(tables["performance"], model=model, measure=measure)
    return next((row for row in rows if row["class"] == class_name), None)


def class_sentences(tables: Tables, target: Target, model: str) -> list[str]:
    """Rates at the threshold, areas of each class, agreement and calibration."""
    sentences = []
    named = [(name, measured(tables, model, name)) for name in ("sensitivity", "specificity", "balanced_accuracy")]
    parts = [
        f"{name.replace('_', ' ')} {with_interval(row)}" for name, row in named if row and math.isfinite(row["value"])
    ]
    if parts:
        where = "At the threshold chosen in the training people" if target.is_binary else "For the predicted class"
        sentences.append(f"{where}: {', '.join(parts)}.")
    sentences += _accuracy(tables, model)
    if not target.is_binary:
        sentences.append(f"AUC of each class against the rest: {_by_class(tables, target, model, 'auc')}.")
        recalls = _by_class(tables, target, model, "recall")
        sentences += [f"Predicted correctly, of each class: {recalls}."] if recalls else []
        sentences += _not_evaluable(tables, target, model)
        kappa = measured(tables, model, "kappa")
        if kappa:
            sentences.append(f"Agreement of the grades (quadratic kappa): {with_interval(kappa)}.")
    return sentences + _calibration(tables, model)


def _by_class(tables: Tables, target: Target, model: str, measure: str) -> str:
    """`CN 0.81 [0.70, 0.89] (60 people), MCI not evaluable (4 people)`."""
    rows = [(name, measured(tables, model, measure, name)) for name in target.classes]
    return ", ".join(
        f"{name} {with_interval(row) if math.isfinite(row['value']) else NOT_EVALUABLE} "
        f"({spell.people(int(row['num_positive']))})"
        for name, row in rows
        if row
    )


def _not_evaluable(tables: Tables, target: Target, model: str) -> list[str]:
    rows = [(name, measured(tables, model, "recall", name)) for name in target.classes]
    few = [f"{name} ({spell.people(int(row['num_positive']))})" for name, row in rows if row and _too_few(row)]
    if not few:
        return []
    return [
        f"{spell.capital(NOT_EVALUABLE)}: {spell.listed(few)}, with fewer than {FEWEST_EVALUABLE} tested people. Means over the "
        "classes count them all the same: merge them with a neighbour, or leave them out of classes=."
    ]


def _too_few(row: Row) -> bool:
    return not math.isfinite(row["value"]) and row["num_positive"] < FEWEST_EVALUABLE


def _accuracy(tables: Tables, model: str) -> list[str]:
    """The accuracy beside that of always saying the most frequent class."""
    accuracy, majority = (measured(tables, model, name) for name in ("accuracy", "majority_share"))
    if not accuracy or not majority or not math.isfinite(majority["value"]):
        return []
    f1 = measured(tables, model, "macro_f1")
    also = f" Macro F1: {with_interval(f1)}." if f1 else ""
    return [
        f"Accuracy {with_interval(accuracy)}, where always saying the most frequent class is right for "
        f"{spell.figure(majority['value'])}.{also}"
    ]


def network_sentences(networks: Sequence[Row], target: Target) -> list[str]:
    """Whose folds were used, and the networks that were trained with permuted labels."""
    if not networks:
        return []
    first = networks[0]
    repeats = int(first.get("repeats", 1))
    times = "once" if repeats == 1 else f"{repeats} times with other seeds"
    sentences = [
        f"The folds are those in which {first['name']} was trained ({first['folds']}, {times}), for every model."
    ]
    measure = MEASURES["mae" if target.task == "number" else "auc" if target.is_binary else "macro_auc"]
    for network in networks:
        if chosen := network.get("chosen"):
            counts = [f"{name} in {spell.count(chosen.count(name), 'fold')}" for name in dict.fromkeys(chosen)]
            sentences.append(
                f"Of the runs behind {network['name']}, each fold took the one with the lowest loss of its validation people: "
                f"{spell.listed(counts)}."
            )
        values = [f"{spell.figure(item['value'])} ({spell.people(item['num_people'])})" for item in network["permuted"]]
        retrained = f"{spell.count(len(values), 'network')} of {network['name']} trained with permuted labels"
        sentences.append(
            f"{retrained}: {measure} {spell.listed(values)}."
            if values
            else f"No network of {network['name']} was trained with permuted labels."
        )
    return sentences


def reader_sentences(tables: Tables, model: str) -> list[str]:
    """The classifier against each reader of the same people, and over all readers; or that published readers are no test."""
    rows = rows_where(tables.get("readers"))
    sentences = []
    for row in rows:
        who = f"Reader {row['reader']}" if row["reader"] else "The mean reader"
        difference = spell.interval(row["difference"], row["low"], row["high"], None)
        text = (
            f"{who} ({spell.people(int(row['num_people']))}): AUC {spell.figure(row['auc'])} against "
            f"{spell.figure(row['model_auc'])} of {model} on the same people, a difference of {difference}"
        )
        if math.isfinite(row["p_mcnemar"]):
            text += (
                f"; only the reader is right about {int(row['reader_only_right'])} and only {model} about "
                f"{int(row['model_only_right'])} (McNemar p {spell.probability(row['p_mcnemar'])})"
            )
        sentences.append(f"{text}{'' if row['reader'] else ', over readers and people'}.")
    if rows_where(tables.get("published_readers")):
        sentences.append(
            "Published figures of readers are of other people and other scans: they stand beside these results, and nothing is "
            "tested against them (give readers= for that)."
        )
    return sentences


def _calibration(tables: Tables, model: str) -> list[str]:
    slope, error = measured(tables, model, "calibration_slope"), measured(tables, model, "ece")
    parts = []
    if slope and math.isfinite(slope["value"]):
        parts.append(f"slope {with_interval(slope)}, {_slope_meaning(slope)}")
    elif slope:
        parts.append("no slope, because the classes are separated completely or the probabilities do not vary")
    if error and math.isfinite(error["value"]):
        parts.append(
            f"expected calibration error {with_interval(error)}, above 0 in a small cohort even if perfectly calibrated"
        )
    return [f"Calibration of the probabilities: {'; '.join(parts)}."] if parts else []


def _slope_meaning(row: Row) -> str:
    if row["high"] < 1:
        return "below 1: the predictions are too extreme"
    if row["low"] > 1:
        return "above 1: the predictions are too cautious"
    return "compatible with the ideal of 1"


def number_sentences(tables: Tables, model: str) -> list[str]:
    """Errors, correlations and the slope of a predicted number."""
    names = {"rmse": "root mean squared error", "r2": "R2", "pearson": "Pearson r", "spearman": "Spearman rho"}
    named = [(name, measured(tables, model, measure)) for measure, name in names.items()]
    parts = [f"{name} {with_interval(row)}" for name, row in named if row and math.isfinite(row["value"])]
    sentences = [f"{model}: {', '.join(parts)}."] if parts else []
    slope = measured(tables, model, "calibration_slope")
    if slope and math.isfinite(slope["value"]):
        sentences.append(
            f"Slope of the true value on the predicted one: {with_interval(slope)}, {_slope_meaning(slope)}."
        )
    return sentences


def predictive_sentences(tables: Tables, target: Target, model: str) -> list[str]:
    """The positive predictive value at each prevalence."""
    rows = rows_where(tables["predictive_values"], model=model)
    parts = [
        f"{spell.interval(row['ppv'], row['ppv_low'], row['ppv_high'], None)} at a prevalence of "
        f"{100 * row['prevalence']:g} %"
        for row in rows
        if math.isfinite(row["ppv"])
    ]
    if not parts:
        return []
    return [
        f"A person predicted to be {target.classes[-1]} is {target.classes[-1]} with probability {spell.listed(parts)}.",
        *_likelihood(tables, target, model),
    ]


def _likelihood(tables: Tables, target: Target, model: str) -> list[str]:
    rows = rows_where(tables.get("likelihood_ratios"), model=model)
    if not rows or not math.isfinite(rows[0]["lr_positive"]):
        return []
    row = rows[0]
    positive, negative = (
        spell.interval(row[name], row[f"{name}_low"], row[f"{name}_high"], None)
        for name in ("lr_positive", "lr_negative")
    )
    half, low, high = (100 * row[f"even_prevalence{side}"] for side in ("", "_low", "_high"))
    even = spell.interval(half, low, high, 0)
    return [
        f"A prediction of {target.classes[-1]} multiplies its odds by {positive}, a prediction of {target.classes[0]} by "
        f"{negative}. At a prevalence below {even} % most predictions of {target.classes[-1]} are wrong."
    ]


def subgroup_sentences(tables: Tables, model: str, measure: str) -> list[str]:
    """The measure in the groups of each column; of many groups the lowest and the highest."""
    rows = rows_where(tables["subgroups"], model=model, measure=measure)
    sentences = []
    for column in dict.fromkeys(row["column"] for row in rows):
        groups = [row for row in rows if row["column"] == column and math.isfinite(row["value"])]
        if len(groups) < 2:
            continue
        by_value = sorted(groups, key=lambda row: float(row["value"]))
        shown = groups if len(groups) <= MANY_GROUPS else [by_value[0], by_value[-1]]
        listed = ", ".join(f"{row['group']} {with_interval(row)} ({spell.people(row['num_people'])})" for row in shown)
        extent = "" if shown is groups else f", lowest and highest of {len(groups)} groups"
        sentences.append(f"{spell.capital(MEASURES[measure])} by {column.removesuffix('_years')}{extent}: {listed}.")
    return sentences
