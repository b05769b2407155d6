"""Whose future is forecast: the scans it starts from, the visits before them, and the members that never saw the person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from gen3d.cohort.manifest import is_synthetic, is_twin
from gen3d.cohort.seen import PersonHashes, identities, named
from gen3d.cohort.visits import refuse_backward_diagnoses, visits_of
from gen3d.core.errors import UserError

Sessions = Literal["last", "every"]


@dataclass(frozen=True)
class Start:
    """A scan whose future is forecast.

    Attributes:
        key, subject, session, age_years: of the scan.
        keys: of the person's visits up to this one, oldest first.
        years: of these visits relative to this one, [V]; the last is 0.
        members: that forecast it.
        pictured: whether its pictures are drawn.
    """

    key: str
    subject: str
    session: str
    age_years: float
    keys: tuple[str, ...]
    years: tuple[float, ...]
    members: tuple[int, ...]
    pictured: bool = False


def chosen_members(blind: Sequence[int], num: int, person: PersonHashes) -> tuple[int, ...]:
    """So many of the members that never saw a person, chosen by the person's hash: as many as forecast everybody else."""
    if len(blind) <= num:
        return tuple(blind)
    first = int(person[0], 16) % len(blind)
    return tuple(sorted([*blind[first:], *blind[:first]][:num]))


def starts(
    table: pd.DataFrame,
    judges: Callable[[PersonHashes], Sequence[int]],
    num_members: int,
    sessions: Sessions,
    subjects: Sequence[str],
    where: Path,
) -> tuple[list[Start], list[str]]:
    """The scans to start from, person by person, and the people left out because every member saw them.

    Args:
        table: a row per scan of the prepared folders.
        judges: members that never saw a person.
        num_members: that forecast each person.
        sessions: the last visit of everybody, or every visit.
        subjects: people who are wanted; none: all.
        where: the run, for sentences.

    Raises:
        UserError: a subject that there is not or whom every member saw; nobody left; visits that contradict each other.
    """
    used = table[(table["role"] != "excluded") & ~is_twin(table) & ~is_synthetic(table)].reset_index(drop=True)
    used = used.assign(subject=used["subject"].astype(str))
    persons = dict(zip(used["subject"], identities(used), strict=True))
    absent = [name for name in subjects if name not in persons]
    if absent:
        raise UserError(
            f"subjects: there is no scan of {named(absent)} that was not excluded; name people of prepared=."
        )
    if subjects:
        used = used[used["subject"].isin(list(subjects))].reset_index(drop=True)
    members = {name: chosen_members(judges(persons[name]), num_members, persons[name]) for name in used["subject"]}
    left_out = sorted(name for name, chosen in members.items() if not chosen)
    if subjects and left_out:
        raise UserError(
            f"subjects: every member of {where} saw {named(left_out)}, so no forecast of theirs would be honest."
        )
    ready = used[~used["subject"].isin(left_out)].reset_index(drop=True)
    if ready.empty:
        reason = (
            f"every member of {where} saw all {len(left_out)} people" if left_out else "no scan of a person is left"
        )
        raise UserError(
            f"{reason}, so there is nobody to forecast; train with cross_fit=5, or give people it never saw."
        )
    found: list[Start] = []
    for subject, visits in ordered_visits(ready):
        for place in range(len(visits)) if sessions == "every" else (len(visits) - 1,):
            row, past = visits.iloc[place], visits.iloc[: place + 1]
            found.append(
                Start(
                    key=str(row["key"]),
                    subject=subject,
                    session=str(row["session"]),
                    age_years=float(row["age_years"]),
                    keys=tuple(past["key"].astype(str)),
                    years=tuple(round(float(year - row["years"]), 4) for year in past["years"]),
                    members=members[subject],
                )
            )
    return found, left_out


def ordered_visits(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each person's visits in the order of time with `years` since the first, in the order of the table.

    Raises:
        UserError: as `visits_of`, or a diagnosis that goes backwards.
    """
    counts = table["subject"].map(table["subject"].value_counts())
    several: dict[str, pd.DataFrame] = {}
    if (counts > 1).any():
        visits = visits_of(table[counts > 1])
        refuse_backward_diagnoses(visits)
        several = {str(subject): rows for subject, rows in visits.groupby("subject", sort=False)}
    return [
        (str(subject), several[str(subject)] if len(rows) > 1 else rows.assign(years=0.0))
        for subject, rows in table.groupby("subject", sort=False)
    ]
