"""What genes add to the scan: the verdict, the gain of every fusion, genes of other people, and who misses a modality."""

from __future__ import annotations

import math
from typing import Any

from gen3d.classify.sections.models import MEASURES, Models
from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures.blocks import Details, Heading, Points, Table, Text

FIGURES = ("value", "low", "high")
PRIVATE = (
    "Genetic models were compared on the same people and folds as the scan; relatives are on one side of every fold, and "
    "components of ancestry were fitted on training people. No person's genes and no prediction from them are written: below are "
    "figures over people. The head that is kept knows no genes."
)


def genes(models: Models) -> list[Any]:
    """Nothing for a study without genotypes."""
    part = models.head.part("genes", dict, {})
    summary = [str(line) for line in part.get("summary") or ()]
    if not summary:
        return []
    blocks: list[Any] = [Heading("What genes add"), Text(summary[0], "verdict"), Points(tuple(summary[1:]))]
    blocks += [Text(PRIVATE, "note"), *_performance(models), *_gain(models), *_controls(models)]
    return [*blocks, *_people(models)]


def _performance(models: Models) -> list[Any]:
    table = "genes_performance"
    rows = models.head.rows(table, "model", "measure", *FIGURES)
    measures = list(dict.fromkeys(str(row["measure"]) for row in rows))
    found = {(str(row["model"]), str(row["measure"])): row for row in rows}
    names = list(dict.fromkeys(str(row["model"]) for row in rows))
    cells = [
        [models.title(name), *(_interval(models, found.get((name, measure)), table, *FIGURES) for measure in measures)]
        for name in names
    ]
    num = max((models.head.number(row, "num_people", table) for row in rows), default=math.nan)
    caption = f"Genes, the scan and both, of the {num:.0f} people who have both; 95 % over people."
    header = ["Model", *(MEASURES.get(measure, measure) for measure in measures)]
    return [Table(caption, header, cells, "l" + "r" * len(measures))] if cells else []


def _gain(models: Models) -> list[Any]:
    table, limits = "genes_gain", ("difference", "low", "high")
    rows = models.head.rows(table, "model", "against", *limits)
    cells = [
        [
            models.title(str(row["model"])),
            models.title(str(row["against"])),
            _interval(models, row, table, *limits),
            spell.probability(models.head.number(row, "p_delong", table)),
            spell.probability(models.head.number(row, "p_resampled", table)),
        ]
        for row in rows
    ]
    caption = (
        "What scan and genes together gain over each model, paired over people. p: DeLong, and corrected resampled t."
    )
    return (
        [Table(caption, ["Together", "Against", "Gain [95 %]", "p, DeLong", "p, resampled"], cells, "llrrr")]
        if cells
        else []
    )


def _controls(models: Models) -> list[Any]:
    table = "genes_controls"
    rows = [row for row in models.head.rows(table, "control", "gain", "low", "high") if row.get("num")]
    cells = [
        [
            spell.capital(str(row["control"])),
            f"{models.head.number(row, 'num', table):.0f}",
            _interval(models, row, table, "gain", "low", "high"),
            spell.figure(models.head.number(row, "real_gain", table)),
            spell.probability(models.head.number(row, "p", table)),
        ]
        for row in rows
    ]
    caption = (
        "The gain of late fusion over the better of scan and genes, when people are given genes of others: mean, and where 95 % of "
        "the permutations lie. With shuffled keys it must vanish. p: share of permutations with a gain as large as the real one."
    )
    header = ["Genes", "Times", "Gain", "Real gain", "p"]
    return [Table(caption, header, cells, "lrrrr")] if cells else []


def _people(models: Models) -> list[Any]:
    table = "genes_people"
    rows = models.head.rows(table, "people", "inputs", "scored_by", "num_people", *FIGURES)
    cells = [
        [
            spell.capital(str(row["people"])),
            str(row["inputs"]),
            str(row["scored_by"]),
            f"{models.head.number(row, 'num_people', table):.0f}",
            _interval(models, row, table, *FIGURES),
        ]
        for row in rows
    ]
    caption = (
        "Every set of inputs (I: the scan, G: genes) in people who have both or miss one. No figure below 10 people."
    )
    header = ["People with", "Inputs", "Scored by", "People", MEASURES.get(models.ranking, "Figure")]
    return [Details("People who miss a modality", [Table(caption, header, cells, "lllrr")])] if cells else []


def _interval(models: Models, row: Row | None, table: str, *names: str) -> str:
    if row is None:
        return spell.NONE
    value, low, high = (models.head.number(row, name, table) for name in names)
    return spell.interval(value, low, high, None)
