"""Report section of `gen3d explore`: what differs between the levels of a column, with pictures and tables."""

from __future__ import annotations

from typing import Any

from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.explore.folder import ExploredFolder
from gen3d.explore.sentences import CHANNELS, channel_words, measure_number, measure_words
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table
from gen3d.figures.context import Context, page_section

SHOWN = 12
"""Regions per comparison and channel; all are in regions.tsv."""


@page_section("The cohort by level", "`gen3d explore`", place=15, reads=ExploredFolder)
def section(context: Context) -> Section | None:
    """The verdict, then mean brains, differences, intensities and likeness."""
    folders = context.all(ExploredFolder)
    if not folders:
        return None
    blocks: list[Any] = []
    for explored in folders:
        if len(folders) > 1:
            blocks.append(Heading(f"{explored.name}: by {explored.column}"))
        blocks += _blocks(explored)
    return Section("explore", "The cohort by level", blocks, {folder.name: folder.metrics for folder in folders})


def _blocks(explored: ExploredFolder) -> list[Any]:
    return [
        Points(explored.summary),
        *_figure(
            explored, "means", "Mean brains of every level.",
            f"Mean T1w of the people at each level of {explored.column}, every person once. Means blur where people differ.",
        ),
        *_differences(explored),
        *_intensity(explored),
        *_similarity(explored),
        *([Details("Who was left out, and what could not be said", [Points(explored.notes)])] if explored.notes else []),
    ]  # fmt: skip


def _figure(explored: ExploredFolder, name: str, alt: str, caption: str) -> list[Figure]:
    png = explored.picture(name)
    return [Figure(f"explore_{explored.folder.name}_{name}", alt, caption, png)] if png else []


def _differences(explored: ExploredFolder) -> list[Any]:
    caption = (
        "Outlined: t beyond what the largest |t| of the map reaches in 5 % of permutations of people within age bins (Westfall and "
        "Young 1993), age held fixed. Orange is more at the second level, blue less. T1w intensity lies in the affinely aligned "
        "scan, so a difference there may be one of shape."
    )
    blocks = [Heading("Differences"), *_figure(explored, "differences", "Maps of t between levels.", caption)]
    return [*blocks, _comparisons(explored), *_regions(explored)]


def _comparisons(explored: ExploredFolder) -> Table:
    rows = []
    for row in explored.comparisons:
        num_regions = int(row.get("num_regions") or 0)
        rows.append(
            [
                _pair(row),
                spell.capital(channel_words(str(row["channel"]))),
                f"{row.get('num_a')} and {row.get('num_b')}",
                f"{row['num_regions_differ']} of {num_regions}" if num_regions else spell.NONE,
                spell.percent(_number(explored, row, "share_voxels_differ", "comparisons")),
                spell.probability(_number(explored, row, "smallest_p", "comparisons")),
                spell.probability(_number(explored, row, "p_all", "comparisons")),
            ]
        )
    caption = (
        "Comparisons. Regions: after correction for all tables and maps; voxels: within the map. p: the smallest in regions and "
        "voxels, and the same corrected for all tables and maps."
    )
    header = ["Levels", "Channel", "People", "Regions differ", "Voxels differ", "Smallest p", "p, all corrected"]
    return Table(caption, header, rows, "lllrrrr")


def _regions(explored: ExploredFolder) -> list[Any]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in explored.region_rows:
        groups.setdefault((_pair(row), str(row["channel"])), []).append(row)
    rows: list[list[str]] = []
    for (pair, channel), members in groups.items():
        rows.append([f"{pair}, {channel_words(channel)}"])
        for row in members[:SHOWN]:
            rows.append(
                [
                    spell.capital(wording.reading(str(row["region"]), CHANNELS.get(channel, channel))),
                    _change(row),
                    spell.number(_number(explored, row, "difference_sd", "regions"), 2, signed=True),
                    spell.probability(_number(explored, row, "p_fwe", "regions")),
                    spell.probability(_number(explored, row, "p_all", "regions")),
                ]
            )
    if not rows:
        return []
    caption = (
        f"The {SHOWN} regions with the smallest p of each comparison; SD: of people of one level at one age. p corrected for the "
        "regions of the comparison, and for all tables and maps too. Labels of regions are exact for local volume and approximate "
        "for intensity."
    )
    table = Table(caption, ["Region", "Difference", "In SD", "p", "p, all corrected"], rows, "lrrrr")
    return [Details("Regions", [table])]


