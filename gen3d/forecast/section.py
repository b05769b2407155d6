"""Forecasts on the page: what they were worth for people never seen, their intervals against horizon, and each person's future."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gen3d.core import words as spell
from gen3d.core.tables import records, rows_of
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Card, Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.figures.names import with_interval
from gen3d.forecast.folder import ALL_REGIONS, COPY_FORWARD, LEVELS, ForecastFolder, curves_name, normative_name
from gen3d.forecast.sentences import centile_in_words, skill_of
from gen3d.maths.stats import Interval

REGIONS_SHOWN = 12
ABOUT = (
    "A forecast starts from a person's last scan and is made by members of the run that never saw the person. What such forecasts "
    "are worth was measured on people who were followed and whom the members did not see: skill is 1 less the error of regional "
    "log volume change as a share of another model's error; 0 is no better, 100 % is without error. Intervals are split-conformal "
    "by horizon: they come from the errors made for other people, so that they hold as often as they promise. People are the unit."
)


@page_section("Forecasts", "`gen3d forecast`", place=75, reads=ForecastFolder)
def section(context: Context) -> Section | None:
    """Per folder: the verdict, skill against the floors, coverage and width against horizon, and the pictures of people."""
    folders = context.all(ForecastFolder)
    if not folders:
        return None
    blocks: list[Any] = []
    numbers: dict[str, Any] = {}
    for folder in folders:
        if len(folders) > 1:
            blocks.append(Heading(folder.name))
        blocks += _of_folder(folder, context.subjects_shown)
        numbers[folder.name] = {
            "skill": records(folder.skill[folder.skill["region"] == ALL_REGIONS]),
            "coverage": records(folder.coverage),
        }
    return Section("forecasts", "Forecasts", blocks, numbers)


def _of_folder(folder: ForecastFolder, shown: int) -> list[Any]:
    blocks: list[Any] = []
    if folder.summary:
        blocks += [Text(folder.summary[0], "verdict"), Points(folder.summary[1:])]
    asked = folder.part("condition", dict, {})
    if asked:
        wanted = spell.listed([f"{name} {value}" for name, value in asked.items()])
        blocks.append(
            Text(f"What if: the forecasts are for {wanted}, whatever the people's own values are.", "warning")
        )
    blocks.append(Text(ABOUT))
    blocks += [*_models(folder), *_coverage(folder), *_regions(folder)]
    keys = [str(key) for key in folder.part("shown", list, [])]
    blocks += [_person(folder, key) for key in keys[:shown]]
    rest = len(keys) - shown
    if rest > 0:
        blocks.append(Text(f"Pictures of {spell.count(rest, 'further scan')} are in figures/ of the folder.", "note"))
    return blocks


def _models(folder: ForecastFolder) -> list[Any]:
    """Skill over all regions of the model and the floors against copying the scan forward and against each other."""
    skill = folder.skill[folder.skill["region"] == ALL_REGIONS]
    if skill.empty:
        return []
    against = list(dict.fromkeys(skill["against"].astype(str)))
    rows = []
    for model in dict.fromkeys(skill["model"].astype(str)):
        values = [skill_of(skill, model, name) for name in against]
        own = skill[skill["model"] == model].iloc[0]
        cells = [_percent(value) if value is not None else spell.NONE for value in values]
        rows.append([_title(folder, model), spell.number(100 * float(own["error"]), 2), *cells])
    header = ["Model", "Error, %", *(f"Skill against {_title(folder, name).lower()}" for name in against)]
    caption = (
        "Mean absolute error of log volume change over all regions (in 100 log points, about percent), and skill in percent with "
        f"95 % intervals over {spell.people(int(skill['num_people'].max()))} whom the members never saw."
    )
    return [Table(caption, header, rows, "l" + "r" * (len(header) - 1))]


def _title(folder: ForecastFolder, model: str) -> str:
    return folder.titles.get(model, model.replace("_", " ").capitalize())


def _percent(value: Interval) -> str:
    return with_interval(value, 1, 100.0)


def _coverage(folder: ForecastFolder) -> list[Any]:
    """Coverage and width by horizon of the model's own intervals: chart and table."""
    own = folder.coverage[folder.coverage["model"] == folder.model]
    if own.empty:
        return []
    colours = dict(zip(LEVELS, style.GROUP_COLOURS, strict=False))
    held, width = [], []
    for level in LEVELS:
        part = own[own["level"] == level]
        years = part["years"].to_numpy(np.float64)
        name, colour = f"{level} %", colours[level]
        bands = [(100 * part["low"].to_numpy(np.float64), 100 * part["high"].to_numpy(np.float64))]
        held.append(charts.Banded(years, 100 * part["coverage"].to_numpy(np.float64), bands, name, colour))
        width.append(charts.Banded(years, 100 * part["width"].to_numpy(np.float64), (), name, colour))
    panels = {"Changes inside the interval, %": held, "Mean width, % of volume": width}
    png, svg = charts.banded(panels, "Years ahead", "", None)
    caption = (
        "What intervals of 50, 80 and 90 % held at each horizon (left; bands are 95 % intervals over people), and how wide they "
        "are (right). Each person's interval is made from the errors of all others."
    )
    return [
        Figure(f"forecast_coverage_{folder.name}", "Coverage and width of intervals", caption, png, svg=svg),
        _held(own),
    ]


