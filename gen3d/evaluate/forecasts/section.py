"""Section of the report: forecasts measured against the later visits of the same people."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.manifest import CONTROL_NAMES
from gen3d.core import words as spell
from gen3d.core.tables import Row, rows_of
from gen3d.evaluate.folder import EvaluationFolder
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import Interval

ALL, HORIZON = "all", "horizon"
COLUMNS = (
    " Relative error: error over the size of the true change, or over the noise of change where that is larger. Direction: of "
    "changes beyond the noise; half right is chance. Slope: of the true on the forecast change; 1 is calibrated, below 1 forecasts "
    "are too bold. CRPS: error of the whole forecast with its intervals."
)
NUM_REGIONS = 10
SKILLS = ("Skill over copying [95 %]", "Skill over population rate [95 %]")
COPY, POPULATION = "copy_forward", "population_rate"
ABOUT = (
    "Skill is the share by which the mean error is smaller than that of a floor on the same people: 0 is no better, 1 is without "
    "error, and below 0 the floor is better. Copying the scan forward says that nothing changes; the population rate lets "
    "everybody change as others of the same diagnosis, sex and age. People count, not scans: several visits of a person are "
    "averaged."
)


@page_section("Forecasts against later visits", "`gen3d evaluate forecasts=...`", place=165, reads=EvaluationFolder)
def section(context: Context) -> Section | None:
    """Sentences, tables and pictures of every evaluation of forecasts."""
    evaluations = [evaluation for evaluation in context.all(EvaluationFolder) if evaluation.of_forecasts]
    if not evaluations:
        return None
    blocks: list[Any] = []
    numbers: dict[str, Any] = {}
    for evaluation in evaluations:
        if len(evaluations) > 1:
            blocks.append(Heading(evaluation.name))
        blocks += _of_one(context, evaluation)
        tables = ("skill", "skill_by_region", "coverage", "direction", "skill_differences")
        numbers[evaluation.name] = {name: rows_of(evaluation.table(name)) for name in tables}
    return Section("forecasts-judged", "Forecasts against later visits", blocks, numbers)


def _of_one(context: Context, evaluation: EvaluationFolder) -> list[Any]:
    summary = evaluation.summary
    blocks: list[Any] = [Text(text, "lead") for text in summary[:1]]
    blocks += [Points(summary[1:])] if len(summary) > 1 else []
    blocks.append(Text(ABOUT))
    titles = {model: title for record in evaluation.forecasts.values() for model, title in record["models"].items()}
    several = len(evaluation.forecasts) > 1

    def name(row: Row) -> str:
        title = str(titles.get(str(row["model"]), str(row["model"]).replace("_", " ")))
        return f"{title} ({row['forecasts']})" if several else title

    skill = evaluation.table("skill")
    if not len(skill):
        return blocks
    everybody = [row for row in rows_of(skill) if row["by"] == ALL]
    blocks.append(_skill_table("Everybody", everybody, name))
    with_images = [row for row in everybody if _number(row.get("num_images")) > 0]
    blocks += [_image_table(with_images, name)] if with_images else []
    blocks += _by_group(skill, name)
    for draw in (_skill_chart, _people_chart):
        figure = draw(context, evaluation, name)
        blocks += [figure] if figure is not None else []
    regions = evaluation.table("skill_by_region")
    if len(regions):
        blocks.append(_region_table(regions, name))
    blocks += _coverage(evaluation, name)
    blocks += _direction(evaluation.table("direction"), name)
    return blocks + _differences(evaluation.table("skill_differences"))


Naming = Callable[[Row], str]


def interval(row: Row, name: str) -> Interval:
    """The value and interval of one column of a row; NaN where it has none."""
    value, low, high = (_number(row.get(f"{name}{end}")) for end in ("", "_low", "_high"))
    return Interval(value, low, high, int(_number(row.get("num")) if math.isfinite(_number(row.get("num"))) else 0))


def _number(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)


def _shown(row: Row, name: str, digits: int = 2, scale: float = 1.0) -> str:
    return wording.with_interval(interval(row, name), digits, scale)


def _skill_table(title: str, rows: list[Row], name: Naming, by_group: bool = False) -> Table:
    header = [
        "Model",
        "n",
        "Visits",
        "Error, %",
        *SKILLS,
        "Relative error",
        "Direction right, %",
        "Slope [95 %]",
        "CRPS, %",
    ]
    cells: list[list[str]] = []
    for group in dict.fromkeys(str(row["group"]) for row in rows):
        cells += [[spell.capital(group)]] if by_group else []
        cells += [
            [
                name(row),
                str(int(row["num"])),
                str(int(row["num_pairs"])),
                spell.number(interval(row, "region_error").value * 100, 2),
                _shown(row, "region_skill_copy"),
                _shown(row, "region_skill_population"),
                spell.number(interval(row, "relative_error").value),
                spell.number(interval(row, "sign_accuracy").value * 100, 0),
                _shown(row, "slope"),
                spell.number(interval(row, "crps").value * 100, 2),
            ]
            for row in rows
            if str(row["group"]) == group
        ]
    caption = (
        f"{title}: change of regional volume, mean over regions, in percent of volume.{'' if by_group else COLUMNS}"
    )
    return Table(caption, header, cells, "lrrrrrrrrr")


def _image_table(rows: list[Row], name: Naming) -> Table:
    cells = [
        [
            name(row),
            str(int(_number(row.get("num_images")))),
            _shown(row, "image_skill_copy", 3),
            _shown(row, "image_skill_population", 3),
            _shown(row, "difference_r"),
            f"{spell.number(interval(row, 'ssim').value, 3)} ({spell.number(interval(row, 'ssim_copy').value, 3)})",
            f"{spell.number(interval(row, 'psnr').value, 1)} ({spell.number(interval(row, 'psnr_copy').value, 1)})",
            f"{spell.percent(interval(row, 'rank_1').value, 0)} ({spell.percent(interval(row, 'rank_1_copy').value, 0)})",
        ]
        for row in rows
    ]
    caption = (
        "Images inside the brain, where a forecast year is near the visit; copying the scan in brackets. Skill: of the squared "
        "error of difference images. r: correlation over voxels of the forecast and the true difference image. Found: people whose "
        "later scan is the most alike of everybody's later scans."
    )
    header = ["Model", "n", *SKILLS, "r [95 %]", "SSIM (copying)", "PSNR, dB (copying)", "Found (copying)"]
    return Table(caption, header, cells, "lrrrrrrr")


def _by_group(skill: pd.DataFrame, name: Naming) -> list[Any]:
    titles = {
        HORIZON: "By time between visits",
        "diagnosis": "By diagnosis",
        "visits known": "By number of visits known",
    }
    tables = []
    for by, title in titles.items():
        rows = [row for row in rows_of(skill) if row["by"] == by and row["model"] != COPY]
        tables += [_skill_table(title, rows, name, by_group=True)] if rows else []
    return [Details("Skill by time between visits, diagnosis and number of visits", tables)] if tables else []


def _skill_chart(context: Context, evaluation: EvaluationFolder, name: Naming) -> Figure | None:
    first = next(iter(evaluation.forecasts), "")
    rows = [
        row
        for row in rows_of(evaluation.table("skill"))
        if row["by"] == HORIZON and row["model"] != COPY and (not row["floor"] or row["forecasts"] == first)
    ]
    panels = {}
    models = list(dict.fromkeys(name(row) for row in rows))
    colours = style.category_colours(models)
    floors = {"region_skill_copy": "Regions, over copying", "region_skill_population": "Regions, over population rate",
              "image_skill_copy": "Images, over copying"}  # fmt: skip
    for column, title in floors.items():
        lines = []
        for model in models:
            own = [row for row in rows if name(row) == model and math.isfinite(interval(row, column).value)]
            if len(own) > 1 and not (own[0]["model"] == POPULATION and column == "region_skill_population"):
                years = [float(row["mean_years"]) for row in own]
                lines.append(charts.SeverityLine(model, colours[model], years, [interval(row, column) for row in own]))
        if lines:
            panels[title] = lines
    if not panels:
        return None
    png, svg = charts.severity_lines(panels, "Years between visits (mean)", "Skill", 0.0)
    caption = "Skill against the time between visits, with 95 % intervals over people; the dashed line is no better than the floor."
    return Figure(f"forecast_skill_{evaluation.name}", "Skill of forecasts against time.", caption, png, svg=svg)


def _people_chart(context: Context, evaluation: EvaluationFolder, name: Naming) -> Figure | None:
    people = evaluation.table("people")
    if not len(people):
        return None
    first = people[people["forecasts"] == people["forecasts"].iloc[0]]
    groups = list(dict.fromkeys(first["diagnosis"].astype(str)))
    controls = [group for group in groups if group.lower() in CONTROL_NAMES]
    colours = style.group_colours(groups, [*controls, *context.controls])
    colours |= {group: colour for group, colour in context.colours.items() if group in colours}
    panels = {
        wording.region(str(region)): {
            str(group): (rows["forecast_percent"].to_numpy(np.float64), rows["true_percent"].to_numpy(np.float64))
            for group, rows in part.groupby("diagnosis", sort=False)
        }
        for region, part in first.groupby("region", sort=False)
    }
    png, svg = charts.agreement(panels, colours, ("Forecast change, %", "True change, %"))
    caption = (
        f"Change of volume of both sides to the furthest visit of each person, {name(_forecaster_row(evaluation))}; on the dashed "
        "line the forecast came true."
    )
    return Figure(f"forecast_people_{evaluation.name}", "True against forecast change.", caption, png, svg=svg)


def _forecaster_row(evaluation: EvaluationFolder) -> Row:
    folder, record = next(iter(evaluation.forecasts.items()))
    return {"forecasts": folder, "model": str(record.get("forecaster", ""))}


def _region_table(regions: pd.DataFrame, name: Naming) -> Table:
    """The regions that truly changed most, for the forecasters."""
    chosen = regions[(regions["by"] == ALL) & ~regions["floor"].astype(bool)]
    size = chosen.groupby("region")["true_percent"].first().abs().sort_values(ascending=False, kind="stable")
    both = [
        str(region)
        for region in size.index
        if str(region).endswith(" (both)") or not str(region).startswith(("left ", "right "))
    ]
    cells: list[list[str]] = []
    for region in both[:NUM_REGIONS]:
        rows = rows_of(chosen[chosen["region"] == region])
        cells.append([f"{spell.capital(wording.region(region))}: true change {_shown(rows[0], 'true_percent', 1)} %"])
        cells += [
            [
                name(row),
                str(int(row["num"])),
                _shown(row, "forecast_percent", 1),
                _shown(row, "skill_copy"),
                _shown(row, "skill_population"),
                _shown(row, "spearman"),
                _shown(row, "slope"),
            ]
            for row in rows
        ]
    caption = "The regions that changed most. Ranks and slope over people, at the furthest visit of each."
    header = ["Model", "n", "Forecast change, % [95 %]", *SKILLS, "Spearman [95 %]", "Slope [95 %]"]
    return Table(caption, header, cells, "lrrrrrr")


def _coverage(evaluation: EvaluationFolder, name: Naming) -> list[Any]:
    coverage = evaluation.table("coverage")
    if not len(coverage):
        return []
    rows = rows_of(coverage)
    cells = [
        [
            name(row),
            f"{int(row['level'])} %",
            str(int(row["num"])),
            _shown(row, "coverage", 0, 100),
            _shown(row, "width", 1, 100),
        ]
        for row in rows
        if row["by"] == ALL
    ]
    caption = "Share of true regional changes inside the intervals, and their width in percent of volume."
    blocks: list[Any] = [Heading("How sure: intervals")]
    leads = [row for row in rows if row["by"] == HORIZON and not row["floor"]]
    models = list(dict.fromkeys(name(row) for row in leads))
    colours = style.category_colours(models)
    panels = {}
    for level in sorted({int(row["level"]) for row in leads}):
        lines = []
        for model in models:
            own = [row for row in leads if name(row) == model and int(row["level"]) == level]
            years = [float(row["mean_years"]) for row in own]
            lines.append(charts.SeverityLine(model, colours[model], years, [interval(row, "coverage") for row in own]))
        panels[f"{level} % intervals"] = [line for line in lines if len(line.severity) > 1]
    panels = {title: lines for title, lines in panels.items() if lines}
    if panels:
        promised = {title: float(title.split()[0]) / 100 for title in panels}
        png, svg = charts.severity_lines(panels, "Years between visits (mean)", "Share inside", promised)
        words = "Coverage against the time between visits; the dashed line is what the intervals promise."
        blocks.append(
            Figure(f"forecast_coverage_{evaluation.name}", "Coverage of intervals against time.", words, png, svg=svg)
        )
    return [*blocks, Table(caption, ["Model", "Level", "n", "Inside, % [95 %]", "Width, % [95 %]"], cells, "lrrrr")]


def _direction(direction: pd.DataFrame, name: Naming) -> list[Any]:
    cells = [
        [
            name(row),
            wording.region(str(row["region"])),
            str(row["direction"]),
            str(int(row["num"])),
            _shown(row, "share", 0, 100),
        ]
        for row in rows_of(direction)
        if row["model"] != COPY
    ]
    caption = "People whose forecasts go one way from year to year, among those in whom the region truly goes that way."
    table = Table(caption, ["Model", "Region", "Truly", "n", "One way, % [95 %]"], cells, "lllrr")
    return [Details("Do forecasts keep their direction?", [table])] if cells else []


def _differences(differences: pd.DataFrame) -> list[Any]:
    cells = [
        [
            f"{row['forecasts']} over {row['over']}",
            str(int(row["num"])),
            _shown(row, "region_skill"),
            _shown(row, "image_skill", 3),
        ]
        for row in rows_of(differences)
    ]
    caption = "Forecasters against that of the first folder, on the same people: 0 is no better, above 0 the error is smaller."
    table = Table(caption, ["Forecasters", "n", "Skill on regions [95 %]", "Skill on images [95 %]"], cells, "lrrr")
    return [table] if cells else []
