"""Calibration of z and of conformal p, measured in held-out controls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gen3d.anomaly.folder import P_CONFORMAL, MapsFolder
from gen3d.core import words as spell
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import Interval, bootstrap_interval, wilson_interval

QUANTILES = np.concatenate([[0.001, 0.0025, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 0.9975, 0.999]])
FEW = 19
SHARES = np.linspace(0.0, 1.0, 101)
LEVEL = 0.05
BY_NORM = (
    "Where a norm judged, the figures are those of its own controls, written down when it was fitted: controls of role test, or "
    "each control judged without itself where it has none of those."
)
NOT_NAMED = "not named (norm)"
REFERENCES = {"heaviest_cluster": "mass of the heaviest cluster", "largest_region": "largest |z| of any region"}


@page_section("Calibration", "`gen3d anomaly`", place=150, reads=MapsFolder)
def section(context: Context) -> Section | None:
    """Table and quantile plots of z, and shares of conformal p, in held-out controls, per model and channel."""
    if not context.all(MapsFolder):
        return None
    rows = [row for maps in context.all(MapsFolder) for row in null_figures(maps)]
    blocks: list[Any] = [
        Text(
            "A z of 2 should mean the same everywhere. In controls that neither the model nor the calibration has seen, z "
            "should have mean 0 and SD 1, |z| should exceed 1.96 in 5 % of voxels, and about 5 % of people should have a "
            "voxel that survives the false discovery rate."
        )
    ]
    if rows:
        blocks.append(_table(rows))
    if any(maps.by_norm for maps in context.all(MapsFolder)):
        blocks.append(Text(BY_NORM, "note"))
    figure = _figure(context)
    if figure is not None:
        blocks.append(figure)
    outlying = [row for maps in context.all(MapsFolder) for row in outlying_controls(maps)]
    if outlying:
        blocks.append(_outlying_table(outlying))
    ranks = [row for maps in context.all(MapsFolder) for row in conformal_figures(maps)]
    if ranks:
        blocks.append(_rank_figure(ranks))
    described = [_description(maps) for maps in context.all(MapsFolder) if maps.calibration]
    if described:
        blocks.append(Details("Calibration controls and covariates", [Text(text) for text in described]))
    numbers = [{name: row[name] for name in row if name != "by_person"} for row in ranks]
    found = {"held_out_controls": rows, "conformal": numbers, "outlying_controls": outlying}
    return Section("calibration", "Calibration", blocks, found)


def null_figures(maps: MapsFolder) -> list[dict[str, Any]]:
    """Per channel: mean, SD, share beyond 1.96 over voxels, and share of people with an FDR-positive voxel.

    Intervals are over people. The figures are those of calibration.json.
    """
    rows = []
    for channel in maps.channels:
        record = maps.calibration.get(channel, {})
        test = record.get("test", {})
        num = int(test.get("num_people", 0))
        if not num and maps.by_norm:  # a norm may have been fitted on all of its controls
            test = record.get("calibration_held_out", {})
            num = int(test.get("num_people", 0))
        if not num:
            continue
        beyond = bootstrap_interval(test.get("per_person", {}).get("share_beyond_1.96", []))
        positive = round(num * float(test["share_people_fdr_positive"]))
        rows.append(
            {
                "model": maps.name,
                "channel": channel,
                "num_people": num,
                "num_calibration": int(record.get("num_controls", 0)),
                "mean": float(test["mean"]),
                "sd": float(test["sd"]),
                "share_beyond": beyond
                if beyond.num
                else Interval(float(test["share_beyond_1.96"]), np.nan, np.nan, num),
                "num_positive": positive,
                "share_positive": wilson_interval(positive, num),
            }
        )
    return rows


def conformal_figures(maps: MapsFolder) -> list[dict[str, Any]]:
    """Per channel: the share of regions of a test control with conformal p of at most 0, 1, ... 100 %, [people, 101].

    `share_5_percent` is the mean at 5 % over people, with its interval. `expected_5_percent` is the largest k / (n + 1)
    that is at most 5 %, because the p of n controls has steps of 1 / (n + 1).
    """
    rows: list[dict[str, Any]] = []
    regions = maps.regions[maps.regions["key"].isin(set(maps.reference["key"])) & maps.regions[P_CONFORMAL].notna()]
    for channel in maps.channels:
        part = regions[regions["channel"] == channel]
        people = [np.asarray(p, dtype=np.float64) for _, p in part.groupby("key", sort=True)[P_CONFORMAL]]
        if not people:
            continue
        by_person = np.array([(p[:, None] <= SHARES + 1e-12).mean(axis=0) for p in people])
        num_steps = int(maps.calibration.get(channel, {}).get("num_controls", 0)) + 1
        at_level = bootstrap_interval([float((p <= LEVEL + 1e-12).mean()) for p in people])
        rows.append(
            {
                "model": maps.name,
                "channel": channel,
                "num_people": len(people),
                "share_5_percent": at_level,
                "expected_5_percent": math.floor(LEVEL * num_steps + 1e-9) / num_steps,
                "by_person": by_person,
            }
        )
    return rows


def outlying_controls(maps: MapsFolder) -> list[dict[str, Any]]:
    """Calibration controls far beyond the others, by model, channel and score: subject, score, the next control's score."""
    rows = []
    for channel, record in maps.calibration.items():
        references = record.get("references", {}) if isinstance(record, dict) else {}
        for name, reference in references.items():
            rows += [
                {
                    "model": maps.name,
                    "channel": str(channel),
                    "reference": str(name),
                    "subject": str(person.get("subject", NOT_NAMED)),
                    "score": float(person.get("score", math.nan)),
                    "next_score": float(reference.get("next_score") or math.nan),
                    "num_controls": int(reference.get("num_controls", 0)),
                }
                for person in reference.get("outlying", [])
            ]
    return rows


