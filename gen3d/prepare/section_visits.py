"""The part of the cohort's section on people who came more than once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.manifest import is_synthetic, is_twin
from gen3d.cohort.session_order import in_order
from gen3d.core import words
from gen3d.figures.blocks import Heading, Table, Text

HEAD = (
    "Visits",
    "People",
    "Years, first to last visit",
    "Years between visits",
    "Other diagnosis later",
    "Other site later",
)


def visits(used: pd.DataFrame) -> tuple[list[Any], list[dict[str, Any]]]:
    """A sentence and a table on repeated visits, and the table's figures; nothing where everybody came once.

    Args:
        used: rows of scans that are not excluded; planted twins and synthetic scans do not count.
    """
    scans = used[~is_twin(used) & ~is_synthetic(used)]
    people = [_person(rows) for _, rows in scans.groupby("subject", sort=False) if len(rows) > 1]
    if not people:
        return [], []
    frame = pd.DataFrame(people)
    rows = [_row(str(number), part) for number, part in frame.groupby("visits")]
    rows += [_row("all", frame)] if len(rows) > 1 else []
    number = scans["subject"].nunique()
    text = f"{words.people(len(frame))} of {number} came more than once"
    whole = frame["whole"].dropna()
    if len(whole):
        text += f", over {_span(whole)} years"
    unknown = len(frame) - len(whole)
    if unknown:
        text += f"; of {words.people(unknown)} the time between the visits is not known, for want of ages"
    caption = (
        "People by the number of their visits: median and range of the years between them, by the ages at the scans, and how many "
        "had another diagnosis or were scanned at another site at a later visit."
    )
    cells = [
        [
            str(row["visits"]),
            str(row["num_people"]),
            _told(row["years"]),
            _told(row["years_between"]),
            str(row["num_other_diagnosis"]),
            str(row["num_other_site"]),
        ]
        for row in rows
    ]
    return [Heading("Visits"), Text(f"{text}."), Table(caption, list(HEAD), cells, "lrrrrr")], rows


def _person(rows: pd.DataFrame) -> dict[str, Any]:
    """One person: visits, years in all, years between neighbours, whether diagnosis or site differ from the first visit's."""
    scans = rows.iloc[in_order(rows)[0]]
    ages = scans["age_years"].to_numpy(float)
    known = bool(np.isfinite(ages).all())
    return {
        "visits": len(scans),
        "whole": float(ages[-1] - ages[0]) if known else np.nan,
        "between": np.diff(ages).tolist() if known else [],
        "diagnosis": bool((scans["diagnosis"] != scans["diagnosis"].iloc[0]).any()),
        "site": bool((scans["site"] != scans["site"].iloc[0]).any()),
    }


def _row(visits: str, part: pd.DataFrame) -> dict[str, Any]:
    between = [years for person in part["between"] for years in person]
    return {
        "visits": visits,
        "num_people": len(part),
        "years": _summary(part["whole"].dropna().tolist()),
        "years_between": _summary(between),
        "num_other_diagnosis": int(part["diagnosis"].sum()),
        "num_other_site": int(part["site"].sum()),
    }


def _summary(values: list[float]) -> list[float] | None:
    """Median, smallest and largest."""
    return [float(np.median(values)), float(min(values)), float(max(values))] if values else None


def _told(summary: list[float] | None) -> str:
    if summary is None:
        return words.NONE
    median, low, high = (words.number(value, 1) for value in summary)
    return f"{median} ({low} to {high})"


def _span(years: pd.Series) -> str:
    low, high = words.number(float(years.min()), 1), words.number(float(years.max()), 1)
    return low if low == high else f"{low} to {high}"
