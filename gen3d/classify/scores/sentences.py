"""The figures of a scorecard in words: how numbers are written, and a sentence for each of its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from gen3d.cohort.target import Target
from gen3d.core.tables import Row

Tables = dict[str, pd.DataFrame]

MEASURES = {"auc": "AUC", "macro_auc": "macro AUC", "mae": "mean absolute error"}
MANY_GROUPS = 4


def figure(value: float) -> str:
    """.85, -.02, 4.13, 22.7, n/a; a third decimal near 0, where a sign may decide, and below 1.00, which is perfect."""
    if not math.isfinite(value):
        return "n/a"
    if 0.0005 <= abs(value) < 0.01 or 0.995 <= abs(value) < 0.9995:
        text = f"{value:.3f}"
    else:
        text = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("0.", ".", 1) if text.removeprefix("-").startswith("0.") else text


def with_interval(row: Row, name: str = "value") -> str:
    """`.85 [.79, .90]`; the value alone where there is no interval."""
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return figure(row[name])
    return f"{figure(row[name])} [{figure(row['low'])}, {figure(row['high'])}]"


def p_words(p: float) -> str:
    """`.031`, or `<.001`."""
    return "<.001" if p < 0.0005 else f"{p:.3f}".removeprefix("0")


def joined(parts: Sequence[str], word: str = "and") -> str:
    """`a, b and c`."""
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}" if len(parts) > 1 else "".join(parts)


def rows_where(table: pd.DataFrame | None, **where: str) -> list[Row]:
    """Rows of a table in which columns have these values, as dictionaries; none where there is no such table."""
    if table is None or table.empty:
        return []
    for column, value in where.items():
        table = table[table[column] == value]
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def measured(tables: Tables, model: str, measure: str, class_name: str = "") -> Row | None:
    """The row of one measure of one model in the table `performance`, or None."""
    found = rows_where(tables["performance"], model=model, measure=measure)
    own = [row for row in found if row["class"] == class_name]
    return own[0] if own else None


def class_sentences(tables: Tables, target: Target, model: str) -> list[str]:
    """Rates at the threshold, areas of each class, agreement and calibration."""
    sentences = []
    named = [(name, measured(tables, model, name)) for name in ("sensitivity", "specificity", "balanced_accuracy")]
    parts = [
        f"{name.replace('_', ' ')} {with_interval(row)}" for name, row in named if row and math.isfinite(row["value"])
    ]
    if parts:
        where = "At the threshold set in training people" if target.is_binary else "Taking the predicted class"
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
        parts.append(f"slope {with_interval(slope)}, {_slope_words(slope)}")
    elif slope:
        parts.append("no slope, because the classes are separated completely or the probabilities do not vary")
    if error and math.isfinite(error["value"]):
        parts.append(
            f"expected calibration error {with_interval(error)}, above 0 in a small cohort even where all is right"
        )
    return [f"Calibration of the probabilities: {'; '.join(parts)}."] if parts else []


def _slope_words(row: Row) -> str:
    if row["high"] < 1:
        return "below 1: the predictions are too extreme"
    if row["low"] > 1:
        return "above 1: the predictions are too cautious"
    return "where 1 is right"


def number_sentences(tables: Tables, model: str) -> list[str]:
    """Errors, correlations and the slope of a predicted number."""
    names = {"rmse": "root mean squared error", "r2": "R2", "pearson": "Pearson r", "spearman": "Spearman rho"}
    found = [(words, measured(tables, model, name)) for name, words in names.items()]
    parts = [f"{words} {with_interval(row)}" for words, row in found if row and math.isfinite(row["value"])]
    sentences = [f"{model}: {', '.join(parts)}."] if parts else []
    slope = measured(tables, model, "calibration_slope")
    if slope and math.isfinite(slope["value"]):
        sentences.append(f"Slope of the truth on the prediction: {with_interval(slope)}, {_slope_words(slope)}.")
    return sentences


def predictive_sentences(tables: Tables, target: Target, model: str) -> list[str]:
    """What a positive answer is worth at each prevalence."""
    rows = rows_where(tables["predictive_values"], model=model)
    parts = [
        f"{figure(row['ppv'])} [{figure(row['ppv_low'])}, {figure(row['ppv_high'])}] at a prevalence of "
        f"{100 * row['prevalence']:g} %"
        for row in rows
        if math.isfinite(row["ppv"])
    ]
    if not parts:
        return []
    return [f"Whoever is called {target.classes[-1]} is so with probability {joined(parts)}."]


def subgroup_sentences(tables: Tables, model: str, measure: str) -> list[str]:
    """The measure in the groups of each column; of many groups the lowest and the highest."""
    rows = rows_where(tables["subgroups"], model=model, measure=measure)
    sentences = []
    for column in dict.fromkeys(row["column"] for row in rows):
        own = [row for row in rows if row["column"] == column and math.isfinite(row["value"])]
        if len(own) < 2:
            continue
        by_value = sorted(own, key=lambda row: float(row["value"]))
        shown = own if len(own) <= MANY_GROUPS else [by_value[0], by_value[-1]]
        words = ", ".join(f"{row['group']} {with_interval(row)} ({row['num_people']} people)" for row in shown)
        extent = "" if shown is own else f", lowest and highest of {len(own)} groups"
        sentences.append(
            f"{MEASURES[measure][0].upper()}{MEASURES[measure][1:]} by {column.removesuffix('_years')}{extent}: {words}."
        )
    return sentences
