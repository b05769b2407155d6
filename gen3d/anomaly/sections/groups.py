"""Differences between each group and the controls: mean maps and regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as distributions

from gen3d.anomaly.folder import MapsFolder
from gen3d.core import words as spell
from gen3d.figures import brain, charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import Interval

LIMIT, THRESHOLD = 3.0, 1.0
FALSE_DISCOVERY_RATE = 0.05
MINIMUM_GROUP = 5
REGIONS_SHOWN = 8
FOLDED_DPI = 115  # of the models after the first, which are folded away
Volume = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Number of values, mean and variance (unbiased) per voxel over people, and the number of people."""

    num: Volume
    mean: Volume
    variance: Volume
    num_people: int


@page_section("Group maps", "`gen3d anomaly` on a cohort with people other than controls", place=40, reads=MapsFolder)
def section(context: Context) -> Section | None:
    """Mean z maps of held-out controls and of every diagnosis, and the regions that differ."""
    lead = context.first(MapsFolder)
    if lead is None or not len(lead.evaluated) or lead.is_one_scan:
        return None
    numbers: dict[str, Any] = {}
    blocks: list[Any] = [
        Text(
            "These maps show what the people of a group have in common. Each voxel holds the group's mean z: the mean "
            "deviation from what the model expects of healthy people of the same age and sex, in standard deviations of "
            "controls."
        )
    ]
    for maps in context.all(MapsFolder):
        inside = _of_model(context, maps, numbers)
        blocks += inside if maps is lead else [Details(f"The same with {maps.name}", inside)]
    return Section("groups", "Group maps", blocks, numbers)


def _of_model(context: Context, maps: MapsFolder, numbers: dict[str, Any]) -> list[Any]:
    blocks: list[Any] = []
    numbers[maps.name] = {}
    for channel in maps.channels:
        figure, records = _figure(context, maps, channel)
        if figure is None:
            continue
        of_regions = maps.region_channel(channel)
        rows = regions_that_differ(maps, of_regions)
        numbers[maps.name][channel] = {"voxels": records, "regions": rows}
        blocks += [Heading(f"{wording.channel(channel)}, {maps.title(channel)}"), figure]
        if any(row["q"] < FALSE_DISCOVERY_RATE for row in rows):
            blocks.append(_region_table(rows, of_regions, len(maps.reference)))
        elif rows:
            blocks.append(
                Text(
                    f"No region differs between a group and the held-out controls in {wording.in_text(of_regions)} (q < "
                    f"{FALSE_DISCOVERY_RATE:g})."
                )
            )
    return blocks


def _groups(maps: MapsFolder) -> dict[str, pd.DataFrame]:
    """People by row of the figure: held-out controls, then every diagnosis of the evaluation set."""
    evaluated = maps.evaluated
    controls = {"Controls (held out)": maps.reference} if len(maps.reference) else {}
    return controls | {str(name): evaluated[evaluated["diagnosis"] == name] for name in maps.groups}


def _figure(context: Context, maps: MapsFolder, channel: str) -> tuple[Figure | None, list[dict[str, Any]]]:
    space, template = context.space, context.template_t1w
    moments = {name: moments_of(maps, list(part["key"]), channel) for name, part in _groups(maps).items()}
    present = {name: of_group for name, of_group in moments.items() if of_group is not None}
    if not present:
        return None, []
    reference = present.get("Controls (held out)")
    rows, records = [], []
    overlay = brain.Overlay(np.zeros(1), LIMIT, THRESHOLD)
    for name, of_group in present.items():
        outlined = None
        if name != "Controls (held out)" and reference is not None:
            outlined = significant_difference(of_group, reference, space.mask)
        overlay = brain.Overlay(np.where(space.mask, of_group.mean, 0.0), LIMIT, THRESHOLD, outlined)
        tiles = [brain.Tile(cut, template, overlay) for cut in brain.lightbox(space)]
        rows.append(brain.Strip(f"{name or charts.UNNAMED}, n = {of_group.num_people}", tiles))
        records.append(_record(name, of_group, outlined, space.mask))
    dpi = style.DPI if maps is context.first(MapsFolder) else FOLDED_DPI
    png = brain.draw(rows, space, (overlay, "mean z"), dpi=dpi)
    up, down = wording.directions(channel)
    caption = (
        f"{wording.channel(channel)}, {maps.title(channel)}: mean z per group on the template. Orange: {up}; blue: {down}. "
        f"Colour fades out below |mean z| = {THRESHOLD:g}. {_outline_sentence(reference)} {brain.CONVENTION}"
    )
    alt = f"Brain slices with the mean z of {spell.listed(list(present))} in the channel {wording.channel(channel)}."
    return Figure(f"group_{maps.folder.name}_{channel}", alt, caption, png), records


def _outline_sentence(reference: Moments | None) -> str:
    if reference is None or reference.num_people < MINIMUM_GROUP:
        return f"There is no voxelwise test, because it needs at least {MINIMUM_GROUP} held-out controls."
    return (
        "A dark line surrounds voxels in which the group differs from the held-out controls "
        f"(Welch's t, false discovery rate {FALSE_DISCOVERY_RATE:g}; groups of {MINIMUM_GROUP} or more)."
    )


