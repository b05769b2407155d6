"""Predictions of people: predicted classes and values, and the meaning of a positive result at each prevalence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from gen3d.classify.sections import charts as heads_charts
from gen3d.classify.sections.models import Models
from gen3d.cohort.target import as_label
from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import names as wording
from gen3d.figures import style
from gen3d.figures.blocks import Details, Figure, Heading, Points, Table
from gen3d.figures.plain_tables import interval_of
from gen3d.maths.stats import Interval

MOST_FIELDS = 4
FEWEST_DOTS = 3


def predicted_against_true(models: Models) -> tuple[list[Any], dict[str, Any]]:
    """For numbers: the primary head's prediction of every person, mean over repeats, and the points for metrics.json."""
    frame = models.head.predictions
    if models.head.task != "number" or not models.lead or not {"model", "y_true", "predicted"} <= set(frame.columns):
        return [], {}
    lead_rows = frame[frame["model"] == models.lead]
    points = pd.DataFrame(
        {
            "key": lead_rows["key"],
            "true": pd.to_numeric(lead_rows["y_true"], errors="coerce"),
            "predicted": pd.to_numeric(lead_rows["predicted"], errors="coerce"),
        }
    )
    means = points.dropna().groupby("key", sort=True).mean()
    if len(means) < FEWEST_DOTS:
        return [], {}
    true, predicted = means["true"].to_numpy(float), means["predicted"].to_numpy(float)
    name = str(models.head.target.get("name", "value")).replace("_", " ")
    png, svg = heads_charts.predicted_against_true(true, predicted, name, models.colour(models.lead))
    figure = Figure(
        models.identifier("predicted"),
        f"Dots of predicted against true {name}.",
        f"Predicted against true {name}, {models.title(models.lead)}, {spell.count(len(means), 'scan')}, mean over repeats. "
        "Dashed: equality; line: least squares. A line flatter than equality means that extremes are pulled towards the mean.",
        png,
        svg=svg,
        width_percent=55,
    )
    rows = [{"key": key, "true": a, "predicted": b} for key, a, b in zip(means.index, true, predicted, strict=True)]
    return [figure], {"predicted_against_true": {"model": models.lead, "points": rows}}


def confusion(models: Models) -> list[Any]:
    """Which classes the primary head predicted: a shaded square for three or more classes, a table for two."""
    table = "confusion"
    rows = [row for row in models.head.rows(table, "model", "true", "predicted", "num") if row["model"] == models.lead]
    if not rows:
        return []
    names = dict.fromkeys(as_label(row[name]) for row in rows for name in ("true", "predicted"))
    classes = [*models.head.classes, *(name for name in names if name not in models.head.classes)]
    place = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    for row in rows:
        counts[place[as_label(row["true"])], place[as_label(row["predicted"])]] += models.head.number(row, "num", table)
    model = models.title(models.lead)
    if len(classes) == 2:
        cells = [[f"True {name}", *(f"{num:g}" for num in counts[index])] for index, name in enumerate(classes)]
        header = ["", *(f"Predicted {name}" for name in classes)]
        return [Details("Predicted classes", [Table(f"Classes predicted by {model}.", header, cells, "lrr")])]
    png, svg = heads_charts.confusion(counts, classes)
    caption = f"True classes (rows) and classes predicted by {model} (columns): how many, and their share of the row."
    name = models.identifier("confusion")
    return [Figure(name, "Square of true and predicted classes.", caption, png, svg=svg, width_percent=51)]


def has(models: Models, num: int) -> str:
    """`27 have AD`, `27 are of the class F`."""
    sought = models.head.classes[-1]
    if str(models.head.target.get("name")) == "diagnosis":
        return f"{num} {'has' if num == 1 else 'have'} {wording.condition(sought)}"
    return f"{num} {'is' if num == 1 else 'are'} of the class {sought}"


def predictive_values(models: Models) -> list[Any]:
    """Of a hundred people with a positive result, how many are ill, by how common the illness is."""
    table = "predictive_values"
    needed = ("model", "prevalence", "ppv", "ppv_low", "ppv_high", "npv", "npv_low", "npv_high")
    rows = models.head.rows(table, *needed)
    lead_rows = [row for row in rows if row["model"] == models.lead]
    lead_rows = [row for row in lead_rows if math.isfinite(models.head.number(row, "ppv", table))]
    if not lead_rows or len(models.head.classes) != 2:
        return []
    lead_rows.sort(key=lambda row: models.head.number(row, "prevalence", table))
    sentences, fields = [], []
    for row in lead_rows:
        prevalence = models.head.number(row, "prevalence", table)
        ppv, npv = _share(models, row, "ppv"), _share(models, row, "npv")
        share = f"{100 * prevalence:.3g} %"
        text = (
            f"At a prevalence of {share}: of 100 people with a positive result, {has(models, round(100 * ppv.value))} "
            f"[{100 * ppv.low:.0f}, {100 * ppv.high:.0f}]"
        )
        if math.isfinite(npv.value):
            text += (
                f"; of 100 people with a negative result, {has(models, round(100 * (1 - npv.value)))} all the same "
                f"[{100 * (1 - npv.high):.0f}, {100 * (1 - npv.low):.0f}]"
            )
        sentences.append(f"{text}.")
        fields.append(heads_charts.Hundred(f"Prevalence {share}", Interval(100 * ppv.value, math.nan, math.nan, 0)))
    png, svg = heads_charts.in_a_hundred(fields[:MOST_FIELDS], style.GROUP_COLOURS[1])
    figure = Figure(
        models.identifier("predictive_values"),
        f"Fields of a hundred people with a positive result. {' '.join(sentences)}",
        f"A hundred people with a positive result of {models.title(models.lead)} each. Filled: those who "
        f"{'have' if str(models.head.target.get('name')) == 'diagnosis' else 'are of the class'} {models.head.classes[-1]}.",
        png,
        svg=svg,
        width_percent=min(100, 8 + 23 * len(fields[:MOST_FIELDS])) if len(fields) > 2 else 54,
    )
    return [
        Heading("What a positive result means"),
        Points(tuple(sentences)),
        figure,
        _all_predictive_values(models, rows),
    ]


def _share(models: Models, row: Row, name: str) -> Interval:
    table = "predictive_values"
    return interval_of(models.head, row, table, (name, f"{name}_low", f"{name}_high"))


def _all_predictive_values(models: Models, rows: list[Row]) -> Details:
    order = {name: index for index, name in enumerate(models.names)}
    cells = [
        [
            models.title(str(row["model"])),
            f"{100 * models.head.number(row, 'prevalence', 'predictive_values'):.3g} %",
            wording.with_interval(_share(models, row, "ppv")),
            wording.with_interval(_share(models, row, "npv")),
        ]
        for row in sorted(rows, key=lambda row: order.get(str(row["model"]), len(order)))
    ]
    caption = "Positive and negative predictive values with 95 % credible intervals."
    header = ["Model", "Prevalence", "Positive predictive value", "Negative predictive value"]
    return Details("Predictive values of all models", [Table(caption, header, cells, "lrrr")])