def _held(own: pd.DataFrame) -> Table:
    cells = []
    for (low, high), part in own.groupby(["years_low", "years_high"], sort=True):
        row = [f"{low:.1f} to {high:.1f}", str(int(part["num_people"].max()))]
        for level in LEVELS:
            entry = rows_of(part[part["level"] == level])[0]
            value = Interval(entry["coverage"], entry["low"], entry["high"], int(entry["num_people"]))
            known = np.isfinite(entry["coverage"])
            row += [_percent(value) if known else "not available", spell.number(100 * entry["width"], 1)]
        cells.append(row)
    header = ["Years", "People", *(text for level in LEVELS for text in (f"Held of {level} %", "Width, %"))]
    return Table(
        "Coverage of intervals by horizon, people left out one by one.", header, cells, "lr" + "rr" * len(LEVELS)
    )


def _regions(folder: ForecastFolder) -> list[Any]:
    """Skill per region against copying the scan forward, the largest errors of copying first."""
    skill = folder.skill
    own = skill[
        (skill["model"] == folder.model) & (skill["against"] == COPY_FORWARD) & (skill["region"] != ALL_REGIONS)
    ]
    own = own[np.isfinite(own["error_against"])].sort_values("error_against", ascending=False, kind="stable")
    if own.empty:
        return []
    rows = []
    for row in rows_of(own.head(REGIONS_SHOWN)):
        value = Interval(row["skill"], row["low"], row["high"], int(row["num_people"]))
        errors = [spell.number(100 * row[name], 1) for name in ("error_against", "error")]
        rows.append([wording.region(row["region"]), *errors, _percent(value), str(value.num)])
    header = ["Region", "Change itself, %", "Error of the forecast, %", "Skill, % [95 %]", "People"]
    caption = (
        f"The {len(rows)} regions that changed most in people never seen: mean absolute change (the error of copying the scan "
        "forward), error of the forecast, and skill."
    )
    return [Details("Skill by region", [Table(caption, header, rows, "lrrrr")])]


def _person(folder: ForecastFolder, key: str) -> Card:
    scan = folder.forecasts[folder.forecasts["key"].astype(str) == key].iloc[0]
    blocks: list[Any] = []
    brains, curves = folder.picture(key), folder.picture(curves_name(key))
    if brains:
        caption = (
            "Scan, forecast, their difference, the SD of that difference over draws (calibrated on people never seen), and local "
            "volume change, coronal through the hippocampi and axial through the ventricles. Scales are those of all horizons."
        )
        blocks.append(Figure(f"forecast_{folder.name}_{key}", f"Forecast of {key}", caption, brains))
    if curves:
        caption = "Volume of regions with the 50 and 90 % intervals of the forecast; thin lines are the floors."
        blocks.append(Figure(f"forecast_{folder.name}_{key}_regions", f"Regions of {key}", caption, curves))
    blocks.append(_changes(folder, key))
    blocks += _among_healthy(folder, key)
    age = "" if not np.isfinite(scan["age_years"]) else f", {scan['age_years']:.0f} years old at this scan"
    visits = spell.count(int(scan["num_visits"]), "visit") if "num_visits" in scan else "one visit"
    return Card(f"{scan['subject']}", f"Session {scan['session']}{age}, {visits} known", blocks, f"forecast-{key}")


def _among_healthy(folder: ForecastFolder, key: str) -> list[Any]:
    """The person's regions on the norm's curves: picture, and centiles today and at every horizon."""
    own = folder.normative[folder.normative["key"].astype(str) == key]
    if own.empty:
        return []
    blocks: list[Any] = []
    picture = folder.picture(normative_name(key))
    if picture:
        caption = (
            "Volume of regions today and as forecast, with its 90 % interval, on the curves of healthy people of the same sex "
            "(median, 25th to 75th and 5th to 95th centile), in percent of the median of the person's age today."
        )
        blocks.append(
            Figure(f"forecast_{folder.name}_{key}_normative", f"{key} among healthy people", caption, picture)
        )
    wide = own.pivot_table(index="region", columns="years", values="centile", aggfunc="first", sort=False, dropna=False)
    header = ["Region", *("Today" if year == 0 else f"In {year:g} years" for year in map(float, wide.columns))]
    rows = [
        [wording.region(str(region)), *(centile_in_words(float(value)) for value in values)]
        for region, values in zip(wide.index, wide.to_numpy(np.float64), strict=True)
    ]
    caption = "Centile of the forecast volume among healthy people of the later age and the same sex."
    return [*blocks, Table(caption, header, rows, "l" + "r" * (len(header) - 1))]


def _changes(folder: ForecastFolder, key: str) -> Table:
    """Changes at the furthest horizon whose 90 % interval leaves out 0, the surest first."""
    own = folder.regions[(folder.regions["key"].astype(str) == key) & (folder.regions["model"] == folder.model)]
    last = own[own["years"] == own["years"].max()]
    sure = last[(last["low_90"] > 0) | (last["high_90"] < 0)]
    order = (
        (sure["log_change"].abs() / (sure["high_90"] - sure["low_90"]))
        .sort_values(ascending=False, kind="stable")
        .index
    )
    rows = []
    for row in rows_of(sure.loc[order].head(REGIONS_SHOWN)):
        parts = [100 * np.expm1(row[name]) for name in ("log_change", "low_90", "high_90")]
        shown = [spell.number(part, 1, signed=True) for part in parts]
        rows.append([wording.region(row["region"]), shown[0], f"{shown[1]} to {shown[2]}"])
    years = f"{float(own['years'].max()):g} years"
    caption = f"Regions whose 90 % interval in {years} leaves out no change ({len(sure)} of {len(last)})."
    return Table(caption, ["Region", "Volume, %", "90 % interval"], rows, "lrr")
