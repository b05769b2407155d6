"""Report section of `gen3d genotypes`: quality control step by step, verdicts by reason, scores; no person's genotype."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gen3d.core import words as spell
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.genotypes.folder import PICTURE, GenotypesFolder


@page_section("Genotypes", "`gen3d genotypes`", place=17, reads=GenotypesFolder)
def section(context: Context) -> Section | None:
    """Per folder: what passed, the steps, why the rest did not, and the polygenic scores."""
    folders = context.all(GenotypesFolder)
    if not folders:
        return None
    blocks: list[Any] = []
    for genotypes in folders:
        if len(folders) > 1:
            blocks.append(Heading(genotypes.name))
        blocks += _of_folder(genotypes)
    return Section("genotypes", "Genotypes", blocks, {genotypes.name: genotypes.metrics for genotypes in folders})


def _of_folder(genotypes: GenotypesFolder) -> list[Any]:
    blocks: list[Any] = []
    if genotypes.summary:
        blocks += [Text(genotypes.summary[0], "verdict"), Points(genotypes.summary[1:])]
    if len(genotypes.steps):
        blocks.append(_steps(genotypes.steps))
    png = genotypes.picture(PICTURE)
    if png and len(genotypes.steps):
        caption = (
            "Quality control: missing and heterozygous calls per person, the frequency of the rarer allele per variant "
            "(logarithmic above 10), and components of ancestry, fitted on unrelated training people and applied to all."
        )
        blocks.append(
            Figure(f"genotypes_{genotypes.name.replace('/', '_')}", "Four panels of quality control.", caption, png)
        )
    if len(genotypes.scores):
        blocks.append(_scores(genotypes.scores))
    reasons = [
        _reasons("Why people were left out.", genotypes.people_verdicts, "People"),
        _reasons("Why variants were left out.", genotypes.variant_verdicts, "Variants"),
    ]
    tables = [table for table in reasons if table is not None]
    if tables:
        blocks.append(Details("Verdicts by reason", tables))
    return blocks


def _steps(steps: pd.DataFrame) -> Table:
    rows = [
        [
            spell.capital(str(row["step"])),
            str(row["rule"]),
            *(
                spell.number(float(row[name]), 0)
                for name in ("people_out", "people_left", "variants_out", "variants_left")
            ),
        ]
        for row in steps.assign(
            people_left=steps["people_before"] - steps["people_out"],
            variants_left=steps["variants_before"] - steps["variants_out"],
        ).to_dict("records")
    ]
    header = ["Step", "Rule", "People out", "left", "Variants out", "left"]
    return Table("Quality control, in the order in which it was done.", header, rows, "llrrrr")


def _scores(scores: pd.DataFrame) -> Table:
    rows = [
        [
            str(row["score"]),
            str(row["region"]).replace("_", " ").replace("apoe", "APOE region"),
            *(spell.number(float(row[name]), 0) for name in ("listed", "used")),
            spell.percent(float(row["share"])),
            *(
                spell.number(float(row[name]), 0)
                for name in ("flipped", "swapped", "palindromic", "no_match", "absent")
            ),
            str(row["build"]),
        ]
        for row in scores.to_dict("records")
    ]
    header = [
        "Score",
        "Variants",
        "Listed",
        "Used",
        "Share",
        "Other strand",
        "Swapped",
        "A/T, C/G",
        "Other alleles",
        "Not there",
        "Build",
    ]
    caption = (
        "Polygenic scores: variants of each table of weights that were found by position and alleles, with and without the APOE "
        "region. Swapped: the effect allele is the one that is not counted; other strand: read from the other strand; both are "
        "corrected. A/T and C/G variants whose strand cannot be told, and those with other alleles, are left out."
    )
    return Table(caption, header, rows, "ll" + "r" * 8 + "l")


def _reasons(caption: str, counts: pd.Series, who: str) -> Table | None:
    if not len(counts):
        return None
    rows = [[spell.capital(str(reason)), str(int(num))] for reason, num in counts.items()]
    return Table(caption, ["Reason", who], rows, "lr")
