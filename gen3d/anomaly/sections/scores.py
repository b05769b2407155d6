"""One number per person and channel: how groups differ in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gen3d.anomaly.folder import MapsFolder
from gen3d.core import words as spell
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import delong_interval

HELD_OUT = "Controls"
FEW = 10
FEWEST = 3
"""Held-out controls below which people whom a norm judged are not compared with them."""


@page_section("Scores by group", "`gen3d anomaly` on a cohort", place=50, reads=MapsFolder)
def section(context: Context) -> Section | None:
    """Dots per group and AUC against held-out controls, every model side by side."""
    compared = [maps for maps in context.all(MapsFolder) if has_groups(maps)]
    if not compared:
        return None
    rows = [row for maps in compared for row in separation(maps)]
    blocks: list[Any] = [
        Text(
            "Each person gets two scores per channel. The largest |z| of any region suits atrophy; the mean of the most "
            "deviating 5 % of voxels suits lesions. AUC is the probability that a person of the group scores higher than a "
            "held-out control: 0.5 is chance, 1 is complete separation."
        )
    ]
    for maps in compared:
        figure = _figure(context, maps)
        if figure is not None:
            blocks += [figure] if maps is compared[0] else [Details(f"The same with {maps.name}", [figure])]
    if rows:
        blocks.append(_table(rows))
    return Section("scores", "Scores by group", blocks, {"auc": rows})


def has_groups(maps: MapsFolder) -> bool:
    """Whether people can be compared: those whom a norm judged need not come with controls of their own."""
    return not maps.is_one_scan and (not maps.by_norm or len(maps.reference) >= FEWEST)


def separation(maps: MapsFolder, headline_only: bool = False) -> list[dict[str, Any]]:
    """Per diagnosis and score: n, quartiles, and AUC against held-out controls with DeLong's interval."""
    rows = []
    reference, evaluated = maps.reference, maps.evaluated
    for diagnosis in maps.groups:
        part = evaluated[evaluated["diagnosis"] == diagnosis]
        for score in maps.headline_scores if headline_only else maps.scores:
            ill = part[score.column].dropna().to_numpy(float)
            well = reference[score.column].dropna().to_numpy(float)
            quartiles = np.percentile(ill, [25, 50, 75]) if len(ill) else np.full(3, np.nan)
            rows.append(
                {
                    "model": maps.name,
                    "channel": score.channel,
                    "kind": score.kind,
                    "group": str(diagnosis),
                    "num_people": len(ill),
                    "num_controls": len(well),
                    "quartiles": [float(value) for value in quartiles],
                    "auc": delong_interval(ill, well),
                }
            )
    return rows


def _figure(context: Context, maps: MapsFolder) -> Figure | None:
    panels = []
    for score in maps.headline_scores:
        by_group = {HELD_OUT: maps.reference[score.column].to_numpy(float)} if len(maps.reference) else {}
        for diagnosis in maps.groups:
            part = maps.evaluated[maps.evaluated["diagnosis"] == diagnosis]
            by_group[str(diagnosis)] = part[score.column].to_numpy(float)
        if by_group:
            panels.append(charts.ScoreDots(wording.channel(score.channel), by_group, HELD_OUT))
    if not panels:
        return None
    colours = {HELD_OUT: style.CONTROL_COLOUR} | context.colours
    png, svg = charts.strips(panels, colours, "Score", context.seed)
    components = spell.listed(
        [f"{wording.KINDS[score.kind]} for {wording.in_text(score.channel)}" for score in maps.headline_scores]
    )
    caption = (
        f"Scores of {maps.name}: {components}. Each dot is a person. The bar spans the middle half of the group; its mark "
        "is the median. Controls are held out: neither the model nor its calibration has seen them. The band spans 95 % "
        "of them."
    )
    return Figure(f"scores_{maps.folder.name}", f"Scores by group for {maps.name}.", caption, png, svg=svg)


def _table(rows: list[dict[str, Any]]) -> Table:
    """Groups over scores, models side by side."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells: list[list[str]] = []
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = {(row["channel"], row["kind"], row["model"]): row for row in rows if row["group"] == group}
        cells.append([f"{wording.group(group)}, n = {max(row['num_people'] for row in mine.values())}"])
        for channel, kind in dict.fromkeys((row["channel"], row["kind"]) for row in rows):
            by_model = [mine.get((channel, kind, model)) for model in models]
            areas = [wording.with_interval(row["auc"]) if row else spell.NONE for row in by_model]
            cells.append([wording.channel(channel), wording.KINDS.get(kind, kind), *areas])
    fewest = min(row["num_controls"] for row in rows)
    caution = " With so few controls the intervals are wide and approximate." if fewest < FEW else ""
    caption = (
        f"AUC [95 %] against {spell.count(fewest, 'held-out control')} by model. Intervals are DeLong's, or "
        f"Newcombe's where separation is complete. They are not corrected for the number of scores.{caution}"
    )
    if not fewest:
        caption = "No AUC can be given: the maps hold no held-out controls (role test)."
    return Table(caption, ["Channel", "Score", *models], cells, "ll" + "r" * len(models))
