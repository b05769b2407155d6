"""From scans to groups: mean maps, their enrichment among all regions, agreement of second scans, and the judges' tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.tables import Row
from gen3d.explain.enrichment import by_region, enrichment, normalised
from gen3d.explain.folder import group_path, map_path
from gen3d.explain.judges import agreement
from gen3d.explain.one_scan import Opened
from gen3d.explain.people import ScanToExplain
from gen3d.imaging.volume import read_map, write_nifti

SMALLEST_REGION_ML = 0.2
"""Regions with less than this in what the network sees are not ranked: in a few voxels every map can be strong."""
LIMIT_PERCENTILE = 99.5
"""Of a map's strength inside the brain; the median over people is the end of the colour scale of all pictures of a method."""


def group_maps(opened: Opened, tasks: Sequence[ScanToExplain], names: dict[str, str]) -> dict[str, dict[str, float]]:
    """Write the mean strength of every group and method; returns the end of the colour scale and the number of people.

    Args:
        opened: the folders.
        tasks: whose maps are there.
        names: group -> its name in files.

    Returns:
        Method -> {`limit`: strength at which pictures are opaque}.
    """
    scales: dict[str, dict[str, float]] = {}
    for method in opened.methods:
        highest = []
        for group, file_name in names.items():
            total, num = np.zeros(opened.mask.shape, np.float64), 0
            for task in tasks:
                if task.group == group and not task.retest:
                    strength = normalised(read_map(map_path(opened.verb.out, task.key, method)), opened.mask)
                    total += strength
                    num += 1
                    highest.append(float(np.percentile(strength[opened.mask], LIMIT_PERCENTILE)))
            mean = (total / max(1, num)).astype(np.float32)
            write_nifti(group_path(opened.verb.out, file_name, method), mean, opened.prepared.plan.matrix)
        scales[method] = {"limit": max(1.5, float(np.median(highest)))}
    return scales


def group_enrichment(opened: Opened, names: dict[str, str]) -> list[Row]:
    """Per group, method and tested region: enrichment of the mean map, against turned maps and among all regions."""
    table, rows = opened.prepared.region_table, list[Row]()
    structures = _structures(table)
    voxel_ml = opened.prepared.plan.spacing_mm**3 / 1000
    for method in opened.methods:
        for group, file_name in names.items():
            mean = read_map(group_path(opened.verb.out, file_name, method))
            values = _by_structure(mean, opened, table, structures, voxel_ml)
            for region, inside in opened.named.items():
                generator = np.random.default_rng([opened.verb.seed, len(rows)])
                found = enrichment(mean, inside, opened.brain, opened.verb.rotations, generator)
                others = [value for name, value in values.items() if name != region.lower()]
                rows.append(
                    {"method": method, "group": group, "region": region, "enrichment": found.value}
                    | {name: getattr(found, name) for name in ("null_mean", "null_high", "p", "rank_accuracy", "auroc")}
                    | {"rank": 1 + sum(value > found.value for value in others), "num_regions": 1 + len(others)}
                )
    return rows


def _structures(table: pd.DataFrame) -> dict[str, list[int]]:
    """Name without its side -> labels."""
    found: dict[str, list[int]] = {}
    for label, name in table[["label", "name"]].itertuples(index=False):
        plain = str(name).lower().removeprefix("left ").removeprefix("right ")
        found.setdefault(plain, []).append(int(label))
    return found


def _by_structure(
    mean: NDArray[np.float32], opened: Opened, table: pd.DataFrame, structures: dict[str, list[int]], voxel_ml: float
) -> dict[str, float]:
    labels, most = opened.prepared.regions, int(table["label"].max())
    counts = np.bincount(labels[opened.mask], minlength=most + 1)
    values = np.nan_to_num(by_region(mean, opened.mask, labels, most))
    found = {}
    for name, own in structures.items():
        num = counts[own]
        if num.sum() * voxel_ml >= SMALLEST_REGION_ML:
            found[name] = float((values[own] * num).sum() / num.sum())
    return found


def retest_rows(rows: Sequence[dict[str, Any]], regions: pd.DataFrame) -> list[Row]:
    """ICC over regions between two scans of a person, and the mean of that with the first scans of others of the group."""
    scans = pd.DataFrame([row["scan"][0] for row in rows])
    found: list[Row] = []
    if not len(scans) or not scans["retest"].any():
        return found
    first = scans[~scans["retest"]].set_index("subject")
    for method, own in regions.groupby("method", sort=False):
        wide = own.pivot_table(index="key", columns="region", values="enrichment", aggfunc="first", sort=False)
        for second in scans[scans["retest"]].to_dict("records"):
            if second["subject"] not in first.index:
                continue
            mine = first.loc[second["subject"]]
            others = first[(first["group"] == mine["group"]) & (first.index != second["subject"])]["key"]
            values = wide.loc[second["key"]].to_numpy(float)
            between = [agreement(values, wide.loc[key].to_numpy(float)) for key in others]
            years = (second["age_years"] or np.nan) - (mine["age_years"] or np.nan)
            found.append(
                {
                    "key": str(mine["key"]),
                    "second": second["key"],
                    "subject": second["subject"],
                    "group": str(mine["group"]),
                }
                | {
                    "method": str(method),
                    "years": years,
                    "icc": agreement(values, wide.loc[mine["key"]].to_numpy(float)),
                }
                | {"icc_others": float(np.mean(between)) if between else np.nan}
            )
    return found


def require_controls(num: int, name: str, where: str) -> None:
    """Refuse a mean of fewer than two controls: of one that is explained nothing would be left."""
    if num < 2:
        raise UserError(
            f"{where}: {spell.people(num)} of the class {name}, and the mean of controls needs two; add controls to prepared=."
        )
