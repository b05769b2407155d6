"""Whether z is a z: what held-out controls, in whom nothing is known to be wrong, look like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gen3d.maths.stats import Interval, bootstrap_interval, wilson_interval
from gen3d.report import charts, style, wording
from gen3d.report.blocks import Details, Figure, Section, Table, Text
from gen3d.report.context import Context
from gen3d.report.folders import Maps

QUANTILES = np.concatenate([[0.001, 0.0025, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 0.9975, 0.999]])
FEW = 19


def section(context: Context) -> Section | None:
    """Table and quantile plots of z in held-out controls, per model and channel."""
    if not context.sources.maps:
        return None
    rows = [row for maps in context.sources.maps for row in null_figures(maps)]
    blocks: list[Any] = [
        Text(
            "A z of 2 should mean the same everywhere. In controls that neither the model nor the calibration saw, z "
            "should have mean 0 and SD 1, "
            "exceed 1.96 in 5 % of voxels, and hardly any person should have a voxel that survives the false "
            "discovery rate."
        )
    ]
    if rows:
        blocks.append(_table(rows))
    figure = _figure(context)
    if figure is not None:
        blocks.append(figure)
    described = [_description(maps) for maps in context.sources.maps if maps.calibration]
    if described:
        blocks.append(Details("Who calibrated, and which terms were in the model", [Text(text) for text in described]))
    return Section("calibration", "Calibration", blocks, {"held_out_controls": rows})


def null_figures(maps: Maps) -> list[dict[str, Any]]:
    """Per channel: mean, SD, share beyond 1.96 over voxels, and share of people with an FDR-positive voxel.

    Intervals are over people. The figures are those of calibration.json.
    """
    rows = []
    for channel in maps.channels:
        record = maps.calibration.get(channel, {})
        test = record.get("test", {})
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


def _table(rows: list[dict[str, Any]]) -> Table:
    cells: list[list[str]] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        cells.append([model])
        cells += [
            [
                wording.channel(row["channel"]),
                str(row["num_people"]),
                wording.number(row["mean"]),
                wording.number(row["sd"]),
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
    words = " With so few people the shares are only roughly known." if fewest < FEW else ""
    caption = (
        "z in held-out controls. Expected: mean 0, SD 1, 5 % of voxels, about 5 % of people. Intervals are over "
        f"people.{words}"
    )
    return Table(caption, header, cells, "lrrrrrr")


def _figure(context: Context) -> Figure | None:
    mask = context.sources.space.mask
    panels = []
    for maps in context.sources.maps:
        for channel in maps.channels:
            found = [_inside(maps, str(key), channel, mask) for key in maps.reference["key"]]
            observed = [np.quantile(values, QUANTILES) for values in found if values.size]
            if observed:
                panels.append(
                    charts.Quantiles(f"{maps.name}: {wording.in_text(channel)}", ndtri(QUANTILES), np.array(observed))
                )
    if not panels:
        return None
    columns = max(len(maps.channels) for maps in context.sources.maps)
    png, svg = charts.quantile_plots(panels, style.GROUP_COLOURS[0], columns)
    caption = (
        "Quantiles of voxel z in held-out controls against those of the standard normal distribution. Each thin line "
        "is a person, the thick one their "
        "mean; on the dashed line z is exact. A person's own line may lie off it: whole brains differ, the group "
        "should not."
    )
    return Figure(
        "calibration",
        "Quantile plots of z in held-out controls.",
        caption,
        png,
        svg=svg,
        width_percent=min(100, 34 * columns),
    )


def _inside(maps: Maps, key: str, channel: str, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    z = maps.z(key, channel)
    if z is None:
        return np.empty(0, dtype=np.float32)
    inside = z[mask]
    return inside[np.isfinite(inside)]


def _description(maps: Maps) -> str:
    record = next(iter(maps.calibration.values()))
    if not isinstance(record, dict):
        return maps.name
    low, high = (record.get("age_range_years") or [None, None])[:2]
    text = f"{maps.name}: calibrated on {wording.count(int(record.get('num_controls', 0)), 'control')}"
    if low is not None and high is not None:
        text += f" aged {low:.0f} to {high:.0f}"
    sites = record.get("sites") or {}
    if sites:
        text += " from " + wording.listed([f"{name or 'no named site'} ({n})" for name, n in sites.items()])
    smoothing = maps.artefact.config.get("smoothing_mm")
    if smoothing:
        text += f"; intensity and volume maps smoothed by {smoothing:g} mm (FWHM)"
    columns = [str(name) for name in record.get("columns", []) if str(name) != "intercept"]
    text += f"; covariates: {wording.listed(columns)}." if columns else "; no covariates."
    for term, reason in (record.get("dropped") or {}).items():
        text += f" {wording.capital(str(term))} was left out: {reason}."
    resolution = record.get("conformal_resolution")
    if resolution is not None:
        text += f" The smallest conformal p that so many controls allow is {wording.probability(float(resolution))}."
    return text
