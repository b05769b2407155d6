"""What is checked beside the main figures: subgroups of people, and permuted labels."""

from __future__ import annotations

import math
from typing import Any

from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Table, Text
from gen3d.report.folders import Row
from gen3d.report.sections import heads_charts
from gen3d.report.sections.heads_blocks import figures, measure_words
from gen3d.report.sections.heads_models import MEASURES, Models

SUBGROUP_MEASURES = ("auc", "macro_auc", "mae", "balanced_accuracy", "sensitivity")


def subgroups(models: Models) -> list[Any]:
    """The best head in every subgroup as a chart, all models folded."""
    table = "subgroups"
    rows = models.head.rows(table, "model", "column", "group", "measure", "value", "low", "high")
    rows = [row for row in rows if math.isfinite(models.head.number(row, "value", table))]
    measures = {str(row["measure"]) for row in rows}
    measure = next((name for name in SUBGROUP_MEASURES if name in measures), "")
    lead = [row for row in rows if row["model"] == models.lead and row["measure"] == measure]
    if not lead:
        return []
    lines = [
        heads_charts.Line(_subgroup(models, row), models.head.interval(row, table), models.colour(models.lead))
        for row in lead
    ]
    words = MEASURES[measure]
    whole = models.value(models.lead, measure)
    reference = whole.value if whole is not None else None
    png, svg = heads_charts.intervals(lines, f"{words} of {models.words(models.lead)}", reference, "everybody")
    figure = Figure(
        models.identifier("subgroups"),
        f"{words} in subgroups.",
        f"{words} of {models.words(models.lead)} in subgroups; dashed: in everybody. Few people make wide intervals.",
        png,
        svg=svg,
        width_percent=80,
    )
    cells = [
        [
            models.words(str(row["model"])),
            column_words(row["column"]),
            str(row["group"]),
            measure_words(str(row["measure"])),
            figures(models.head.interval(row, table), str(row["measure"])),
            _whole(models.head.number(row, "num_people", table)),
            _whole(models.head.number(row, "num_positive", table)),
        ]
        for row in rows
    ]
    header = ["Model", "By", "Group", "Measure", "Value [95 %]", "People", "Of the class"]
    everything = Details(
        "All models in all subgroups", [Table("Subgroups.", header, cells, "llllrrr", sortable=True)], False
    )
    return [Heading("Subgroups"), figure, everything]


def _whole(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else wording.NONE


def _subgroup(models: Models, row: Row) -> str:
    size = _whole(models.head.number(row, "num_people", "subgroups"))
    return f"{column_words(row['column'])} {row['group']}, n = {size}"


def column_words(column: Any) -> str:
    """A column's name inside a sentence."""
    return "age" if column == "age_years" else str(column).replace("_", " ")


def permutation(models: Models) -> list[Any]:
    """What models reach when labels are permuted, and how often that is as good as what they reached."""
    table = "permutation"
    rows = models.head.rows(table, "model", "value", "null_mean", "null_low", "null_high", "p")
    order = {name: index for index, name in enumerate(models.names)}
    rows = sorted(rows, key=lambda row: order.get(str(row["model"]), len(order)))
    if not rows:
        return []
    names = ("value", "null_mean", "null_low", "null_high")
    lines = [
        heads_charts.Null(
            models.words(str(row["model"])),
            models.colour(str(row["model"])),
            *(models.head.number(row, name, table) for name in names),
        )
        for row in rows
    ]
    words = measure_words(str(rows[0].get("statistic") or models.ranking))
    png, svg = heads_charts.null_bands(lines, words)
    num = models.head.number(rows[0], "num_permutations", table)
    times = f" ({num:.0f} times)" if math.isfinite(num) else ""
    figure = Figure(
        models.identifier("permutation"),
        f"{words} beside its range under permuted labels.",
        f"{words} (dot) beside its range when labels are permuted{times}: bar, 95 % of permutations; tick, their mean.",
        png,
        svg=svg,
        width_percent=80,
    )
    found = [
        f"{models.words(str(row['model']))} {wording.number(models.head.number(row, 'value', table))} against "
        f"{wording.number(models.head.number(row, 'null_mean', table))}, "
        f"p = {wording.probability(models.head.number(row, 'p', table))}"
        for row in rows
    ]
    return [Heading("Permuted labels"), Text(f"{words}: {'; '.join(found)}.", "note"), figure]
