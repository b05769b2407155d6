"""The model card of a norm: who it stands for, how it behaves where nothing is wrong, and what its files tell of a person."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from gen3d import __version__
from gen3d.anomaly.norm.curves import CURVES, curve_lines
from gen3d.anomaly.norm.folder import CALIBRATION, CARD, CURVES_PNG, PLAN, RECORD, NormRecord
from gen3d.core import words as spell
from gen3d.core.artefact import write_atomic
from gen3d.core.plain_files import load_object
from gen3d.imaging.plan import read_plan

NOT_GIVEN = "not given"


def write_card(folder: Path, licence: str, contact: str) -> None:
    """Write card.md from the other files of a norm."""
    record = NormRecord.from_dict(load_object(folder / RECORD))
    calibration = load_object(folder / CALIBRATION)
    parts = [
        "# Norm\n",
        _who(record),
        _made(folder, record),
        _behaviour(calibration),
        _curves(folder, calibration),
        _limits(record),
        _privacy(record),
        _terms(licence, contact),
    ]
    write_atomic(folder / CARD, "\n".join(parts))


def _who(record: NormRecord) -> str:
    num = sum(row["num"] for row in record.who)
    low, high = record.covariates.age_range_years
    ages = f"{low:.0f} to {high:.0f} years" if low == low else "ages unknown"
    lines = [f"{num} controls, {ages}.", "", "| site | people | women | men |", "|---|---|---|---|"]
    sites = sorted({row["site"] for row in record.who})
    for site in sites:
        of_site = [row for row in record.who if row["site"] == site]
        sexes: Counter[str] = Counter()
        for row in of_site:
            sexes[row["sex"]] += row["num"]
        lines.append(f"| {site or 'unknown'} | {sexes.total()} | {sexes['F']} | {sexes['M']} |")
    decades: Counter[str] = Counter()
    for row in record.who:
        decades[row["age"] or "unknown"] += row["num"]
    lines += ["", "By age: " + ", ".join(f"{age} {num}" for age, num in sorted(decades.items())) + "."]
    for site, few in sorted(record.controls.adapted.items()):
        lines.append(f"Site {site} was added from {spell.count(few, 'control')} of its own.")
    return _chapter("Who it stands for", lines)


def _made(folder: Path, record: NormRecord) -> str:
    design = record.controls.design
    lines = [
        f"- gen3d {__version__}, grid {read_plan(folder / PLAN).describe()}",
        f"- channels: {', '.join(record.channels)}",
        f"- covariates: {', '.join(design.columns)}"
        + "".join(f"; without {term}: {reason}" for term, reason in design.dropped.items()),
        f"- smoothing {record.settings['smoothing_mm']:g} mm, clusters beyond |z| {record.settings['cluster_z']:g}",
    ]
    return _chapter("How it was made", lines)


def _behaviour(calibration: dict[str, Any]) -> str:
    lines = [
        "5 % of voxels (or regions) beyond 1.96 and at most 5 % of people FDR-positive are right where nothing is wrong.",
        "Held out: each control judged without itself. Test: controls who took no part.",
        "",
        "| channel | held out: people | beyond 1.96 | FDR-positive | test: people | beyond 1.96 | FDR-positive |",
        "|---|---|---|---|---|---|---|",
    ]
    for channel, record in calibration.items():
        cells = [channel]
        for part in ("calibration_held_out", "test"):
            figures = record.get(part, {"num_people": 0})
            num = figures["num_people"]
            shares = [figures[name] for name in ("share_beyond_1.96", "share_people_fdr_positive")] if num else []
            cells += [str(num), *(spell.percent(share) for share in shares), *([""] * (2 - len(shares)))]
        lines.append(f"| {' | '.join(cells)} |")
    return _chapter("Where nothing is wrong", lines)


def _curves(folder: Path, calibration: dict[str, Any]) -> str:
    """What healthy people of three ages have, and how age enters; "" without curves."""
    if not (folder / CURVES.file).is_file():
        return ""
    lines = [f"![Normative curves]({CURVES_PNG})", "", *curve_lines(CURVES.read(folder)), ""]
    for channel, record in calibration.items():
        effects = record["age_effects"]
        slope = effects["log_variance_per_decade"]
        if slope:
            lines.append(
                f"- {channel}: the residual SD changes by {spell.percent(math.expm1(slope / 2))} per decade of age"
            )
    return _chapter("Normative curves", lines)


def _limits(record: NormRecord) -> str:
    low, high = record.covariates.age_range_years
    lines = [
        "- Scans of other sites get no map. Add a site from its own controls: `gen3d norm adapt=... prepared=...`.",
        f"- Ages outside {low:.0f} to {high:.0f} years are judged by extrapolation, and flagged." if low == low else "",
        f"- The smallest p of one person by ranks is 1/{record.covariates.num_people + 1}.",
        "- A region's value is its volume only where regions.tsv of maps says so (`r_label`).",
    ]
    return _chapter("What it cannot do", list(filter(None, lines)))


def _privacy(record: NormRecord) -> str:
    smallest = int(min(record.covariates.num))
    kept = any(
        "groups" in part for parts in record.channels.values() for part in parts.values() if isinstance(part, dict)
    )
    scores = (
        "Scores of controls (|z| by region, cluster mass) are kept for groups of five."
        if record.anonymous
        else "Scores of controls (|z| by region, cluster mass) are kept one by one, sorted, so that none belongs to a person."
    )
    few = (
        ", and sums of one or a few people are nearly their maps: keep such a norm to yourself, or use anonymous=true."
    )
    sums = (
        f"Sums over people are kept by site; the smallest group has {spell.people(smallest)}{few if smallest < 5 else '.'}"
        if kept
        else "Sums over people are not kept, so this norm cannot be merged."
    )
    lines = [
        "- No image and no id is in the folder. seen.json holds hashes of ids and scans: who knows an id or has a scan can find "
        "out whether that person is in the norm.",
        f"- {scores}",
        f"- {sums}",
        "- Two norms that differ by one person tell that person's map by their difference.",
    ]
    return _chapter("What it tells of a person", lines)


def _terms(licence: str, contact: str) -> str:
    return _chapter(
        "Terms",
        [f"- licence of the controls' scans: {licence or NOT_GIVEN}", f"- contact: {contact or NOT_GIVEN}"],
    )


def _chapter(title: str, lines: list[str]) -> str:
    return f"## {title}\n\n" + "\n".join(lines) + "\n"
