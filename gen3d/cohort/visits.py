"""The visits of people who came more than once: their order, the years between them, and what must not be.

Every capability that compares visits (change, forecasts) asks here, so that none of them believes a table that contradicts itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.manifest import is_synthetic, is_twin
from gen3d.cohort.session_order import in_order, ranks_of, refuse_unknown
from gen3d.core.errors import UserError

STAGES = (
    ("control", "cn", "nc", "hc", "healthy", "normal"),
    ("smc", "scd"),
    ("mci", "emci", "lmci"),
    ("ad", "dementia"),
)
"""Diagnoses of the Alzheimer continuum, in the order in which a person goes through them."""

PAIR_COLUMNS = ("subject", "key_1", "key_2", "session_1", "session_2", "years", "same_scanner", "diagnosis")


def visits_of(table: pd.DataFrame) -> pd.DataFrame:
    """The scans of people with two visits or more, in the order of time.

    Args:
        table: a row per scan: key, subject, session, age_years; planted twins, synthetic and excluded scans are left out.

    Returns:
        the rows of `table`, with `visit` (0 is the first) and `years` since the first visit; a person's rows stand together.

    Raises:
        UserError: nobody came twice; a person with two visits has no age at one of them, or the same at both; the ages go
            against the order of the sessions.
    """
    scans = table[~is_twin(table) & ~is_synthetic(table)]
    if "role" in scans:
        scans = scans[scans["role"] != "excluded"]
    counts = scans["subject"].astype(str).map(scans["subject"].astype(str).value_counts())
    repeated = scans[counts > 1]
    if repeated.empty:
        raise UserError(
            "no person has two visits, so there is no change to learn from or to measure; prepare follow-up scans with the same "
            "subject and another session."
        )
    parts = []
    for subject, rows in repeated.groupby("subject", sort=False):
        places, known = in_order(rows)
        refuse_unknown(rows, [] if known else [str(subject)], "")
        ordered = rows.iloc[places]
        ages = pd.to_numeric(ordered["age_years"], errors="coerce").to_numpy(float)
        _require_ages(str(subject), ordered, ages)
        parts.append(ordered.assign(visit=np.arange(len(ordered)), years=np.round(ages - ages[0], 4)))
    return pd.concat(parts, ignore_index=True)


def pairs_of(visits: pd.DataFrame, every: bool = True) -> pd.DataFrame:
    """Pairs of visits, the earlier first, with columns PAIR_COLUMNS.

    Args:
        visits: rows of `visits_of`.
        every: every pair of a person's visits; else each later visit with the first.

    `same_scanner` is whether both have the same site (True where no site is known); `diagnosis` is that of the earlier visit.
    """
    rows = []
    for subject, scans in visits.groupby("subject", sort=False):
        listed = scans.to_dict("records")
        for j, later in enumerate(listed):
            for earlier in listed[:j] if every else listed[: min(j, 1)]:
                rows.append(
                    (
                        str(subject), earlier["key"], later["key"], earlier["session"], later["session"],
                        round(float(later["years"] - earlier["years"]), 4),
                        _site(earlier) == _site(later), _text(earlier.get("diagnosis")),
                    )
                )  # fmt: skip
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def refuse_backward_diagnoses(visits: pd.DataFrame) -> None:
    """Stop where the diagnosis of a person goes back along the Alzheimer continuum from one visit to the next.

    Raises:
        UserError: naming the person and both diagnoses.
    """
    if "diagnosis" not in visits:
        return
    wrong = []
    for subject, scans in visits.groupby("subject", sort=False):
        named = [(name, stage_of(name)) for name in map(_text, scans["diagnosis"])]
        known = [(name, stage) for name, stage in named if stage is not None]  # one that is missing hides nothing
        for (earlier, first), (later, second) in pairwise(known):
            if second < first:
                wrong.append(f"{subject} ({earlier}, then {later})")
                break
    if wrong:
        more = f" and of {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise UserError(
            f"the diagnosis of {wrong[0]}{more} goes backwards from one visit to the next; correct the column diagnosis, or leave "
            "the person out (role excluded)."
        )


def stage_of(diagnosis: str, stages: Sequence[Sequence[str]] = STAGES) -> int | None:
    """The place of a diagnosis on the continuum; None for one that is not on it."""
    name = diagnosis.strip().lower()
    return next((place for place, names in enumerate(stages) if name in names), None)


def _require_ages(subject: str, scans: pd.DataFrame, ages: np.ndarray) -> None:
    sessions = [str(session) for session in scans["session"]]
    if not np.isfinite(ages).all():
        lacking = sessions[int(np.flatnonzero(~np.isfinite(ages))[0])]
        raise UserError(
            f"{subject} has no age at session {lacking}, so the time between the visits is not known; fill in age_years at every "
            "visit (with decimals)."
        )
    ranks = ranks_of(sessions)
    for i in range(len(ages) - 1):
        if ranks is not None and ranks[i + 1] < ranks[i]:
            raise UserError(
                f"{subject} was older at session {sessions[i + 1]} ({ages[i + 1]:g} years) than at session {sessions[i]} "
                f"({ages[i]:g} years), although {sessions[i + 1]} comes first by its name; correct age_years or the sessions."
            )
        if ages[i + 1] == ages[i]:
            raise UserError(
                f"{subject} has the same age ({ages[i]:g} years) at the sessions {sessions[i]} and {sessions[i + 1]}, so the time "
                "between them is not known; give ages with decimals, or leave one scan out."
            )


def _site(row: Mapping[Any, object]) -> str:
    return _text(row.get("site"))


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)
