"""Ages at later visits from the dates of the scans, and what ages, dates, sessions and diagnoses say against each other.

A date stands in a column of the table (or of sessions.tsv), or as `acq_time` in BIDS's scans.tsv. Dates that were shifted to hide
the true ones serve as well, if all of a person's were shifted by the same: only the time between them is used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.session_order import ranks_of
from gen3d.cohort.visits import refuse_backward_diagnoses, visits_of
from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.prepare.columns import MISSING, Columns
from gen3d.prepare.standard import AbsentColumn

DATE_NAMES = ("acq_time", "scan_date", "acquisition_date", "exam_date", "visit_date", "date")
SCANS = "_scans.tsv"
DAYS_PER_YEAR = 365.25
ROUNDED_YEARS = 1.01  # whole years, as ages often are, differ by at most this from the time between two dates
CONTRADICTION_YEARS = 1.5  # beyond what rounding explains
Dates = NDArray[np.float64]
"""Days of each scan, NaN where no date is known."""


def with_ages_of_visits(frame: pd.DataFrame, columns: Columns, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows with ages at later visits filled in where dates tell them, and sentences on what was done.

    An age is filled in that is missing; and where a person's ages are all equal (one row for all visits), or all are whole years
    that agree with the dates, the first visit keeps its age and the others get the time between the dates added.

    Args:
        frame: rows of one source: subject, session, age_years, source (the scan's path), and further columns of its tables.
        columns: the user's names.
        path: of the source, for sentences.

    Raises:
        UserError: a column of dates was named that is not there.
    """
    repeated = frame["subject"].duplicated(keep=False)
    texts = _texts(frame, columns, path)
    if not repeated.any():
        return frame, []
    notes: list[str] = []
    bare = repeated & (texts == "")
    texts = texts.mask(bare, frame[bare]["source"].map(lambda scan: _in_scans_table(Path(str(scan)), notes)))
    days = _days(texts)
    unread = sorted({text for text, day in zip(texts[repeated], days[repeated], strict=True) if text and np.isnan(day)})
    if unread:
        notes.append(f"{path}: dates like {unread[0]} are not read; write them as 2015-03-28")
    ages = frame["age_years"].to_numpy(float).copy()
    filled, spread, astray, turned = 0, 0, list[str](), list[str]()
    for subject, rows in frame[repeated].groupby("subject", sort=False).groups.items():
        places = frame.index.get_indexer(rows)
        before, ages[places] = ages[places].copy(), ages_by_dates(ages[places], days[places])
        filled += int((np.isnan(before) & np.isfinite(ages[places])).sum())
        spread += int((np.isfinite(before) & (ages[places] != before)).sum())
        if _disagree(ages[places], days[places]):
            astray.append(str(subject))
        if _against_names(frame["session"].iloc[places].tolist(), days[places]):
            turned.append(str(subject))
    sentences = {
        f"{words.count(filled, 'age')} filled in from the dates of the scans": filled,
        f"{words.count(spread, 'age')} of later visits made exact by the dates of the scans; an age given once for all visits, or "
        "in whole years, is taken for that of the first one": spread,
        f"the ages of {_named(astray)} do not go with the dates of the scans; correct one of the two": len(astray),
        f"the dates of {_named(turned)} go against the order of the sessions by their names; correct one of the two": len(
            turned
        ),
    }
    notes += [f"{path}: {sentence}" for sentence, count in sentences.items() if count]
    return frame.assign(age_years=ages), notes


def ages_by_dates(ages: NDArray[np.float64], days: Dates) -> NDArray[np.float64]:
    """One person's ages [n] in years as the dates [n] (days) tell them, see `with_ages_of_visits`."""
    dated = np.isfinite(days)
    known = dated & np.isfinite(ages)
    if not known.any():
        return ages
    first = int(np.flatnonzero(known)[np.argmin(days[known])])
    expected = (ages[first] + (days - days[first]) / DAYS_PER_YEAR).round(4)
    given = ages[known]
    equal = np.ptp(given) == 0 and known.sum() > 1
    whole = (given == np.round(given)).all() and (np.abs(expected - ages)[known] <= ROUNDED_YEARS).all()
    return np.where(dated & (np.isnan(ages) | equal | whole), expected, ages)


def doubts_about_visits(frame: pd.DataFrame) -> list[str]:
    """Sentences on visits whose order, ages or diagnoses go against each other; the cohort is prepared all the same."""
    if not frame["subject"].duplicated().any():
        return []
    try:
        visits = visits_of(frame)
        refuse_backward_diagnoses(visits)
    except UserError as error:
        return [f"visits: {error} Until then, what compares visits refuses this cohort."]
    return []


def _named(subjects: list[str]) -> str:
    """The first of them, and how many others."""
    return "".join(subjects[:1]) + (f" and {len(subjects) - 1} others" if len(subjects) > 1 else "")


def _against_names(sessions: list[str], days: Dates) -> bool:
    """Whether a session that comes later by its name has an earlier date."""
    dated = np.flatnonzero(np.isfinite(days))
    ranks = ranks_of([sessions[place] for place in dated]) or []
    by_name = sorted(range(len(ranks)), key=lambda place: ranks[place])
    return bool((np.diff(days[dated][by_name]) < 0).any()) if len(by_name) > 1 else False


def _disagree(ages: NDArray[np.float64], days: Dates) -> bool:
    """Whether time passed otherwise by the ages than by the dates."""
    known = np.isfinite(ages) & np.isfinite(days)
    if known.sum() < 2:
        return False
    births = ages[known] - days[known] / DAYS_PER_YEAR
    return float(np.ptp(births)) > CONTRADICTION_YEARS


def _texts(frame: pd.DataFrame, columns: Columns, path: Path) -> pd.Series:
    """The date of every row as it is written, "" where there is none."""
    there = {str(name).lower(): str(name) for name in frame.columns}
    if columns.date is not None and columns.date.lower() not in there:
        raise AbsentColumn(
            f"{path}: no column `{columns.date}` for columns.date; the columns are {', '.join(sorted(there))}.", "date"
        )
    usual = next((there[name] for name in DATE_NAMES if name in there), None)
    name = usual if columns.date is None else there[columns.date.lower()]
    if name is None:
        return pd.Series("", index=frame.index, dtype=object)
    cells = frame[name].astype(object).where(frame[name].notna(), "").astype(str).str.strip()
    return cells.where(~cells.str.lower().isin(MISSING), "")


def _days(texts: pd.Series) -> Dates:
    """Days since 1970 of dates as ISO 8601 writes them, with or without time; NaN for any other text."""
    plain = texts.str.extract(r"^(\d{4}-\d{2}-\d{2}|\d{8})(?:[T ].*)?$", expand=False).str.replace("-", "")
    dates = pd.to_datetime(plain, format="%Y%m%d", errors="coerce")
    days = (dates - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
    return np.asarray(days, dtype=np.float64)


def _in_scans_table(scan: Path, notes: list[str]) -> str:
    """The `acq_time` that BIDS's scans.tsv gives to a scan, "" where none does."""
    for folder in (scan.parent.parent, scan.parent):
        for path in sorted(folder.glob(f"*{SCANS}")):
            try:
                table = read_user_table(path, may_be_empty=True)
            except UserError as error:
                notes.append(f"not read: {error}")
                continue
            if {"filename", "acq_time"} <= set(table.columns):
                named = [str(name).rsplit("/", 1)[-1] == scan.name for name in table["filename"]]
                found = [text for text in table.loc[named, "acq_time"] if text.lower() not in MISSING]
                if found:
                    return str(found[0])
    return ""
