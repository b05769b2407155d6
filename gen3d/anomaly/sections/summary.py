"""Sentences on groups and held-out controls for the summary of the page."""

from __future__ import annotations

import numpy as np

from gen3d.anomaly.folder import MapsFolder
from gen3d.anomaly.sections import groups, people
from gen3d.cohort.manifest import NULL
from gen3d.cohort.region_validity import measures_volume
from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import names as wording
from gen3d.figures.blocks import Table
from gen3d.figures.context import Context

FEWEST = 3
"""People of a group, and held-out controls, below which groups are not compared."""

FALSE_POSITIVE_PEOPLE = 0.05


def scan_sentences(maps: MapsFolder) -> list[str]:
    """A single scan: who judged it, how far its scores lie from those of controls, and its strongest findings."""
    row = maps.row(str(maps.subjects["key"].iloc[0]))
    age = float(row["age_years"]) if "age_years" in row else np.nan
    aged = f", {spell.number(age, 0)} years" if np.isfinite(age) else ""
    sentences = [f"{row['subject']}{aged}: judged by {maps.judged_by}. {people.findings(maps, str(row.name))}"]
    standing = [
        f"{wording.in_text(score.channel)} {spell.number(float(row[score.percentile_column]), 0)}"
        for score in maps.headline_scores
        if np.isfinite(float(row.get(score.percentile_column, np.nan)))
    ]
    if standing:
        sentences.append(f"Percentile of the scores among those controls: {spell.listed(standing)}.")
    if row.get("flags"):
        sentences.append(f"Flagged: {row['flags']}.")
    return sentences


def group_sentences(rows: list[Row]) -> list[str]:
    """One sentence per group: the scores that separate it from held-out controls; `rows` hold one score each."""
    sentences = []
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        sentences.append(f"{spell.capital(wording.group(group))}, {_group_sentence(mine, group == NULL)}")
    return sentences


def _group_sentence(rows: list[Row], null: bool) -> str:
    """The scores that separate one group from held-out controls; `rows` are the scores of the group."""
    num_people, num_controls = (max(row[name] for row in rows) for name in ("num_people", "num_controls"))
    size = f"n = {num_people} against {spell.count(num_controls, 'held-out control')}"
    if min(num_people, num_controls) < FEWEST:
        return f"{size}: too few for a comparison."
    apart = [row for row in rows if row["auc"].low > 0.5]
    if not apart:
        top = max(rows, key=lambda row: np.nan_to_num(row["auc"].value))
        text = f"{size}: no score separates this group from controls. The largest AUC is "
        text += f"{wording.with_interval(top['auc'])}, {wording.in_text(top['channel'])}."
        return text + (" This is correct: nothing was planted." if null else "")
    parts = [f"{wording.in_text(row['channel'])} (AUC {wording.with_interval(row['auc'])})" for row in apart]
    text = f"{size}: separated from controls by {spell.listed(parts)}."
    doubt = (
        " Nothing was planted in these people, so this is a false alarm. Treat the other findings with the same doubt."
    )
    return text + (doubt if null else "")


def region_sentences(context: Context) -> list[str]:
    """One sentence per group: the regions whose volume differs most from that of held-out controls.

    Readings that do not measure their region's volume stay out; the table of the section has them, marked.
    """
    lead = context.first(MapsFolder)
    if lead is None or "deformation" not in lead.channels:
        return []
    sentences = []
    channel = lead.region_channel("deformation")
    rows = [row for row in groups.regions_that_differ(lead, channel) if measures_volume(row["region"], channel)]
    for group in dict.fromkeys(row["group"] for row in rows):
        top = [row for row in rows if row["group"] == group and row["q"] < groups.FALSE_DISCOVERY_RATE][:3]
        if top:
            parts = [
                f"{wording.region(row['region'])} ({spell.number(row['effect_percent'], 1, signed=True)} %, z "
                f"{spell.number(row['difference'].value, 1, signed=True)})"
                for row in top
            ]
            sentences.append(
                f"Regions whose volume differs most in {wording.group(group)}: {spell.listed(parts)}; q < 0.05 over "
                "regions."
            )
    return sentences


def calibration_sentences(rows: list[Row]) -> list[str]:
    """One sentence per channel: z in held-out controls, which should have mean 0 and SD 1."""
    sentences = []
    for row in rows:
        text = (
            f"{wording.channel(row['channel'])}: mean {spell.number(row['mean'])} and SD {spell.number(row['sd'])} "
            f"(expected 0 and 1), {spell.percent(row['share_beyond'].value)} of voxels beyond 1.96 (expected 5 %); "
            f"{row['num_positive']} of {spell.people(row['num_people'])} with a voxel that survives the false discovery rate."
        )
        if row["share_positive"].low > FALSE_POSITIVE_PEOPLE:
            text += " More than the expected 5 %: treat single significant voxels of this channel with doubt."
        sentences.append(text)
    return sentences


def key_table(rows: list[Row], model: str) -> Table:
    """AUC of every group and score."""
    columns = list(dict.fromkeys((row["channel"], row["kind"]) for row in rows))
    cells = []
    for group in dict.fromkeys(row["group"] for row in rows):
        by_column = {(row["channel"], row["kind"]): row for row in rows if row["group"] == group}
        num = max(row["num_people"] for row in by_column.values())
        cells.append(
            [
                wording.group(group),
                str(num),
                *[wording.with_interval(by_column[c]["auc"]) if c in by_column else spell.NONE for c in columns],
            ]
        )
    num_controls = max(row["num_controls"] for row in rows)
    caption = (
        f"AUC [95 %] of each group against {spell.count(num_controls, 'held-out control')}, {model}. 0.5 is chance."
    )
    return Table(
        caption, ["Group", "n", *[wording.channel(channel) for channel, _ in columns]], cells, "lr" + "r" * len(columns)
    )
