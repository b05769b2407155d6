"""What `gen3d explore` found, in sentences: first what differs after correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gen3d.cohort.channels import LOG_JACOBIAN, T1W
from gen3d.core import words as spell
from gen3d.figures import names as wording

ALPHA = 0.05
CHANNELS = {T1W: "residual", LOG_JACOBIAN: "deformation"}
"""The channels of maps by which readings of regions are named."""

NAMED = 3
"""Regions that a sentence names."""


def channel_words(channel: str) -> str:
    """A channel inside a sentence."""
    return wording.in_text(CHANNELS.get(channel, channel))


def pair_words(row: Mapping[Any, Any]) -> str:
    """Two levels: CN and AD."""
    return f"{row['level_a']} and {row['level_b']}"


def change_words(row: Mapping[Any, Any]) -> str:
    """A region with its difference: left hippocampus −5.2 %."""
    unit = " %" if row["channel"] == LOG_JACOBIAN else " % of WM"
    name = wording.reading(str(row["region"]), CHANNELS.get(str(row["channel"]), ""))
    return f"{name} {spell.number(float(row['percent']), 1, signed=True)}{unit}"


def sentences(by: str, tables: Mapping[str, pd.DataFrame], ordered: bool, permutations: str) -> list[str]:
    """In words; `permutations` says of whom: 999 permutations of people within age bins.

    The verdict first, then each comparison that differs, intensity, and how alike scans are.
    """
    said = [verdict(by, tables, ordered, permutations)]
    said += _differing(tables)
    said += _intensity(tables["intensity_trend"])
    said += _alike(tables["excess"], tables["similarity"])
    return said


def verdict(by: str, tables: Mapping[str, pd.DataFrame], ordered: bool, permutations: str) -> str:
    """Whether anything differs after correction for regions, voxels, channels and comparisons, and in how many people."""
    comparisons = tables["comparisons"]
    counts = ", ".join(
        f"{level} {num}" for level, num in zip(tables["levels"]["level"], tables["levels"]["num_people"], strict=True)
    )
    num = int(tables["levels"]["num_people"].sum())
    who = f"{spell.people(num)} ({by}: {counts}; {permutations})"
    differing = comparisons[comparisons["voxels_differ"] | (comparisons["num_regions_differ"] > 0)]
    if comparisons["p_all"].isna().all():
        return f"Nothing could be compared in {who}: no two levels share an age bin."
    if not len(differing):
        smallest = spell.probability(float(comparisons["p_all"].min()))
        between = f"neighbouring levels of {by}" if ordered else f"{comparisons['level_a'].iloc[0]} and any other {by}"
        return f"No region and no voxel differs between {between} after correction, in {who}; the smallest p is {smallest}."
    pairs = list(dict.fromkeys(pair_words(row) for row in differing.to_dict("records")))
    return f"After correction, {spell.listed(pairs)} differ, in {who}."


def _differing(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    said, regions = [], tables["regions"]
    for row in tables["comparisons"].to_dict("records"):
        if not (row["voxels_differ"] or row["num_regions_differ"]):
            continue
        parts = []
        if row["num_regions"]:
            parts.append(f"{row['num_regions_differ']} of {spell.count(int(row['num_regions']), 'region')}")
        parts.append(f"{spell.percent(float(row['share_voxels_differ']))} of voxels (corrected within the map)")
        text = f"{pair_words(row)}, {channel_words(str(row['channel']))}: {spell.listed(parts)} differ"
        mine = regions[
            (regions["level_a"] == row["level_a"])
            & (regions["level_b"] == row["level_b"])
            & (regions["channel"] == row["channel"])
        ]
        strongest = mine[mine["p_all"] <= ALPHA].sort_values("t", key=lambda t: -t.abs(), kind="stable").head(NAMED)
        if len(strongest):
            text += f"; most: {spell.listed([change_words(each) for each in strongest.to_dict('records')])}"
            text += f" (p {_about(float(strongest['p_all'].max()))})"
        said.append(f"{text}.")
    return said


def _about(p: float) -> str:
    text = spell.probability(p)
    return text if text.startswith("<") else f"≤ {text}"


def _intensity(trend: pd.DataFrame) -> list[str]:
    known = trend[trend["p_fwe"].notna()]
    if not len(known):
        return []
    differing = known[known["p_fwe"] <= ALPHA]
    if not len(differing):
        least = spell.probability(float(known["p_fwe"].min()))
        return [f"No measure of T1w intensity goes with the levels (smallest p {least})."]
    parts = [
        f"{measure_words(str(row['measure']))} {measure_number(str(row['measure']), float(row['per_level']), signed=True)} "
        f"({row['comparison']}, p {spell.probability(float(row['p_fwe']))})"
        for row in differing.to_dict("records")
    ]
    return [f"T1w intensity goes with the levels: {spell.listed(parts)}."]


def measure_words(measure: str) -> str:
    """A measure of grey values for readers: share of grey values 40 to 60."""
    return measure.replace("share", "share of grey values") if measure.startswith("share") else f"{measure} grey value"


def measure_number(measure: str, value: float | None, signed: bool = False) -> str:
    """A share in percent, a grey value as it is."""
    if value is None:
        return spell.NONE
    if not measure.startswith("share"):
        return spell.number(value, 1, signed)
    return f"{spell.number(100 * value, 2, signed)} %"


def _alike(excess: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    said: list[str] = []
    for row in excess[excess["measure"] == "ssim"].to_dict("records"):
        share = spell.interval(100 * row["share"], 100 * row["share_low"], 100 * row["share_high"], 1)
        said.append(
            f"Two people of {pair_words(row)} have SSIM {spell.number(row['between'], 3)}, two people of one of these levels "
            f"{spell.number(row['within'], 3)}: the level adds {share} % to how unlike two people are{_nothing(row)}."
        )
    repeats = cells[(cells["kind"] == "two scans of one person") & (cells["measure"] == "ssim")]
    if len(repeats):
        values: Sequence[float] = repeats["value"].astype(float).tolist()
        weights: Sequence[int] = repeats["num_pairs"].astype(int).tolist()
        mean = sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
        said.append(
            f"Two scans of one person have SSIM {spell.number(mean, 3)} ({spell.people(sum(weights))}), the ceiling."
        )
    return said


def _nothing(row: Mapping[Any, Any]) -> str:
    return ", which is not distinguishable from nothing" if row["share_low"] <= 0 <= row["share_high"] else ""