def _outlying_table(rows: list[dict[str, Any]]) -> Table:
    cells = [
        [
            row["model"],
            wording.channel(row["channel"]),
            REFERENCES.get(row["reference"], row["reference"]),
            row["subject"],
            spell.figure(row["score"]),
            spell.figure(row["next_score"]),
            str(row["num_controls"]),
        ]
        for row in rows
    ]
    caption = (
        "Calibration controls whose score lies far beyond those of the others (fewer than 0.2 controls so far out would be "
        "expected). A rank among all controls would let them decide who is detected, so the p of people beyond the others is "
        "that of a log-normal tail fitted to the others. Look at these scans first."
    )
    header = ["Model", "Channel", "Score", "Control", "Value", "Next control", "Controls"]
    return Table(caption, header, cells, "llllrrr")


def _table(rows: list[dict[str, Any]]) -> Table:
    cells: list[list[str]] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        cells.append([model])
        cells += [
            [
                wording.channel(row["channel"]),
                str(row["num_people"]),
                spell.number(row["mean"]),
                spell.number(row["sd"]),
                wording.with_interval(row["share_beyond"], 1, 100),
                f"{row['num_positive']} of {row['num_people']}",
                wording.with_interval(row["share_positive"], 0, 100),
            ]
            for row in rows
            if row["model"] == model
        ]
    header = [
        "Channel",
        "People",
        "Mean z",
        "SD of z",
        "|z| > 1.96, % of voxels [95 %]",
        "FDR-positive people",
        "% [95 %]",
    ]
    fewest = min(row["num_people"] for row in rows)
    caution = " With so few people the shares are only roughly known." if fewest < FEW else ""
    caption = (
        "z in held-out controls. Expected: mean 0, SD 1, 5 % of voxels, about 5 % of people. Intervals are over "
        f"people.{caution}"
    )
    return Table(caption, header, cells, "lrrrrrr")


