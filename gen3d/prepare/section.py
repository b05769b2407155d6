"""Who is in the cohort, and who was excluded and why."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from gen3d.cohort.folder import UNMATCHED, VERDICTS
from gen3d.core import words as spell
from gen3d.figures import charts
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.prepare.section_visits import visits

MAX_PICTURES = 8
PICTURE_WIDTH = 640


@page_section("Cohort", "`gen3d prepare`, `gen3d prepare-slices` or `gen3d simulate`", place=10)
def section(context: Context) -> Section | None:
    """Tables by role, diagnosis and site, ages, and the flow of exclusions with their pictures."""
    if context.prepared is None:
        return None
    frame = context.cohort
    used = frame[frame["role"] != "excluded"]
    overview = _table(used, ["role", "diagnosis"])
    by_site = _table(used, ["role", "diagnosis", "site"])
    verdicts = _verdicts(context)
    blocks: list[Any] = [Text(_sentence(frame, used), "lead")]
    blocks.append(
        _as_block(
            overview,
            "People by role and diagnosis. Models are trained on role train; z scores are calibrated on role calibration. Role "
            "test is used for neither, and shows the results in held-out healthy people. These three roles hold controls "
            "only. A person has one role.",
        )
    )
    blocks += _ages(context, used)
    of_visits, by_visits = visits(used)
    blocks += of_visits
    blocks.append(Details("The same by site", [_as_block(by_site, "People by role, diagnosis and site.")]))
    flow, numbers = _exclusions(frame, verdicts)
    unmatched = _unmatched(context)
    if len(unmatched):
        several = "source" in unmatched and unmatched["source"].nunique() > 1
        columns = ["source", "entry", "remark"] if several else ["entry", "remark"]
        rows = [[str(cell) for cell in cells] for cells in unmatched[columns].to_numpy()]
        table = Table(
            "Table rows without a scan, scans without a table row, and the like.",
            [spell.capital(name) for name in columns],
            rows,
            "nll" if several else "nl",
        )
        flow.append(
            Details(f"{spell.capital(spell.count(len(rows), 'entry', 'entries'))} that do not match up", [table])
        )
        numbers["unmatched"] = rows
    numbers |= {"by_role_and_diagnosis": overview, "by_site": by_site}
    if by_visits:
        numbers["visits"] = by_visits
    return Section("cohort", "Cohort", [*blocks, *flow], numbers)


def _sentence(frame: pd.DataFrame, used: pd.DataFrame) -> str:
    scans, persons = len(used), used["subject"].nunique()
    sites = used["site"].nunique()
    text = f"{spell.people(persons)} with {spell.count(scans, 'scan')} from {spell.count(sites, 'site')}"
    ages = used["age_years"].dropna()
    if len(ages):
        text += f", aged {ages.min():.0f} to {ages.max():.0f} years"
    left_out = len(frame) - scans
    excluded = f"{spell.count(left_out, 'scan')} left out at quality control" if left_out else "no scan was left out"
    return f"{text}; {excluded}."


def _table(frame: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    order = {role: index for index, role in enumerate(wording.ROLES)}
    rows = []
    for values, part in frame.groupby(by, sort=False):
        ages = part["age_years"].dropna()
        rows.append(
            dict(zip(by, (str(value) for value in values), strict=True))
            | {
                "num_people": int(part["subject"].nunique()),
                "num_scans": len(part),
                "age_mean": float(ages.mean()) if len(ages) else None,
                "age_sd": float(ages.std()) if len(ages) > 1 else None,
                "age_min": float(ages.min()) if len(ages) else None,
                "age_max": float(ages.max()) if len(ages) else None,
                "num_women": int((part.drop_duplicates("subject")["sex"] == "F").sum()),
                "num_men": int((part.drop_duplicates("subject")["sex"] == "M").sum()),
            }
        )
    return sorted(rows, key=lambda row: (order.get(row["role"], 9), *[row[name] for name in by[1:]]))


def _as_block(rows: list[dict[str, Any]], caption: str) -> Table:
    with_site = bool(rows) and "site" in rows[0]
    header = [
        "Role",
        "Diagnosis",
        *(["Site"] if with_site else []),
        "People",
        "Scans",
        "Age, mean (SD)",
        "Age range",
        "Women / men",
    ]
    cells = []
    for row in rows:
        age = spell.number(row["age_mean"], 1)
        age += f" ({spell.number(row['age_sd'], 1)})" if row["age_sd"] is not None else ""
        span = f"{row['age_min']:.0f} to {row['age_max']:.0f}" if row["age_min"] is not None else spell.NONE
        cells.append(
            [
                wording.ROLES.get(row["role"], row["role"]),
                wording.group(row["diagnosis"]),
                *([row["site"]] if with_site else []),
                str(row["num_people"]),
                str(row["num_scans"]),
                age,
                span,
                f"{row['num_women']} / {row['num_men']}",
            ]
        )
    return Table(caption, header, cells, "lll" + "rrrrr" if with_site else "ll" + "rrrrr")


def _ages(context: Context, used: pd.DataFrame) -> list[Any]:
    groups = {
        group: used.loc[used["diagnosis"] == group].drop_duplicates("subject")["age_years"].to_numpy(float)
        for group in context.groups
    }
    if not any(np.isfinite(values).any() for values in groups.values()):
        return []
    png, svg = charts.ages(groups, context.colours)
    caption = (
        "Age by diagnosis, in bins of 5 years, all rows to one scale. Controls are grey. Results are uncertain "
        "at ages without controls."
    )
    return [Figure("ages", "Histogram of age for each diagnosis.", caption, png, svg=svg, width_percent=64)]


def _verdicts(context: Context) -> pd.DataFrame:
    prepared = context.prepared
    frames = (
        [VERDICTS.read_if_there(folder).assign(folder=str(folder)) for folder in prepared.folders] if prepared else []
    )
    frames = [frame for frame in frames if len(frame)]
    return (
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["key", "verdict", "reason", "folder"])
    )


def _unmatched(context: Context) -> pd.DataFrame:
    prepared = context.prepared
    frames = [UNMATCHED.read_if_there(folder) for folder in prepared.folders] if prepared else []
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["entry", "remark"])


def _exclusions(frame: pd.DataFrame, verdicts: pd.DataFrame) -> tuple[list[Any], dict[str, Any]]:
    if not len(verdicts):
        return [], {}
    counts = {str(name): int(n) for name, n in verdicts["verdict"].value_counts().items()}
    left_out = verdicts[~verdicts["verdict"].isin(["keep", "warn"])]
    doubtful = verdicts[verdicts["verdict"] == "warn"]
    labels = {"keep": "kept", "warn": "kept with a warning", "exclude": "excluded"}
    parts = [f"{n} {labels.get(name, name)}" for name, n in sorted(counts.items(), key=lambda item: item[0] != "keep")]
    text = f"Of {spell.count(len(verdicts), 'input')}, {spell.listed(parts)}."
    blocks: list[Any] = [Heading("Quality control"), Text(text)]
    if len(left_out):
        blocks += [_reasons(left_out, "Scans that were left out, and why."), *_pictures(left_out, "left out")]
    if len(doubtful):
        inside = [
            _reasons(doubtful, "Scans that were kept with a warning."),
            *_pictures(doubtful, "kept with a warning"),
        ]
        blocks.append(Details(f"{spell.capital(spell.count(len(doubtful), 'scan'))} kept with a warning", inside))
    reasons = left_out[["key", "verdict", "reason"]].astype(str).to_dict("records")
    return blocks, {"verdicts": counts, "left_out": reasons, "num_scans": len(frame)}


def _reasons(verdicts: pd.DataFrame, caption: str) -> Table:
    rows = [[_name(row), str(row["reason"])] for _, row in verdicts.iterrows()]
    return Table(caption, ["Scan", "Reason"], rows, "nl")


def _name(row: pd.Series) -> str:
    return str(row["key"]) if row.get("key") else Path(str(row.get("source", "unnamed"))).name


def _pictures(verdicts: pd.DataFrame, what: str) -> list[Any]:
    figures = []
    for _, row in verdicts.head(MAX_PICTURES).iterrows():
        path = Path(str(row["folder"])) / "figures" / f"{row['key']}.png"
        if row["key"] and path.is_file():
            caption = f"{row['key']}, {what}: {row['reason']}"
            figures.append(
                Figure(
                    f"qc_{row['key']}",
                    f"Quality control picture of {row['key']}.",
                    caption,
                    thumbnail(path),
                    width_percent=48,
                )
            )
    return figures


def thumbnail(path: Path) -> bytes:
    """A PNG at most 640 pixels wide."""
    picture: Image.Image = Image.open(path)
    picture = picture.convert("RGB")
    if picture.width > PICTURE_WIDTH:
        height = round(picture.height * PICTURE_WIDTH / picture.width)
        picture = picture.resize((PICTURE_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