def _record(name: str, moments: Moments, outlined: NDArray[np.bool_] | None, mask: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "group": name,
        "num_people": moments.num_people,
        "mean_z_in_brain": float(np.nanmean(moments.mean[mask])),
        "share_of_voxels_different": float(outlined[mask].mean()) if outlined is not None else None,
    }


def moments_of(maps: MapsFolder, keys: list[str], channel: str) -> Moments | None:
    """Mean and variance of z over people, voxel by voxel, one map in memory at a time; NaN is left out."""
    num = total = squares = None
    num_people = 0
    for key in keys:
        z = maps.z(key, channel)
        if z is None:
            continue
        finite = np.isfinite(z)
        value = np.where(finite, z, 0.0).astype(np.float64)
        if num is None or total is None or squares is None:
            num, total, squares = np.zeros(z.shape), np.zeros(z.shape), np.zeros(z.shape)
        num += finite
        total += value
        squares += value**2
        num_people += 1
    if num is None or total is None or squares is None:
        return None
    mean = total / np.maximum(num, 1)
    variance = np.maximum(squares - num * mean**2, 0) / np.maximum(num - 1, 1)
    return Moments(num, mean, variance, num_people)


def significant_difference(group: Moments, reference: Moments, mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Voxels whose mean differs between two groups (Welch's t, FDR); None if a group has fewer than 5 people."""
    if min(group.num_people, reference.num_people) < MINIMUM_GROUP:
        return None
    tested = mask & (group.num > 2) & (reference.num > 2) & (group.variance > 0) & (reference.variance > 0)
    first = group.variance[tested] / group.num[tested]
    second = reference.variance[tested] / reference.num[tested]
    t = (group.mean[tested] - reference.mean[tested]) / np.sqrt(first + second)
    dof = (first + second) ** 2 / (first**2 / (group.num[tested] - 1) + second**2 / (reference.num[tested] - 1))
    significant = np.zeros(mask.shape, dtype=bool)
    if t.size:
        p = 2 * distributions.t.sf(np.abs(t), dof)
        significant[tested] = distributions.false_discovery_control(p) < FALSE_DISCOVERY_RATE
    return significant


def regions_that_differ(maps: MapsFolder, channel: str) -> list[dict[str, Any]]:
    """Per diagnosis the regions whose z differs most from the held-out controls (Welch's t, BH over regions)."""
    table = maps.regions[maps.regions["channel"] == channel]
    reference = table[table["key"].isin(maps.reference["key"])].pivot_table(index="key", columns="region", values="z")
    rows: list[dict[str, Any]] = []
    if len(reference) < MINIMUM_GROUP:
        return rows
    for diagnosis in maps.groups:
        part = maps.evaluated[maps.evaluated["diagnosis"] == diagnosis]
        mine = table[table["key"].isin(part["key"])]
        z = mine.pivot_table(index="key", columns="region", values="z").reindex(columns=reference.columns)
        if len(z) < MINIMUM_GROUP:
            continue
        effect = mine.groupby("region")[["effect", "effect_percent"]].mean().reindex(reference.columns)
        test = distributions.ttest_ind(z.to_numpy(), reference.to_numpy(), equal_var=False, nan_policy="omit")
        interval = test.confidence_interval(0.95)
        p = np.where(np.isfinite(test.pvalue), test.pvalue, 1.0)
        q = distributions.false_discovery_control(p)
        difference = (z.mean() - reference.mean()).to_numpy()
        for index in np.argsort(p, kind="stable")[:REGIONS_SHOWN]:
            rows.append(
                {
                    "group": str(diagnosis),
                    "num_people": len(z),
                    "region": str(reference.columns[index]),
                    "effect": float(effect["effect"].iloc[index]),
                    "effect_percent": float(effect["effect_percent"].iloc[index]),
                    "difference": Interval(
                        float(difference[index]), float(interval.low[index]), float(interval.high[index]), len(z)
                    ),
                    "p": float(p[index]),
                    "q": float(q[index]),
                }
            )
    return rows


def _region_table(rows: list[dict[str, Any]], channel: str, num_reference: int) -> Table:
    cells: list[list[str]] = []
    silent = []
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        kept = [row for row in mine if row["q"] < FALSE_DISCOVERY_RATE]
        if not kept:
            silent.append(group)
            continue
        cells.append([f"{wording.group(group)}, n = {mine[0]['num_people']}"])
        cells += [
            [
                wording.reading(row["region"], channel),
                wording.effect(channel, row["effect"], row["effect_percent"]),
                wording.with_interval(row["difference"]),
                spell.probability(row["q"]),
            ]
            for row in kept
        ]
    remainder = f" No region differs in {spell.listed(silent)}." if silent else ""
    caption = (
        f"Regions in which a group differs from the {num_reference} held-out controls in {wording.in_text(channel)}, "
        f"at most {REGIONS_SHOWN} per group: "
        f"mean effect, difference in mean z with its 95 % interval, and q (Benjamini-Hochberg over regions).{remainder}"
    )
    return Table(caption, ["Region", "Effect", "Difference in z [95 %]", "q"], cells, "lrrr")