def _figure(context: Context) -> Figure | None:
    mask = context.space.mask
    panels = []
    for maps in context.all(MapsFolder):
        for channel in maps.channels:
            people = [_inside(maps, str(key), channel, mask) for key in maps.reference["key"]]
            observed = [np.quantile(values, QUANTILES) for values in people if values.size]
            if observed:
                panels.append(
                    charts.QuantilePanel(
                        f"{maps.name}: {wording.in_text(channel)}", ndtri(QUANTILES), np.array(observed)
                    )
                )
    if not panels:
        return None
    columns = max(len(maps.channels) for maps in context.all(MapsFolder))
    png, svg = charts.quantile_plots(panels, style.GROUP_COLOURS[0], columns)
    caption = (
        "Quantiles of voxel z in held-out controls (role test), against those of the standard normal distribution. Each "
        "thin line is a person, the thick line their mean; on the dashed line z is exact. The line of one person may "
        "deviate from it, because whole brains differ; the mean should not."
    )
    return Figure(
        "calibration",
        "Quantile plots of z in test controls.",
        caption,
        png,
        svg=svg,
        width_percent=min(100, 34 * columns),
    )


def _rank_figure(rows: list[dict[str, Any]]) -> Figure:
    """Cumulative shares of conformal p in test controls; on the diagonal p is exact."""
    colour, percent = style.GROUP_COLOURS[0], 100.0 * SHARES
    panels = {}
    for row in rows:
        shares = 100.0 * row["by_person"]
        people = [charts.Curve(percent, person, "a person", colour, thin=True) for person in shares]
        panels[f"{row['model']}: {wording.in_text(row['channel'])}"] = [
            charts.Curve(percent, percent, "exact", style.INK, dashed=True),
            *people,
            charts.Curve(percent, shares.mean(axis=0), "mean", colour),
        ]
    png, svg = charts.curves(panels, "p at most (%)")
    fives = "; ".join(
        f"{row['model']}, {wording.in_text(row['channel'])} {wording.with_interval(row['share_5_percent'], 1, 100)} % "
        f"(expected {spell.percent(row['expected_5_percent'])})"
        for row in rows
    )
    caption = (
        "Share of regions (%) whose conformal p is at most the value on the axis, in held-out controls (role test). Thin "
        "lines are people, the thick line their mean; on the dashed line p is exact. Conformal p has steps of 1 / (number of "
        f"controls + 1). Regions with p of at most 5 %, with the interval over people: {fives}."
    )
    return Figure("conformal", "Cumulative shares of conformal p in test controls.", caption, png, svg=svg)


def _inside(maps: MapsFolder, key: str, channel: str, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    z = maps.z(key, channel)
    if z is None:
        return np.empty(0, dtype=np.float32)
    inside = z[mask]
    return inside[np.isfinite(inside)]


def _description(maps: MapsFolder) -> str:
    channel, record = next(iter(maps.calibration.items()))
    if not isinstance(record, dict):
        return maps.name
    low, high = (record.get("age_range_years") or [None, None])[:2]
    text = f"{maps.name}: {'judged by' if maps.by_norm else 'calibrated on'} {maps.judged_by}"
    if low is not None and high is not None:
        text += f" aged {spell.number(low, 0)} to {spell.number(high, 0)}"
    sites = record.get("sites") or {}
    if sites:
        text += " from " + spell.listed([f"{name or 'no named site'} ({n})" for name, n in sites.items()])
    smoothing = maps.smoothing_mm
    if smoothing:
        text += f"; intensity and volume maps smoothed by {smoothing:g} mm (FWHM)"
    columns = [str(name) for name in record.get("columns", []) if str(name) != "intercept"]
    text += f"; covariates: {spell.listed(columns)}." if columns else "; no covariates."
    for term, reason in (record.get("dropped") or {}).items():
        text += f" Covariate {term} was left out: {reason}."
    factors = record.get("site_variance") or {}
    if len(factors) > 1:
        listed = [
            f"{name or 'no named site'} {spell.number(entry['sd_factor'])} ({entry['num_controls']})"
            for name, entry in factors.items()
        ]
        text += (
            f" Residual SD of each site relative to the average site, in {wording.in_text(channel)}, with the number of "
            f"controls: {spell.listed(listed)}."
        )
    resolution = record.get("conformal_resolution")
    if resolution is not None:
        text += f" The smallest possible conformal p with this number of controls is {spell.probability(float(resolution))}."
    return text