def _change(row: Row) -> str:
    value = row.get("percent")
    unit = "% of WM" if row["channel"] == "t1w" else "%"
    return f"{spell.number(value, 1, signed=True)} {unit}" if value is not None else spell.NONE


def _intensity(explored: ExploredFolder) -> list[Any]:
    white = explored.part("white_grey", (int, float), 180.0)
    caption = (
        f"Grey values of 8-bit scans with the white-matter median at {white:g}. Bands hold 95 % of resamples of people. Shaded: 40 "
        "to 60 and 100 to 140."
    )
    blocks: list[Any] = [
        Heading("Intensity"),
        *_figure(explored, "profiles", "Histograms and quantiles by level.", caption),
    ]
    levels = [str(row["level"]) for row in explored.levels]
    found = {(str(row["measure"]), str(row["level"])): row for row in explored.intensity}
    names = list(dict.fromkeys(measure for measure, _ in found))
    trends: dict[str, list[Row]] = {}
    for row in explored.trend:
        trends.setdefault(str(row["measure"]), []).append(row)
    rows = []
    for measure in names:
        cells = [_with_interval(explored, measure, found.get((measure, level))) for level in levels]
        along = "; ".join(
            f"{measure_number(measure, _number(explored, row, 'per_level', 'intensity_trend'), signed=True)} "
            f"{row['comparison']}, p {spell.probability(_number(explored, row, 'p_fwe', 'intensity_trend'))}"
            for row in trends.get(measure, [])
        )
        rows.append([spell.capital(measure_words(measure)), *cells, along or spell.NONE])
    table_caption = (
        "Mean over people with its interval; the change has age held fixed, its p is corrected for the rows."
    )
    header = ["Measure", *levels, "Change"]
    return [*blocks, Table(table_caption, header, rows, "l" + "r" * len(levels) + "l")]


def _with_interval(explored: ExploredFolder, measure: str, row: Row | None) -> str:
    if row is None:
        return spell.NONE
    scale, digits = (100.0, 1) if measure.startswith("share") else (1.0, 1)
    value, low, high = (scale * _number(explored, row, name, "intensity") for name in ("value", "low", "high"))
    return spell.interval(value, low, high, digits) + (" %" if scale > 1 else "")


def _similarity(explored: ExploredFolder) -> list[Any]:
    caption = (
        "SSIM inside the brain (Wang et al. 2004). Pairs are people of about the same age; intervals come from resampled people. "
        "Neighbouring levels being alike says something only against two people of one level and two scans of one person."
    )
    rows: list[list[str]] = []
    by_cell: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in explored.similarity:
        by_cell.setdefault((str(row["kind"]), str(row["level_a"]), str(row["level_b"])), {})[str(row["measure"])] = row
    for (kind, first, second), of in by_cell.items():
        where = first if first == second else f"{first} and {second}"
        some = next(iter(of.values()))
        cells = [_likeness(explored, of.get(measure)) for measure in ("ssim", "correlation")]
        rows.append([spell.capital(kind), where, *cells, str(some["num_pairs"]), str(some["num_people"])])
    table = Table(
        "How alike two scans are.", ["Scans", "Level", "SSIM", "Correlation", "Pairs", "People"], rows, "llrrrr"
    )
    return [Heading("How alike scans are"), *_figure(explored, "similarity", "Likeness of scans.", caption), table]


def _likeness(explored: ExploredFolder, row: Row | None) -> str:
    if row is None:
        return spell.NONE
    value, low, high = (_number(explored, row, name, "similarity") for name in ("value", "low", "high"))
    return spell.interval(value, low, high, 3)


def _pair(row: Row) -> str:
    return f"{row['level_a']} to {row['level_b']}"


def _number(explored: ExploredFolder, row: Row, column: str, table: str) -> float:
    return explored.number(row, column, table)
