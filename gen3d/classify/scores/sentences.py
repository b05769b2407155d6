"""A sentence for each table of a scorecard."""

from __future__ import annotations

import math

import pandas as pd

from gen3d.cohort.target import Target
from gen3d.core import words as spell
from gen3d.core.tables import Row

Tables = dict[str, pd.DataFrame]

MEASURES = {"auc": "AUC", "macro_auc": "macro AUC", "mae": "mean absolute error"}
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
    if not target.is_binary:
        each = [(name, measured(tables, model, "auc", name)) for name in target.classes]
        parts = [f"{name} {with_interval(row)}" for name, row in each if row]
        sentences.append(f"AUC of each class against the rest: {', '.join(parts)}.")
        kappa = measured(tables, model, "kappa")
        if kappa:
            sentences.append(f"Agreement of the grades (quadratic kappa): {with_interval(kappa)}.")
    return sentences + _calibration(tables, model)


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
        f"A person predicted to be {target.classes[-1]} is {target.classes[-1]} with probability {spell.listed(parts)}."
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
