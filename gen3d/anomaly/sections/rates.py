"""Rates of change over all visits, in the report: of groups, and of the people who differ most from controls."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gen3d.anomaly.change_folder import ChangeFolder
from gen3d.anomaly.picture_rates import draw_group_rates, draw_trajectories
from gen3d.core import words as spell
from gen3d.core.tables import Row, rows_of
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Table, Text

REGIONS_SHOWN, ROWS_SHOWN = 12, 20


def rate_blocks(change: ChangeFolder, people_shown: int) -> tuple[list[Any], dict[str, Any]]:
    """Blocks on the rates of a folder that has them, and the numbers that they show."""
    fastest = _fastest_people(change.rates, change.q)
    blocks: list[Any] = [
        Heading("Rates over all visits"),
        Text(
            "All visits of a person were brought to the space in the middle of them, so that none is favoured (Reuter and "
            "Fischl 2012), and the change of every region was measured there. Rates come from a linear mixed model over "
            "people and visits by restricted maximum likelihood. Rates of regions are relative to the whole brain, which "
            "affine alignment scales and which has a row of its own."
        ),
    ]
    if len(change.group_rates):
        caption = "Rate of change of regions per year by diagnosis at the first visit, with 95 % intervals."
        png = draw_group_rates(change.group_rates, REGIONS_SHOWN)
        blocks.append(Figure(f"group_rates_{change.folder.name}", "Rates of groups by region.", caption, png))
    blocks.append(_people_table(fastest[:ROWS_SHOWN], change.q))
    figures = [_course(change, str(row["subject"])) for row in fastest[:people_shown]]
    if figures:
        blocks.append(figures[0])
    if len(figures) > 1:
        blocks.append(Details(f"Courses of the next {len(figures) - 1}", figures[1:]))
    return blocks, {"rates": fastest, "group_rates": rows_of(change.group_rates)}


def _fastest_people(rates: pd.DataFrame, q: float) -> list[Row]:
    """A row per person, those with most regions unlike controls first: the count, and the strongest region."""
    rows = []
    for subject, part in rates.groupby("subject", sort=False):
        order = part["z"].abs() if part["z"].notna().any() else part["percent_per_year"].abs()
        strongest = rows_of(part.loc[[order.idxmax()]])[0]
        named = ("diagnosis", "num_visits", "years", "region", "percent_per_year", "low", "high", "z", "q")
        rows.append(
            {"subject": str(subject), "num_regions": len(part), "num_changed": int((part["q"] < q).sum())}
            | {name: strongest[name] for name in named}
        )
    return sorted(rows, key=lambda row: -row["num_changed"])


def _people_table(rows: list[Row], q: float) -> Table:
    cells = [
        [
            f"{row['subject']}, {wording.group(str(row['diagnosis']))}",
            str(int(row["num_visits"])),
            spell.number(row["years"], 1),
            f"{row['num_changed']} of {row['num_regions']}",
            wording.region(str(row["region"])),
            spell.interval(row["percent_per_year"], row["low"], row["high"], 1),
            spell.number(row["z"], 1, signed=True),
        ]
        for row in rows
    ]
    caption = (
        f"People with several visits, those who differ most from controls first: regions whose rate differs from that of "
        f"controls (q < {q:g}), and the strongest of them with its rate in % per year and 95 % interval."
    )
    return Table(
        caption,
        ["Person", "Visits", "Years", "Regions unlike controls", "Strongest", "% per year", "z"],
        cells,
        "lrrrlrr",
    )


def _course(change: ChangeFolder, subject: str) -> Figure:
    rates = change.rates[change.rates["subject"] == subject]
    visits = change.trajectories[change.trajectories["subject"] == subject]
    caption = (
        f"{subject}: volume of the regions whose rate differs most from controls, at every visit, in % of the first; the "
        "line is the rate in the model of all people, the band its 95 % interval."
    )
    png = draw_trajectories(visits, rates, change.q, REGIONS_SHOWN)
    return Figure(f"visits_{change.folder.name}_{subject}", f"Regions of {subject} over all visits.", caption, png)
