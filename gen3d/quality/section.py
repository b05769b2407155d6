"""Report section of `gen3d quality`: distances, diversity, structures, conditions and use as training material."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gen3d.cohort.region_validity import ML
from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import names as wording
from gen3d.figures import style
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import Interval
from gen3d.quality.folder import QualityFolder
from gen3d.quality.sentences import distance_text

SETS = {
    "floor": "Real people, two halves",
    "synthetic": "Synthetic",
    "reconstructed": "Real, through the autoencoder",
    "smoothed": "Real, smoothed",
}
BLUE, ORANGE, _, _, OCHRE = style.GROUP_COLOURS[:5]
COLOURS = {"floor": style.CONTROL_COLOUR, "synthetic": ORANGE, "reconstructed": BLUE, "smoothed": OCHRE}
STRUCTURES_SHOWN = 10
HEAD_INCHES, LINE_INCHES, FOOT_INCHES = 0.3, 0.17, 0.4


@page_section("Synthetic against real scans", "`gen3d quality`", place=140, reads=QualityFolder)
def section(context: Context) -> Section | None:
    """The results in sentences, real and synthetic scans in random order, and a table per question."""
    folders = context.all(QualityFolder)
    if not folders:
        return None
    blocks: list[Any] = [
        Text(
            "Synthetic scans are compared with real people that the generator never saw. Distances have three yardsticks: the "
            "same distance between two halves of the real people (the floor), between real scans and their reconstructions by "
            "the generator's autoencoder, and between real scans and smoothed ones. Intervals hold 95 % of repeated halves of "
            "the people, or of resamples of people."
        )
    ]
    numbers: dict[str, Any] = {}
    for quality in folders:
        if len(folders) > 1:
            blocks.append(Heading(quality.name))
        blocks += _blocks(quality)
        numbers[quality.name] = quality.metrics
    return Section("quality", "Synthetic against real scans", blocks, numbers)


def _blocks(quality: QualityFolder) -> list[Any]:
    blocks: list[Any] = [Points(quality.summary)]
    blocks += _scans(quality)
    parts: tuple[tuple[str, Callable[[QualityFolder, list[Row]], list[Any]]], ...] = (
        ("distances", _distances),
        ("diversity", _diversity),
        ("structures", _structures),
        ("fidelity", _fidelity),
        ("utility", _utility),
    )
    for name, build in parts:
        rows = quality.rows(name)
        if rows:
            blocks += build(quality, rows)
    remarks = [*quality.metrics.get("reference", ()), *quality.metrics.get("not_included", ())]
    if remarks:
        blocks.append(Details("Who the real people are, and what could not be measured", [Points(tuple(remarks))]))
    return blocks


def _figure(quality: QualityFolder, name: str, alt: str, caption: str, width_percent: int = 100) -> list[Figure]:
    png = quality.picture(name)
    identifier = f"quality_{quality.folder.name}_{name}"
    return [Figure(identifier, alt, caption, png, width_percent=width_percent)] if png else []


def _scans(quality: QualityFolder) -> list[Any]:
    shuffled = _figure(
        quality,
        "shuffled",
        "Real and synthetic scans in random order.",
        "Real and synthetic scans in random order, an axial, a coronal and a sagittal slice of each. The answer is folded below.",
    )
    if not shuffled:
        return []
    labelled = _figure(quality, "labelled", "Real and synthetic scans with names.", "The same with names.")
    real = [str(row["number"]) for row in quality.shuffled_key if row["kind"] == "real"]
    return [*shuffled, Details("Which of them are real", [Text(f"Real are {spell.listed(real)}."), *labelled])]


def interval(row: Row, name: str) -> Interval:
    """The columns `name`, `name_low` and `name_high` of a row; NaN where there is nothing."""
    value, low, high = (math.nan if row.get(key) is None else float(row[key]) for key in _columns(name))
    return Interval(value, low, high, 0)


def _columns(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _distances(quality: QualityFolder, rows: list[Row]) -> list[Any]:
    by_name = {
        name: [row for row in rows if row["name"] == name] for name in dict.fromkeys(row["name"] for row in rows)
    }
    present = [name for name in SETS if name == "floor" or any(row["set"] == name for row in rows)]
    cells = []
    for name, of_name in by_name.items():
        of_set = {row["set"]: distance_text(row, "value") for row in of_name}
        of_set["floor"] = distance_text(of_name[0], "floor")
        p = next((row["p"] for row in of_name if row["set"] == "synthetic"), None)
        cells.append([name, *(of_set[kind] for kind in present), spell.probability(p)])
    caption = (
        "Distances to real scans, lower is nearer. KID and MMD are 0 on average between samples of one population. An FID "
        "of few scans is never 0, and is also low for scans without variety: compare it only with the floor, and read it "
        "together with the diversity. p: permutation test on all scans of both sets."
    )
    table = Table(caption, ["Distance", *(SETS[kind] for kind in present), "p"], cells, "l" + "r" * (len(present) + 1))
    return [Heading("Distances"), _chart(quality, rows, present), table]


def _chart(quality: QualityFolder, rows: list[Row], present: Sequence[str]) -> Figure:
    """Lines of MMD with their intervals, a panel per extractor."""
    panels = {row["extractor"]: row["name"] for row in rows if row["metric"] == "mmd"}
    height = HEAD_INCHES + LINE_INCHES * len(present) + FOOT_INCHES
    with style.canvas(height) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        figure.subplots_adjust(left=0.19, right=0.98, top=1 - HEAD_INCHES / height, bottom=FOOT_INCHES / height)
        for axes, (extractor, name) in zip(grid, panels.items(), strict=True):
            of_panel = [row for row in rows if row["extractor"] == extractor and row["metric"] == "mmd"]
            values = {row["set"]: interval(row, "value") for row in of_panel} | {
                "floor": interval(of_panel[0], "floor")
            }
            axes.axvspan(values["floor"].low, values["floor"].high, color=style.FAINT, linewidth=0)
            for place, kind in enumerate(present):
                axes.plot([values[kind].low, values[kind].high], [place] * 2, color=COLOURS[kind], linewidth=2)
                axes.plot(values[kind].value, place, "o", color=COLOURS[kind], markersize=5)
            axes.set_title(name)
            axes.set_xlabel("Squared MMD to real scans")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.set_yticks(range(len(present)), [SETS[kind] for kind in present])
        grid[0].set_ylim(len(present) - 0.5, -0.5)
        png, svg = style.png_bytes(figure), style.svg_bytes(figure)
    caption = "MMD to real scans with 95 % of repetitions; the band is the MMD between two halves of the real people."
    name = f"quality_{quality.folder.name}_distances"
    return Figure(name, "Lines of distances to real scans with their intervals.", caption, png, svg=svg)


def _diversity(quality: QualityFolder, rows: list[Row]) -> list[Any]:
    cells = [
        [
            row["measure"],
            {**SETS, "real": "Real people"}.get(row["set"], row["set"]),
            str(row["num_scans"]),
            str(row["num_pairs"]),
            wording.with_interval(interval(row, "value"), 3),
            wording.with_interval(interval(row, "minus_real"), 3),
        ]
        for row in rows
    ]
    caption = "How alike two scans of a set are, mean over pairs inside the brain; higher means less diversity."
    header = ["Measure", "Set", "Scans", "Pairs", "Mean [95 %]", "Minus real [95 %]"]
    return [Heading("Diversity"), Table(caption, header, cells, "llrrrr")]


def _structures(quality: QualityFolder, rows: list[Row]) -> list[Any]:
    order = sorted(rows, key=lambda row: -abs(row["difference_sd"]))

    def table(shown: list[Row], caption: str) -> Table:
        cells = [
            [
                wording.reading(str(row["structure"]), ML),
                f"{spell.number(row['mean_real_ml'], 1)} ({spell.number(row['sd_real_ml'], 1)})",
                f"{spell.number(row['mean_synthetic_ml'], 1)} ({spell.number(row['sd_synthetic_ml'], 1)})",
                wording.with_interval(interval(row, "difference_sd")),
                wording.with_interval(interval(row, "ratio_sd")),
                spell.probability(row["q"]),
                wording.with_interval(interval(row, "wasserstein_sd")),
                wording.with_interval(interval(row, "floor_sd")),
            ]
            for row in shown
        ]
        header = ["Structure", "Real, ml (SD)", "Synthetic, ml (SD)", "Difference, SD [95 %]", "Ratio of SDs [95 %]",
                  "q", "Wasserstein, SD", "Floor, SD"]  # fmt: skip
        return Table(caption, header, cells, "lrrrrrrr", sortable=True)

    caption = (
        f"Volumes of structures, n = {rows[0]['n_real']} real and {rows[0]['n_synthetic']} synthetic, those that differ most "
        "first. q: Kolmogorov-Smirnov test over structures. Wasserstein distances are those of halves of the people."
    )
    picture = _figure(
        quality, "structures", "Dots of structure volumes of real and synthetic scans.",
        "Every scan's volumes in standard deviations of real people about their mean; bars are means.",
    )  # fmt: skip
    rest = [table(order[STRUCTURES_SHOWN:], "The other structures.")] if len(order) > STRUCTURES_SHOWN else []
    folded = [Details("All structures", [*rest, *picture])] if rest or picture else []
    return [Heading("Volumes of structures"), table(order[:STRUCTURES_SHOWN], caption), *folded]


def _fidelity(quality: QualityFolder, rows: list[Row]) -> list[Any]:
    cells = [
        [
            str(row["covariate"]).replace("_", " "),
            f"{row['method']} in {'synthetic scans' if row['people'] == 'synthetic' else 'real people'}",
            str(row["n"]),
            wording.with_interval(interval(row, "r")),
            wording.with_interval(interval(row, "slope")),
            wording.with_interval(interval(row, "mae")),
            wording.with_interval(interval(row, "accuracy")),
            wording.with_interval(interval(row, "auc")),
        ]
        for row in rows
    ]
    caption = (
        "What was requested against what is measured in the scan, or predicted from it by a linear model trained on other "
        "real people. The row of real people shows how good that prediction can be at best."
    )
    header = ["Condition", "How", "n", "r [95 %]", "Slope [95 %]", "Mean error [95 %]", "Accuracy [95 %]", "AUC [95 %]"]
    picture = _figure(
        quality,
        "fidelity",
        "Dots of measured against requested values.",
        "Measured or predicted against requested values; the dashed line is equality.",
        min(
            100, 34 * len({row["covariate"] for row in rows if row.get("r") is not None or row.get("mae") is not None})
        ),
    )
    return [Heading("Conditions"), Table(caption, header, cells, "llrrrrrr"), *picture]


def _utility(quality: QualityFolder, rows: list[Row]) -> list[Any]:
    cells = [
        [
            str(row["target"]),
            row["trained_on"],
            str(row["n_train"]),
            wording.with_interval(interval(row, "auc")),
            wording.with_interval(interval(row, "gain")),
        ]
        for row in rows
    ]
    caption = (
        f"A linear classifier trained on different scans and tested on the same {rows[0]['n_test']} real people. Gain: AUC of "
        "synthetic minus that of as many real scans; of real and synthetic minus that of the real ones."
    )
    header = ["Target", "Trained on", "n", "AUC [95 %]", "Gain [95 %]"]
    return [Heading("As training material"), Table(caption, header, cells, "llrrr")]
