"""Report section of `gen3d stratify`: clusters, whether they are stable, and what they go with, confounds first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.figures import brain
from gen3d.figures import explorer as interactive
from gen3d.figures import names as wording
from gen3d.figures.blocks import Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.figures.plain_tables import plain_table
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import template_on
from gen3d.stratify import section_map as strata_map
from gen3d.stratify.folder import PlacedFolder, StrataFolder, read_mean_map

LIMIT, THRESHOLD = 3.0, 1.0
CAPTIONS = {
    "structure": "The clusters compared with simulated cohorts of one group with the same variation; p: how often one group "
    "scores as high.",
    "solutions": "Numbers of clusters that were tried; ARI: how similar the clusters of resampled people are.",
    "map_quality": "How well the map keeps neighbourhoods of the latents, compared with random places.",
}
COLUMNS = {
    "k": "Clusters",
    "null_mean": "One group, mean",
    "null_95": "One group, 95 % below",
    "smallest": "Smallest, n",
}
SHOWN_ELSEWHERE = ("associations", "clusters", "cluster_maps", "exploratory")
ASSOCIATIONS = "associations"
Volume = NDArray[np.float32]


@page_section("Strata", "`gen3d stratify`", place=110, reads=StrataFolder)
def section(context: Context) -> Section | None:
    """Per folder: the verdict, the scatter, who is in which cluster, associations, stability and cluster means."""
    folders = context.all(StrataFolder)
    if not folders:
        return None
    blocks: list[Any] = []
    numbers: dict[str, Any] = {}
    for strata in folders:
        if len(folders) > 1:
            blocks.append(Heading(strata.name))
        inside, strata_numbers = _of_folder(context, strata)
        blocks += inside
        numbers[strata.name] = {**strata.metrics, **strata_numbers}
    return Section("strata", "Strata", blocks, numbers)


def _of_folder(context: Context, strata: StrataFolder) -> tuple[list[Any], dict[str, Any]]:
    blocks: list[Any] = []
    if strata.summary:
        blocks += [Text(spell.capital(strata.summary[0]), "verdict"), Points(strata.summary[1:])]
    figures, numbers = _scatter(context, strata)
    blocks += figures + _clusters(strata) + _associations(strata)
    tables = strata.metrics.get("tables") or {}
    others = [name for name in tables if name not in SHOWN_ELSEWHERE and strata.rows(name)]
    if others:
        blocks.append(Heading("Stability, and quality of the map"))
        blocks += [plain_table(CAPTIONS.get(name, f"{_title(name)}."), strata.rows(name), COLUMNS) for name in others]
    return [*blocks, *_means(context, strata)], numbers


def _in_text(plane: str) -> str:
    return plane if plane.isupper() else plane.lower()


def _title(name: str) -> str:
    return spell.capital(name.replace("_", " "))


def newcomers(context: Context, strata: StrataFolder) -> tuple[PlacedFolder, pd.DataFrame] | None:
    """The first predictions that were added to this map, with coordinates."""
    for predicted in context.all(PlacedFolder):
        frame = predicted.people
        if strata_map.is_there(frame, ("umap1", "umap2")) and predicted.is_made_from(strata.artefact):
            placed = frame[pd.to_numeric(frame["umap1"], errors="coerce").notna()]
            if len(placed):
                return predicted, placed
    return None


def _scatter(context: Context, strata: StrataFolder) -> tuple[list[Any], dict[str, Any]]:
    new = newcomers(context, strata)
    scatter = strata_map.explorer(strata, new[1] if new else None)
    if scatter is None:
        return [], {}
    explorer, remarks = scatter
    planes = spell.listed([_in_text(name) for name in explorer.planes])
    caption = (
        f"Everybody in two dimensions: {planes}. UMAP keeps neighbourhoods; distances between far points mean nothing, and a gap "
        "in it need not be a gap in the latents."
    )
    figure = Figure(
        f"strata_{explorer.identifier}",
        "Scatter of people.",
        " ".join([caption, *remarks]),
        interactive.as_png(explorer),
        markup=interactive.explore(explorer),
    )
    columns = {"keys": [person.key for person in explorer.people]}
    places = {name: np.round(values, 4).tolist() for name, values in explorer.planes.items()}
    clusters = strata_map.cluster_names(strata_map.shown(strata.people))
    return [figure], {"map": {**columns, "planes": places, "clusters": clusters}}


def _clusters(strata: StrataFolder) -> list[Any]:
    """Who is in each cluster."""
    frame = strata.people
    if "cluster" not in frame.columns:
        return []
    names = pd.Series(strata_map.cluster_names(frame), index=frame.index)
    stability = {str(row.get("cluster")): row for row in strata.rows("clusters")}
    present = [name for name in dict.fromkeys(sorted(names)) if name]
    if len([name for name in present if name != strata_map.NO_CLUSTER]) < 2:
        return []
    rows = []
    for name in present:
        part = frame[names == name]
        ages = pd.to_numeric(part.get("age_years", pd.Series(dtype=float)), errors="coerce")
        known_sex = part["sex"].isin(["F", "M"]) if "sex" in part else pd.Series(False, index=part.index)
        female = (part.loc[known_sex, "sex"] == "F").mean() if known_sex.any() else math.nan
        rows.append(
            [
                spell.capital(name) if name == strata_map.NO_CLUSTER else f"Cluster {name}",
                str(part["subject"].nunique()),
                f"{spell.number(float(ages.mean()), 1)} ({spell.number(float(ages.std()), 1)})"
                if ages.notna().any()
                else spell.NONE,
                spell.percent(float(female), 0),
                *(
                    spell.number(strata.number(stability.get(name, {}), column, "clusters"))
                    for column in ("stability", "consensus")
                ),
                _counts(part, "diagnosis"),
                _counts(part, "site"),
            ]
        )
    header = ["Cluster", "People", "Age, years (SD)", "Women", "Stability", "Consensus", "Diagnosis", "Site"]
    caption = (
        "People of each cluster. Stability: overlap of the cluster with its nearest in resampled people (Jaccard, 1: the same); "
        "consensus: how often two of its people are together."
    )
    return [Heading("Who is in which cluster"), Table(caption, header, rows, "lrrrrrll")]


def _counts(frame: pd.DataFrame, column: str, most: int = 4) -> str:
    if column not in frame.columns:
        return spell.NONE
    counts = frame[column].replace("", np.nan).dropna().astype(str).value_counts()
    named = [f"{name} {num}" for name, num in counts.items()]
    rest = f", {len(named) - most} more" if len(named) > most else ""
    return ", ".join(named[:most]) + rest if named else spell.NONE


def _associations(strata: StrataFolder) -> list[Any]:
    """Every column of the cohort table against the clusters: confounds first, so that a scanner is not mistaken for a subtype."""
    rows = strata.rows(ASSOCIATIONS, "column", "p")
    if not rows:
        return []
    groups = (
        ("Confounds: scanner, site, scan quality, age and sex", [row for row in rows if _is_true(row.get("confound"))]),
        ("Other columns: diagnosis, tests and the like", [row for row in rows if not _is_true(row.get("confound"))]),
    )
    cells: list[list[str]] = []
    for title, part in groups:
        cells += [[title]] if part and any(_is_true(row.get("confound")) for row in rows) else []
        cells += [_association(strata, row) for row in part]
    caption = (
        "Columns that differ between clusters. q: over all columns (Benjamini and Hochberg). Adjusted p: with site, age, sex and "
        "the other confounds held fixed."
    )
    header = ["Column", "n", "Effect", "p", "q", "p, adjusted"]
    return [Heading("What the clusters go with"), Table(caption, header, cells, "lrlrrr")]


def _association(strata: StrataFolder, row: dict[str, Any]) -> list[str]:
    num, effect, p, q, adjusted = (
        strata.number(row, name, ASSOCIATIONS) for name in ("num", "effect", "p", "q", "p_adjusted")
    )
    size = f"{spell.number(effect)} ({row.get('effect_name')})" if row.get("effect_name") else spell.number(effect)
    return [
        str(row["column"]).replace("_", " "),
        f"{num:.0f}" if math.isfinite(num) else spell.NONE,
        size if math.isfinite(effect) else spell.NONE,
        *(spell.probability(value) for value in (p, q, adjusted)),
    ]


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1", "1.0")


def _means(context: Context, strata: StrataFolder) -> list[Any]:
    """Mean anomaly maps of the clusters, a row of slices each, one figure per channel."""
    table = "cluster_maps"
    people = {
        (int(strata.number(row, "cluster", table)), str(row["channel"])): str(row["num_people"])
        for row in strata.rows(table, "cluster", "channel", "num_people")
    }
    blocks: list[Any] = []
    for channel in dict.fromkeys(channel for _, channel, _ in strata.maps):
        chosen = [(cluster, path) for cluster, of, path in strata.maps if of == channel]
        volumes = {cluster: read_mean_map(path) for cluster, path in chosen}
        strips, overlay = [], brain.Overlay(np.zeros(1), LIMIT, THRESHOLD)
        space, anatomy = _grid(context, *next(iter(volumes.values())))
        for cluster, (values, _) in volumes.items():
            if values.shape != space.mask.shape:
                raise strata.damaged("maps", f"cluster {cluster} lies on another grid")
            overlay = brain.Overlay(np.where(space.mask, np.nan_to_num(values), 0.0), LIMIT, THRESHOLD)
            tiles = [brain.Tile(cut, anatomy, overlay) for cut in brain.lightbox(space)]
            size = f", n = {people[cluster, channel]}" if (cluster, channel) in people else ""
            strips.append(brain.Strip(f"Cluster {cluster}{size}", tiles))
        up, down = wording.directions(channel)
        caption = (
            f"{wording.channel(channel)}: mean z of the people of each cluster. Orange: {up}; blue: {down}. Colour fades out "
            f"below |mean z| = {THRESHOLD:g}. {brain.CONVENTION}"
        )
        png = brain.draw(strips, space, (overlay, "mean z"))
        name = f"strata_{strata.name.replace('/', '_')}_{channel}"
        blocks.append(Figure(name, f"Brain slices with the mean {wording.channel(channel)} of clusters.", caption, png))
    return [Heading("What the brains of each cluster have in common"), *blocks] if blocks else []


def _grid(context: Context, values: Volume, affine: NDArray[np.float64]) -> tuple[brain.DisplaySpace, Volume]:
    """The grid of the maps with its mask, and the template's T1w on it."""
    if context.prepared is not None and context.space.mask.shape == values.shape:
        return context.space, context.template_t1w
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    first, second, third = (int(side) for side in values.shape)
    template = template_on(
        GridPlan(spacing_mm=float(np.linalg.norm(affine[:3, 0])), shape=(first, second, third), affine=rows)
    )
    return brain.DisplaySpace(affine, np.asarray(template.mask, dtype=bool)), template.t1w
