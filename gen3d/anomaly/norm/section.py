"""Norms: who they stand for, how they behave where nothing is wrong, and what their files tell of a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gen3d.anomaly.norm.folder import DECADE, NormFolder
from gen3d.core import words as spell
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import Interval, wilson_interval

HELD_OUT, TEST = "each without itself", "took no part"
PARTS = {"calibration_held_out": HELD_OUT, "test": TEST}
"""Part of a calibration record -> how its controls were judged."""

ALL_SITES = "all"
OF_THE_CARD = ("What it cannot do", "What it tells of a person", "Terms")
"""Chapters of the model card that the page repeats."""


@page_section("Norms", "`gen3d norm`", place=145, reads=NormFolder)
def section(context: Context) -> Section | None:
    """Each norm: its controls, z of controls by channel and site, normative curves, and chapters of its card."""
    norms = context.all(NormFolder)
    if not norms:
        return None
    blocks: list[Any] = [
        Text(
            "A norm judges new scans by what it kept of its controls, without an image of them. A scan of a site that is not "
            "listed here gets no map, and a person outside the ages is flagged."
        )
    ]
    numbers: dict[str, Any] = {}
    for norm in norms:
        rows = null_by_site(norm)
        inside = [*_who(norm), _null_table(rows), *_curves(norm), *_card(norm)]
        blocks += [Heading(norm.name), *inside] if len(norms) > 1 else inside
        numbers[norm.name] = {"controls": norm.record.who, "null": rows}
    return Section("norms", "Norms", blocks, numbers)


def _who(norm: NormFolder) -> list[Any]:
    """How many controls of which ages, a row of bars and of the table per site."""
    who, covariates = norm.record.who, norm.record.covariates
    low, high = covariates.age_range_years
    ages = f"aged {spell.number(low, 0)} to {spell.number(high, 0)}" if np.isfinite(low) else "of unknown age"
    adapted = norm.record.controls.adapted
    also = "".join(
        f" Site {site} was added from {spell.count(num, 'control')} of its own." for site, num in adapted.items()
    )
    sites = sorted({str(row["site"]) for row in who})
    cells = []
    for site in sites:
        of_site = [row for row in who if row["site"] == site]
        sexes = {sex: sum(row["num"] for row in of_site if row["sex"] == sex) for sex in ("F", "M")}
        num = sum(row["num"] for row in of_site)
        cells.append(
            [site or charts.UNNAMED, str(num), str(sexes["F"]), str(sexes["M"]), str(num - sum(sexes.values()))]
        )
    channels = spell.listed([wording.in_text(name) for name in norm.region_channels])
    blocks: list[Any] = [
        Text(f"{norm.name}: {spell.count(covariates.num_people, 'control')}, {ages}; {channels}.{also}", "lead"),
        Table("Controls of the norm by site.", ["Site", "People", "Women", "Men", "Sex unknown"], cells, "lrrrr"),
    ]
    by_site = {site: decades for site in sites if len(decades := _middles(who, site))}
    if by_site:
        png, svg = charts.ages(by_site, style.category_colours(list(by_site)), float(DECADE))
        caption = f"{norm.name}: controls by site and decade of age."
        blocks.append(Figure(f"norm_{norm.folder.name}_ages", caption, caption, png, svg=svg, width_percent=70))
    return blocks


def _middles(who: list[dict[str, Any]], site: str) -> np.ndarray:
    """The middle of the decade of each control of a site whose age is known."""
    known = [row for row in who if row["site"] == site and row["age"]]
    decades = [float(str(row["age"]).removesuffix("s")) for row in known]
    return np.repeat(np.array(decades) + DECADE / 2, [int(row["num"]) for row in known])


def null_by_site(norm: NormFolder) -> list[dict[str, Any]]:
    """Per channel, way to judge controls, and site ("all" first): share of |z| > 1.96 and people with an FDR-positive value.

    The share of people has Wilson's interval. That of values has none: a norm keeps no figure of a single control.
    """
    rows = []
    for channel, record in norm.calibration.items():
        for part, judged in PARTS.items():
            figures: Mapping[str, Any] = record.get(part) or {}
            if not figures.get("num_people"):
                continue
            by_site = figures.get("by_site") or {}
            sites = {ALL_SITES: figures} | (dict(sorted(by_site.items())) if len(by_site) > 1 else {})
            rows += [_null_row(str(channel), judged, str(site), of_site) for site, of_site in sites.items()]
    return rows


def _null_row(channel: str, judged: str, site: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    num = int(figures["num_people"])
    positive = round(num * float(figures["share_people_fdr_positive"]))
    return {
        "channel": channel,
        "judged": judged,
        "site": site,
        "num_people": num,
        "share_beyond": float(figures["share_beyond_1.96"]),
        "num_positive": positive,
        "share_positive": wilson_interval(positive, num),
    }


def _null_table(rows: list[dict[str, Any]]) -> Table:
    cells: list[list[str]] = []
    for channel in dict.fromkeys(row["channel"] for row in rows):
        cells.append([wording.channel(channel)])
        cells += [_null_cells(row) for row in rows if row["channel"] == channel]
    caption = (
        "Where nothing is wrong: z of healthy controls, by channel and site. Right are 5 % beyond 1.96 and at most 5 % of people "
        f"with a value that survives the false discovery rate. {HELD_OUT.capitalize()}: controls of the norm, each judged by the "
        f"others; {TEST}: controls of role test. In brackets the 95 % interval over people (Wilson)."
    )
    header = ["Site", "Controls", "People", "|z| > 1.96, %", "FDR-positive people", "% [95 %]"]
    return Table(caption, header, cells, "llrrrr")


def _null_cells(row: dict[str, Any]) -> list[str]:
    share: Interval = row["share_positive"]
    return [
        row["site"] or charts.UNNAMED,
        row["judged"],
        str(row["num_people"]),
        spell.number(100 * row["share_beyond"], 1),
        f"{row['num_positive']} of {row['num_people']}",
        wording.with_interval(share, 0, 100),
    ]


def _curves(norm: NormFolder) -> list[Any]:
    """The picture of normative curves, where the folder has one."""
    picture = norm.curves
    if picture is None:
        return []
    png, svg = picture
    caption = f"{norm.name}: normative curves of the main regions, centiles by age and sex. curves.tsv has the numbers."
    return [Figure(f"norm_{norm.folder.name}_curves", "Normative curves of the main regions.", caption, png, svg=svg)]


def _card(norm: NormFolder) -> list[Any]:
    chapters = card_chapters(norm.card)
    found = [(title, chapters[title]) for title in OF_THE_CARD if chapters.get(title)]
    return [Details(title, [Points(tuple(_plain(point) for point in points))]) for title, points in found]


def card_chapters(text: str) -> dict[str, list[str]]:
    """Title of each chapter of a model card -> its points."""
    chapters: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ").strip()
        elif line.startswith("- ") and title:
            chapters.setdefault(title, []).append(line.removeprefix("- ").strip())
    return chapters


def _plain(point: str) -> str:
    """A point as a sentence of the page."""
    sentence = spell.capital(point)
    return sentence if re.search(r"[.!?]$", sentence) else f"{sentence}."
