"""Report section of `gen3d harmonise`: site and kept columns before and after, with the harmonisation fitted on other people."""

from __future__ import annotations

import math
from typing import Any

from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.figures.plain_tables import column_name, interval_of, plain_table
from gen3d.harmonise.assessment import AFTER, BEFORE, DIFFERENCE
from gen3d.harmonise.folder import HarmonisedFolder

STAGES = (BEFORE, AFTER, DIFFERENCE)
MEASURES = {
    "macro_auc": "macro AUC",
    "balanced_accuracy": "balanced accuracy",
    "r2": "R²",
    "mae": "mean absolute error",
    "pearson": "Pearson r",
}
PEOPLE_COLUMNS = {"num_fitted": "Estimated from, people", "shift_sd": "Shift, SD", "scale": "Scale"}


@page_section("Harmonisation", "`gen3d harmonise`", place=90, reads=HarmonisedFolder)
def section(context: Context) -> Section | None:
    """Per folder: the effect in sentences, in numbers and as a picture."""
    folders = context.all(HarmonisedFolder)
    if not folders:
        return None
    blocks: list[Any] = []
    for harmonised in folders:
        if len(folders) > 1:
            blocks.append(Heading(harmonised.name))
        blocks += _of_folder(harmonised)
    numbers = {harmonised.name: harmonised.metrics for harmonised in folders}
    return Section("harmonisation", "Harmonisation", blocks, numbers)


def _of_folder(harmonised: HarmonisedFolder) -> list[Any]:
    blocks: list[Any] = []
    if harmonised.summary:
        blocks += [Text(spell.capital(harmonised.summary[0]), "verdict"), Points(harmonised.summary[1:])]
    by = str(harmonised.artefact.config.get("by", "site")).replace("_", " ")
    blocks += _compared(harmonised, "sites", f"Predicting the {by}", ("classifier", "measure"), by)
    blocks += _compared(harmonised, "kept", "Predicting the kept and the reported columns", ("column", "measure"), "")
    png = harmonised.picture("before_after")
    if png:
        caption = f"The latents before and after on the same two principal components, coloured by {by}."
        blocks.append(Figure(_name(harmonised, "before_after"), "Latents before and after.", caption, png))
    people = harmonised.rows("people")
    if people:
        caption = (
            f"What was removed from each {by}: its shift (root mean square over dimensions) and its scale (1: none), and the "
            "number of people that they were estimated from."
        )
        blocks.append(Details("What was estimated", [plain_table(caption, people, PEOPLE_COLUMNS)]))
    return blocks


def _name(harmonised: HarmonisedFolder, figure: str) -> str:
    return f"harmonisation_{harmonised.name.replace('/', '_')}_{figure}"


def _compared(harmonised: HarmonisedFolder, table: str, title: str, by: tuple[str, str], site: str) -> list[Any]:
    """A chart and a table of predictions before and after, a line per classifier or column and measure."""
    rows = harmonised.rows(table, "stage", "measure", "value", "low", "high")
    by_line: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if math.isfinite(harmonised.number(row, "value", table)):
            key = (str(row.get(by[0]) or site), str(row["measure"]))
            by_line.setdefault(key, {})[str(row["stage"])] = row
    if not by_line:
        return []
    present = [stage for stage in STAGES if any(stage in stages for stages in by_line.values())]
    cells = []
    for (name, measure), stages in by_line.items():
        first = next(iter(stages.values()))
        chance = harmonised.number(first, "chance", table)
        num = harmonised.number(first, "num_people", table)
        cells.append(
            [
                column_name(name) if table == "kept" else spell.capital(name),
                _measure(measure),
                f"{num:.0f}" if math.isfinite(num) else spell.NONE,
                *(
                    wording.with_interval(interval_of(harmonised, stages[stage], table))
                    if stage in stages
                    else spell.NONE
                    for stage in present
                ),
                spell.number(chance),
            ]
        )
    header = [column_name(by[0]), "Measure", "n", *(f"{spell.capital(stage)} [95 %]" for stage in present), "Chance"]
    caption = (
        f"{title} from the latents, before and after; cross-validated, with the harmonisation fitted on other people."
    )
    return [
        Heading(title),
        _chart(harmonised, table, by_line),
        Table(caption, header, cells, "llr" + "r" * len(present) + "r"),
    ]


def _measure(name: str) -> str:
    return MEASURES.get(name, name.replace("_", " "))


def _chart(harmonised: HarmonisedFolder, table: str, by_line: dict[tuple[str, str], dict[str, Row]]) -> Figure:
    lines = []
    for (name, measure), stages in by_line.items():
        for stage, colour in ((BEFORE, style.GREY), (AFTER, style.GROUP_COLOURS[0])):
            if stage in stages:
                value = interval_of(harmonised, stages[stage], table)
                label = f"{name.replace('_', ' ')}, {_measure(measure)}, {stage}"
                lines.append(charts.Line(label, value, colour, hollow=stage == BEFORE))
    png, svg = charts.intervals(lines, "Value", None)
    caption = "Before (hollow, grey) and after (filled, blue), with 95 % intervals; chance is in the table."
    return Figure(_name(harmonised, table), "Intervals before and after.", caption, png, svg=svg, width_percent=80)
