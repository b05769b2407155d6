"""Which of a person's scans came first: by age, else by the names of the sessions, and not by the alphabet.

Names have an order where all hold numbers in one pattern (`2`, `10`; `M006`, `M012`; months, weeks and years are compared), single
letters, or words whose order is plain (screening, baseline or pre, numbered ones, post or followup). Any other names have none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.errors import UserError

HASH_BEHIND = re.compile(r"x[0-9a-f]{8}$")
"""What stands behind the letters of a session that is not plain; its digits are no number."""

SOONER: tuple[tuple[str, ...], ...] = (
    ("prescreening",),
    ("screening", "screen", "scr", "sc"),
    ("pre", "before", "baseline", "base", "bl", "initial", "init", "start", "test", "scan"),
)
LATER: tuple[tuple[str, ...], ...] = (
    ("during", "mid", "interim"),
    ("post", "after", "followup", "fu", "retest", "rescan"),
    ("final", "last", "end"),
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
DAYS = {
    "d": 1,
    "day": 1,
    "w": 7,
    "wk": 7,
    "week": 7,
    "m": 30.4375,
    "mo": 30.4375,
    "month": 30.4375,
    "y": 365.25,
    "yr": 365.25,
}
DAYS["year"] = DAYS["y"]
BEFORE, NUMBERED, AFTER = 0, 1, 2

Rank = tuple[int, str, tuple[float, ...]]
"""Before, among or after the numbered sessions; the pattern in which numbers can be compared; the numbers."""


def first_scans(table: pd.DataFrame) -> tuple[NDArray[np.bool_], list[str]]:
    """The first scan of every person.

    Args:
        table: a row per scan: subject, session, and age_years where it is known.

    Returns:
        which rows are first scans [n], and the subjects of whom that is not known; theirs is the first by name.
    """
    first = np.zeros(len(table), dtype=bool)
    unknown: list[str] = []
    for subject, rows in table.reset_index(drop=True).groupby("subject", sort=False):
        places, known = in_order(rows)
        first[int(rows.index[places[0]])] = True
        if not known:
            unknown.append(str(subject))
    return first, unknown


def in_order(scans: pd.DataFrame) -> tuple[list[int], bool]:
    """The positions of one person's scans in the order of time, and whether that order is known; else it is that of the names."""
    sessions = [str(session) for session in scans["session"]]
    natural = [
        [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", s)] for s in sessions
    ]
    if len(sessions) < 2:
        return list(range(len(sessions))), True
    ranks = ranks_of(sessions)
    given = scans["age_years"] if "age_years" in scans else pd.Series(np.nan, index=scans.index)
    ages = pd.to_numeric(given, errors="coerce").to_numpy(float)
    if np.isfinite(ages).all() and (ranks is not None or len(set(ages)) == len(ages)):
        return sorted(range(len(ages)), key=lambda i: (ages[i], ranks[i] if ranks else 0)), True
    if ranks is not None:
        return sorted(range(len(ranks)), key=lambda i: ranks[i]), True
    return sorted(range(len(natural)), key=lambda i: natural[i]), False


def refuse_unknown(table: pd.DataFrame, unknown: Sequence[str], remedy: str) -> None:
    """Stop where it is not known which session came first.

    Raises:
        UserError: naming one person's sessions.
    """
    if unknown:
        sessions = ", ".join(map(str, table.loc[table["subject"].astype(str) == unknown[0], "session"]))
        more = f", and of {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise UserError(
            f"which of the sessions {sessions} of {unknown[0]}{more} came first is not known, neither by age nor by "
            f"name; give the age at every scan, or names with numbers, baseline and followup, or pre and post{remedy}."
        )


def ranks_of(sessions: Sequence[str]) -> list[Rank] | None:
    """A sort key per session, None where the names have no order."""
    ranks = [_rank(session) for session in sessions]
    known = [rank for rank in ranks if rank is not None]
    patterns = {rank[1] for rank in known if rank[0] == NUMBERED}
    if len(known) < len(ranks) or len(patterns) > 1 or len(set(known)) < len(known):
        return None
    return known


def _rank(session: str) -> Rank | None:
    text = HASH_BEHIND.sub("", session).lower()
    word, number = re.sub(r"\d", "", text), tuple(float(part) for part in re.findall(r"\d+", text))
    for place, words in ((BEFORE, SOONER), (AFTER, LATER)):
        for order, alike in enumerate(words):
            if word in alike:
                return place, "", (order, *number)
    if word in ORDINALS and not number:
        return NUMBERED, "", (float(ORDINALS.index(word) + 1),)
    if len(number) == 1 and word.removesuffix("s") in DAYS:
        return NUMBERED, "days", (number[0] * DAYS[word.removesuffix("s")],)
    if number:
        return NUMBERED, re.sub(r"\d+", "#", text).removeprefix("#") or "", number
    return (NUMBERED, "letter", (float(ord(text)),)) if len(text) == 1 and text.isalpha() else None
