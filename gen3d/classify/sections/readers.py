"""People who read the same scans, published readers of other scans, and the recall of each class with its number of people."""

from __future__ import annotations

import math
from typing import Any

from gen3d.classify.scores.rows import FEWEST_EVALUABLE
from gen3d.classify.scores.sentences import NOT_EVALUABLE
from gen3d.classify.sections.models import Models
from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Heading, Table, Text
from gen3d.figures.plain_tables import interval_of


def readers(models: Models) -> list[Any]:
    """The primary classifier against readers of the same people; without them what was published about others."""
    return _same_people(models) or _published(models)


def _same_people(models: Models) -> list[Any]:
    table = "readers"
    rows = models.head.rows(table, "reader", "auc", "model_auc", "difference", "low", "high", "p_mcnemar")
    if not rows:
        return []
    lead = models.title(models.lead)
    cells = [
        [
            str(row["reader"] or f"Mean of {len(rows) - 1} readers"),
            _whole(models, row, "num_people"),
            _interval(models, row, "auc", "auc_low", "auc_high"),
            _interval(models, row, "model_auc", "model_low", "model_high"),
            _interval(models, row, "difference", "low", "high"),
            spell.probability(models.head.number(row, "p_delong", table)),
            _interval(models, row, "sensitivity", "sensitivity_low", "sensitivity_high"),
            _interval(models, row, "specificity", "specificity_low", "specificity_high"),
            f"{_whole(models, row, 'reader_only_right')} / {_whole(models, row, 'model_only_right')}",
            spell.probability(models.head.number(row, "p_mcnemar", table)),
        ]
        for row in rows
    ]
    header = [
        *("Reader", "People", "AUC", f"AUC of {lead}", "Difference [95 %]", "p, DeLong", "Sensitivity", "Specificity"),
        *(f"Right alone: reader / {lead}", "p, McNemar"),
    ]
    caption = (
        f"{lead} against people who read the same scans, on pairs of people that one fitted model tested. Difference: {lead} minus "
        "the reader. The mean over readers has an interval over readers and people: both were drawn anew."
    )
    return [Heading("Readers of the same people"), Table(caption, header, cells, "lrrrrrrrrr")]


def _published(models: Models) -> list[Any]:
    rows = models.head.rows("published_readers", "source", "population", "readers", "result", "machine")
    if not rows:
        return []
    cells = [[str(row[name]) for name in ("source", "population", "readers", "result", "machine")] for row in rows]
    text = (
        "Nobody read these scans. Below is what was published about readers of other people, scanners and questions: a scale, and "
        "no test. Research scans of clear cases are easier than a clinic's. Give readers=TABLE (subject, reader, score) to compare."
    )
    caption = (
        "Published readers of magnetic resonance images; no figure of them was compared with a figure of this page."
    )
    header = ["Source", "People", "Readers", "Readers reached", "A machine reached"]
    return [Details("Published readers, of other people", [Text(text, "note"), Table(caption, header, cells, "lllll")])]


def recalls(models: Models) -> list[Any]:
    """Of each class the share that every model predicts to be it, and how many people that is about."""
    rows = [row for row in models.head.rows("performance", "model", "measure", "value") if row["measure"] == "recall"]
    classes = list(dict.fromkeys(str(row["class"]) for row in rows))
    if not classes:
        return []
    found = {(str(row["model"]), str(row["class"])): row for row in rows}
    people = {name: max(_people(models, row) for row in rows if str(row["class"]) == name) for name in classes}
    cells = [
        [models.title(name), *(_recall(models, found.get((name, of_class))) for of_class in classes)]
        for name in models.names
        if any((name, of_class) in found for of_class in classes)
    ]
    caption = (
        "Of each class the share that is predicted to be it, with Wilson's 95 % interval for the number of its people. A class "
        f"with fewer than {FEWEST_EVALUABLE} tested people is {NOT_EVALUABLE}."
    )
    header = ["Model", *(f"{name}, {spell.people(people[name])}" for name in classes)]
    return [Table(caption, header, cells, "l" + "r" * len(classes))]


def _people(models: Models, row: Row) -> int:
    number = models.head.number(row, "num_positive", "performance")
    return int(number) if math.isfinite(number) else 0


def _recall(models: Models, row: Row | None) -> str:
    if row is None:
        return spell.NONE
    interval = interval_of(models.head, row, "performance")
    return wording.with_interval(interval) if math.isfinite(interval.value) else NOT_EVALUABLE


def likelihood(models: Models) -> list[Any]:
    """What a result multiplies the odds by, of every model, and from which prevalence on a positive one is more often right."""
    rows = models.head.rows("likelihood_ratios", "model", "lr_positive", "lr_negative", "even_prevalence")
    order = {name: index for index, name in enumerate(models.names)}
    rows = [row for row in rows if math.isfinite(models.head.number(row, "lr_positive", "likelihood_ratios"))]
    if not rows:
        return []
    cells = [
        [
            models.title(str(row["model"])),
            *(
                _interval(models, row, name, f"{name}_low", f"{name}_high")
                for name in ("lr_positive", "lr_negative", "even_prevalence")
            ),
        ]
        for row in sorted(rows, key=lambda row: order.get(str(row["model"]), len(order)))
    ]
    caption = (
        "Likelihood ratios: what a positive and a negative result multiply the odds by, with 95 % intervals of their logarithm. "
        "Even prevalence: where the illness is rarer than this, most positive results are wrong (posterior median, 95 % credible)."
    )
    header = ["Model", "LR of a positive result", "LR of a negative result", "Even prevalence"]
    return [Details("Likelihood ratios of all models", [Table(caption, header, cells, "lrrr")])]


def _interval(models: Models, row: Row, *names: str) -> str:
    value, low, high = (models.head.number(row, name, "readers") for name in names)
    return spell.interval(value, low, high)


def _whole(models: Models, row: Row, name: str) -> str:
    value = models.head.number(row, name, "readers")
    return f"{value:.0f}" if math.isfinite(value) else spell.NONE
