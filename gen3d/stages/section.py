"""Report section of `gen3d stages`: whether a chain of stage transitions beats its floors, with pictures."""

from __future__ import annotations

from typing import Any

from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.figures.plain_tables import interval_of, plain_table
from gen3d.stages.folder import CHAIN, OTHER, PAIRED, PUBLISHED, StagesFolder

MEASURES = {
    "mse_brain": "MSE in the brain",
    "ssim_brain": "SSIM in the brain",
    "ssim_frame": "SSIM, whole picture",
    "psnr_frame": "PSNR, whole picture (dB)",
    "feature_distance": "Feature distance",
    "lpips": "LPIPS 0.1, AlexNet",
}
PROTOCOLS = {PAIRED: "the same person's own later scan", PUBLISHED: "another person's scan (published protocol)"}
UNPAIRED = (
    "The generators are trained without pairs: the people of neighbouring stages are different people. By the published protocol a "
    "made scan is compared with somebody else's brain, so that even a perfect forecast of the person would not reach an SSIM "
    "above that of two random people at one stage (other person). A figure means something only beside the floors: the scan "
    "itself (copy), the scan plus the difference of the stages' mean pictures (shift), and its intensities matched (histogram)."
)
TITLES = {
    "directions": "Fluid and tissue inside the brain of the scan: share of people with whom they go the way the disease goes",
    "identity": "Is a made scan still the person it was made from? Share recognised among all sources",
    "sets": "Distances of sets of scans, with two halves of the real people as the floor",
    "consistency": "Mean change in the brain: of scans that are there already, of the chain, and its drift of intensity",
}


@page_section("Along the stages", "`gen3d stages`", place=125, reads=StagesFolder)
def section(context: Context) -> Section | None:
    """Per folder: the verdict, figures beside floors by both protocols, pictures, and the further tables folded."""
    folders = context.all(StagesFolder)
    if not folders:
        return None
    blocks: list[Any] = []
    for found in folders:
        if len(folders) > 1:
            blocks.append(Heading(found.name))
        blocks += _of_folder(found)
    return Section("stages", "Along the stages", blocks, {found.name: found.metrics for found in folders})


def _of_folder(found: StagesFolder) -> list[Any]:
    blocks: list[Any] = []
    if found.summary:
        blocks += [Text(spell.capital(found.summary[0]), "verdict"), Points(found.summary[1:])]
    blocks.append(Text(UNPAIRED, "note"))
    for protocol, who in PROTOCOLS.items():
        rows = [row for row in found.metric_rows if row["protocol"] == protocol]
        if rows:
            blocks += [Heading(f"Against {who}"), _chart(found, rows, protocol), _table(found, rows, who)]
    for key in found.pictured[:2]:
        if png := found.picture(key):
            caption = "A scan, what the chain makes of it at every later stage, and the differences from the scan."
            blocks.append(Figure(_name(found, key), "A scan along the chain.", caption, png, width_percent=80))
    for table, title in TITLES.items():
        rows = found.rows(table)
        if rows:
            blocks.append(Details(title.partition(":")[0].partition("?")[0], [plain_table(f"{title}.", rows)]))
    return blocks


def _name(found: StagesFolder, figure: str) -> str:
    return f"stages_{found.name.replace('/', '_')}_{figure}"


def _steps(rows: list[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((str(row["start"]), str(row["stage"])) for row in rows))


def _chart(found: StagesFolder, rows: list[Row], protocol: str) -> Figure:
    """MSE in the brain of every candidate at every step, with intervals over people."""
    lines = []
    for start, stage in _steps(rows):
        for row in rows:
            if (str(row["start"]), str(row["stage"])) == (start, stage) and row["measure"] == "mse_brain":
                chain = row["candidate"] == CHAIN
                colour = style.GROUP_COLOURS[0] if chain else style.GREY
                value = interval_of(found, row, "metrics")
                lines.append(charts.Line(f"{start} to {stage}: {row['candidate']}", value, colour, hollow=not chain))
    png, svg = charts.intervals(lines, "MSE in the brain", None)
    caption = "Mean squared error in the brain of the scan, the chain filled, with 95 % intervals over people; less is nearer."
    return Figure(
        _name(found, f"error_{protocol}"), "Errors of chain and floors.", caption, png, svg=svg, width_percent=80
    )


def _table(found: StagesFolder, rows: list[Row], who: str) -> Table:
    measures = [measure for measure in MEASURES if any(row["measure"] == measure for row in rows)]
    by_line: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        by_line.setdefault((str(row["start"]), str(row["stage"]), str(row["candidate"])), {})[str(row["measure"])] = row
    cells = []
    for (start, stage, candidate), values in by_line.items():
        first = next(iter(values.values()))
        shown = []
        for measure in measures:
            digits = 4 if measure.startswith("mse") else 2
            interval = interval_of(found, values[measure], "metrics") if measure in values else None
            shown.append(wording.with_interval(interval, digits) if interval is not None else spell.NONE)
        cells.append([f"{start} to {stage}", candidate, f"{found.number(first, 'n', 'metrics'):.0f}", *shown])
    feature = found.part("feature_distance", str, "")
    named = f" Feature distance: {feature}." if feature else ""
    caption = (
        f"Compared with {who}, means over people. {spell.capital(OTHER)}: a real scan of a third person at the later stage.{named} "
        "PSNR of equal scans is infinite and left out."
    )
    header = ["Step", "Candidate", "n", *(f"{MEASURES[measure]} [95 %]" for measure in measures)]
    return Table(caption, header, cells, "llr" + "r" * len(measures))
