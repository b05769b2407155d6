"""Report section of `gen3d explain`: where a classifier looks, each method beside what its judges say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.explain.folder import ExplainedFolder
from gen3d.explain.sentences import JUDGES, METHODS, standing
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.figures.names import with_interval
from gen3d.maths.stats import Interval

ABOUT = (
    "A map says where a network reacts or what it uses; it does not say why, and a map that looks right may come from the scan "
    "alone. So every method is judged on the same people. Planted truth: does the map find the voxels that were changed, better "
    "than itself turned inside the brain (AUPRC)? Randomised weights and permuted labels: is the map of a network that knows "
    "nothing another map (Spearman, at most 0.50)? Insertion and deletion: does replacing regions in the map's order move the "
    "answer sooner than in random order? Second scans: are two scans of a person explained by the same regions (ICC, interval "
    "from 0.50 up)?"
)
STRENGTH = (
    "Strength is a multiple of the brain's mean, so that 1 is what a map without a place would have; each person is explained by "
    "members that never saw the person."
)


@page_section("Where the classifier looks", "`gen3d explain`", place=105, reads=ExplainedFolder)
def section(context: Context) -> Section | None:
    """Per folder: the verdict on the methods, their judges, group and personal maps, enrichment, and depth."""
    folders = context.all(ExplainedFolder)
    if not folders:
        return None
    blocks: list[Any] = []
    numbers: dict[str, Any] = {}
    for folder in folders:
        if len(folders) > 1:
            blocks.append(Heading(folder.name))
        blocks += _of_folder(folder)
        numbers[folder.name] = folder.numbers_of()
    return Section("explanations", "Where the classifier looks", blocks, numbers)


def _of_folder(folder: ExplainedFolder) -> list[Any]:
    blocks: list[Any] = []
    if folder.summary:
        blocks += [Text(folder.summary[0], "verdict"), Points(folder.summary[1:])]
    blocks += [Text(f"Explained: {folder.question}. {ABOUT}"), _judges(folder), *_methods(folder)]
    for group in folder.groups:
        blocks += _figure(folder, f"group_{folder.file_names.get(group, group)}", f"{group}: mean over people")
    for key in folder.shown:
        blocks += [Details(f"{key}", figures)] if (figures := _figure(folder, key, key)) else []
    blocks += _enrichment(folder)
    blocks += _figure(
        folder, "slices", "Share of each map in every coronal slice, mean over the people of a class", STRENGTH
    )
    blocks += _truth(folder) + _randomised(folder)
    if folder.animations():
        names = ", ".join(path.name for path in folder.animations()[:6])
        blocks.append(Text(f"Animations of three planes are in animations/ of the folder ({names}, ...).", "note"))
    return blocks


def _figure(folder: ExplainedFolder, name: str, title: str, text: str = "") -> list[Any]:
    png = folder.picture(name)
    if not png:
        return []
    sees = [f"{METHODS.get(method, method)}: {words}" for method, words in folder.resolution.items()]
    caption = text or (
        f"{title}. Above every row stands what the judges say of its method. Resolution: {'; '.join(sees)}. {STRENGTH} Left: "
        "through the left hippocampus; right: through the strongest place."
    )
    return [Figure(f"explained_{folder.name}_{name}", title, caption, png)]


def _verdict(row: Row) -> str:
    return {True: "passes", False: "fails", None: f"not asked: {row.get('why')}"}[row["passed"]]


def _judges(folder: ExplainedFolder) -> Table:
    rows = []
    for method in folder.methods:
        for row in (row for row in folder.judges if row["method"] == method):
            figures = [folder.number(row, name, "judges") for name in ("value", "low", "high")]
            value = Interval(figures[0], figures[1], figures[2], int(row["num"] or 0))
            floor = spell.number(folder.number(row, "floor", "judges"))
            cells = [spell.capital(METHODS.get(method, method)), JUDGES.get(str(row["judge"]), str(row["judge"]))]
            rows.append([*cells, with_interval(value), floor, str(value.num), _verdict(row)])
    caption = (
        "Judges of each method. Compared with: the larger of prevalence and turned maps; a correlation of 0.50; no gain over "
        "random order (units of the answer); an ICC of 0.50. Intervals are 95 % over people."
    )
    return Table(caption, ["Method", "Judge", "Value [95 %]", "Compared with", "People", "Verdict"], rows, "llrrrl")


def _methods(folder: ExplainedFolder) -> list[Any]:
    """What each method resolves, how much of the brain its pictures show, and how much of its map lies outside."""
    shown = [row for row in folder.rows("thresholds", "method", "rule") if row["rule"] == folder.rule]
    cells = []
    for method in folder.methods:
        own = [row for row in shown if row["method"] == method]
        middle = [
            _median(folder.numbers(own, name, "thresholds")) for name in ("threshold", "volume_ml", "outside_brain")
        ]
        cells.append(
            [
                spell.capital(METHODS.get(method, method)),
                folder.resolution.get(method, ""),
                spell.number(middle[0]),
                spell.number(middle[1], 0),
                spell.percent(middle[2], 0),
            ]
        )
    caption = (
        f"What the pictures show (rule {folder.rule}): medians over people of the threshold (1 is the mean of what the network "
        "sees of the brain), of the volume above it, and of the share of the map that lies outside the brain, where nothing can "
        "be ill."
    )
    return (
        [Table(caption, ["Method", "Resolution", "Threshold", "Volume, ml", "Outside"], cells, "llrrr")]
        if shown
        else []
    )


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _enrichment(folder: ExplainedFolder) -> list[Any]:
    rows = []
    for row in folder.rows("group_enrichment", "method", "group", "region", "enrichment"):
        name = str(row["method"])
        numbers = [
            folder.number(row, column, "group_enrichment") for column in ("enrichment", "null_mean", "p", "auroc")
        ]
        rows.append(
            [
                spell.capital(METHODS.get(name, name)),
                str(row["group"]),
                str(row["region"]),
                *(spell.number(number) for number in numbers[:2]),
                spell.probability(numbers[2]),
                spell.number(numbers[3]),
                f"{row['rank']} of {row['num_regions']}",
                standing(folder.judges, name),
            ]
        )
    header = ["Method", "Class", "Region", "Enrichment", "Turned maps", "p", "AUROC", "Rank", "Judges"]
    caption = (
        "Enrichment of the mean map of a class: share of its mass in a region over the region's share of what the network sees (1 "
        "is chance). Turned maps: the mean of the same map rotated and mirrored inside the brain, and the p against them."
    )
    return [Table(caption, header, rows, "lllrrrrll")] if rows else []


def _truth(folder: ExplainedFolder) -> list[Any]:
    rows = folder.rows("truth")
    if not rows:
        return []
    random = [row for row in folder.rows("randomised") if row["step"] == "all stages"]
    cells = []
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        own = [row for row in rows if row["method"] == method]
        line = [spell.capital(METHODS.get(method, method)), str(len(own))]
        for column in ("auprc", "auprc_turned"):
            line.append(_mean(folder, own, column, "truth"))
        line.append(_mean(folder, [row for row in random if row["method"] == method], "auprc", "randomised"))
        for column in ("prevalence", "auroc", "regions_spearman"):
            line.append(_mean(folder, own, column, "truth"))
        cells.append(line)
    header = ["Map", "People", "AUPRC", "Turned", "Random network", "Prevalence", "AUROC", "Regions (Spearman)"]
    caption = (
        "Against what was planted: voxels (AUPRC, its chance level the prevalence) and regions (Spearman of enrichment with the "
        "planted change of volume), beside the AUPRC of the map turned inside the brain, and of a network of the same form with "
        "random weights. Edges is a map without any network: where the scan changes from voxel to voxel."
    )
    return [Table(caption, header, cells, "lrrrrrrr")]


def _mean(folder: ExplainedFolder, rows: list[Row], column: str, table: str) -> str:
    values = folder.numbers(rows, column, table)
    known = values[np.isfinite(values)]
    return spell.number(float(known.mean()) if len(known) else None)


def _randomised(folder: ExplainedFolder) -> list[Any]:
    rows = folder.rows("randomised")
    if not rows:
        return []
    steps = list(dict.fromkeys(str(row["step"]) for row in rows))
    cells = []
    for method in folder.methods:
        for column, what in (("spearman", "strength"), ("spearman_signed", "signed")):
            line = [f"{spell.capital(METHODS.get(method, method))}, {what}"]
            for step in steps:
                own = [row for row in rows if row["method"] == method and str(row["step"]) == step]
                line.append(_mean(folder, own, column, "randomised"))
            cells.append(line)
    caption = (
        "Spearman correlation over voxels of a map with that of a network whose stages have random weights, from the head down to "
        "the one named, and with that of a network trained on permuted labels. Near 0 is right; near 1 is a picture of the scan, "
        "or of the network's form. The judges look at strength, because pictures show strength."
    )
    table = Table(caption, ["Method", *map(_step, steps)], cells, "l" + "r" * len(steps))
    return [Details("How much of a map is left when the network knows nothing", [table])]


def _step(name: str) -> str:
    return {"labels": "permuted labels", "all stages": "all stages", "head": "head"}.get(name, f"head to {name}")
