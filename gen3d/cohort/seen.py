"""No person is tested by a model trained on them: who each model saw (`SeenBy`), and what a verb does about it (`Guard`).

A person is known by the id and by the content of the scans, so somebody who comes back under another id is recognised.
Every verb that tests or scores people uses this module; `tests/contracts/test_seen.py` lists them. Two rules complement it: a
person has one role (`manifest.check_split`), and two ids of one person are found by their scans (`cohort.duplicates`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import SCAN_HASH, SOURCE_SUBJECT, subject_hash
from gen3d.cohort.scan_hash import PREFIX
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object

SeenPolicy = Literal["refuse", "leave_out", "train_only", "waive"]
"""What to do with people who were seen: stop; neither test nor train on them; train on them only; test them anyway."""

LeaveOutPolicy = Literal["refuse", "leave_out"]
"""The same for verbs that train nothing."""

MOST_NAMED = 5
TRAINING = "its training"
WAYS_OUT: dict[str, str] = {
    "leave_out": "set seen=leave_out to exclude them",
    "train_only": "set seen=train_only to train on them and test the others",
    "waive": "set seen=waive to test them anyway and record the waiver",
}

PersonHashes = tuple[str, ...]
"""Hashes that identify a person, that of the id first; the person was seen if any of the hashes was."""

FORMER = "formerly "
"""In front of the hash of an id as earlier versions made it; it counts only in their records, which hold no scans."""

ANOTHER_ID = "the same scan under another id"
OTHER_PEOPLE = "if they are other people with the same ids, prepare them as a named source (source={NAME: FOLDER})"


def identity_of(subject: str, *further: str) -> PersonHashes:
    """The hashes that identify a person: of the id, and further ones, such as that of a scan's content."""
    return (subject_hash(str(subject)), *further)


def identities(table: pd.DataFrame) -> list[PersonHashes]:
    """The identity of the person of each row of a cohort table, [n]: the id, and the contents of all scans of the person there."""
    subjects = table["subject"].astype(str)
    known: dict[str, dict[str, None]] = {subject: {} for subject in subjects}
    for subject, content in zip(subjects, _words(table, SCAN_HASH), strict=True):
        if content:
            known[subject][content] = None
    rows = zip(subjects, _words(table, SOURCE_SUBJECT), _words(table, "site"), strict=True)
    for subject, original, site in rows if SOURCE_SUBJECT in table.columns else ():
        former = re.sub(r"[^A-Za-z0-9]", "", original.removeprefix("sub-"))
        for name in (former, re.sub(r"[^A-Za-z0-9]", "", site) + former):
            if former and name != subject:
                known[subject][FORMER + subject_hash(name)] = None
    made = {subject: identity_of(subject, *further) for subject, further in known.items()}
    return [made[subject] for subject in subjects]


def _words(table: pd.DataFrame, column: str) -> list[str]:
    if column not in table.columns:
        return [""] * len(table)
    cells = table[column].astype(object)
    return [str(cell).strip() for cell in cells.where(cells.notna(), "")]


def recorded(table: pd.DataFrame, what: str | Sequence[str]) -> dict[str, str]:
    """The people of these rows as a record of a model holds them: every hash -> `what` saw or used them, one for all or per row."""
    whats = [what] * len(table) if isinstance(what, str) else what
    rows = zip(identities(table), whats, strict=True)
    return {name: str(role) for person, role in rows for name in person if not name.startswith(FORMER)}


@dataclass(frozen=True)
class SeenBy:
    """Who each member of a model, or a model before it, was trained on: hash -> role (`train`) or description (`vae (train)`).

    subjects.json of a run and seen.json of latents hold one. Hashes are of ids, and those with a `v` in front of scans.
    """

    members: tuple[Mapping[str, str], ...]

    @classmethod
    def of(cls, record: Mapping[str, Mapping[str, str]]) -> SeenBy:
        """From `record()`: number of the member -> hash -> role.

        Raises:
            ValueError, TypeError, AttributeError: another kind of record.
        """
        if {str(number) for number in range(len(record))} != set(record):
            raise ValueError("members are numbered from 0")
        members = [record[str(number)] for number in range(len(record))]
        if not all(isinstance(role, str) for people in members for role in people.values()):
            raise ValueError("a role that is no text")
        return cls(tuple({str(person): str(role) for person, role in people.items()} for people in members))

    @classmethod
    def people(cls, subjects: Iterable[str], what: str) -> SeenBy:
        """One member that saw these subjects, known by their ids alone."""
        return cls(({person: what for subject in subjects for person in identity_of(subject)},))

    @classmethod
    def rows(cls, table: pd.DataFrame, what: str | Sequence[str]) -> SeenBy:
        """One member that saw the people of these rows of a cohort table."""
        return cls((recorded(table, what),))

    @classmethod
    def read(cls, path: Path, remedy: str) -> SeenBy:
        """From a file that holds `record()`.

        Args:
            path: of the file.
            remedy: what to do where it is damaged: `encode again`.

        Raises:
            UserError: missing or damaged.
        """
        try:
            seen = cls.of(load_object(path))
            if not seen.members:
                raise ValueError("it names no member")
            return seen
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: missing or damaged ({error}); {remedy}.") from None

    def record(self) -> dict[str, dict[str, str]]:
        """As files hold it."""
        return {str(number): dict(people) for number, people in enumerate(self.members)}

    @property
    def subjects(self) -> list[dict[str, str]]:
        """Of each member, the hash of the id -> role: one entry per person."""
        return [{name: role for name, role in people.items() if not _is_scan(name)} for people in self.members]

    @property
    def roles(self) -> list[str]:
        """The roles of everybody, member by member."""
        return [role for people in self.members for role in people.values()]

    @cached_property
    def ids_only(self) -> tuple[bool, ...]:
        """Whether a member's record holds people's ids and no scan, as those of earlier versions do."""
        return tuple(bool(people) and not any(map(_is_scan, people)) for people in self.members)

    def remark(self, table: pd.DataFrame, what: str) -> str:
        """A sentence without a full stop where only ids can be recognised though the table has the scans' hashes, else ""."""
        if not any(self.ids_only) or not any(_words(table, SCAN_HASH)):
            return ""
        return (
            f"{what} recorded the ids of its training people but not their scans, so somebody who has another id here is not "
            "recognised"
        )

    def namesakes(self, table: pd.DataFrame) -> list[str]:
        """Subjects whose id was seen and none of whose scans was, though scans are on record: others of that id, or new scans."""
        on_record = {name for people in self.members for name in people}
        known = dict.fromkeys(
            str(subject)
            for subject, person in zip(table["subject"], identities(table), strict=True)
            if person[0] in on_record and any(map(_is_scan, person)) and on_record.isdisjoint(person[1:])
        )
        return [] if all(self.ids_only) else list(known)

    def _hits(self, index: int, person: PersonHashes) -> list[str]:
        """Names under which a member knows a person."""
        people = self.members[index]
        former = (
            [name.removeprefix(FORMER) for name in person if name.startswith(FORMER)] if self.ids_only[index] else []
        )
        return [name for name in (*person, *former) if name in people]

    def saw(self, person: PersonHashes) -> list[int]:
        """Members that were trained on a person."""
        return [index for index in range(len(self.members)) if self._hits(index, person)]

    def blind_to(self, person: PersonHashes) -> list[int]:
        """Members that never saw a person."""
        saw = self.saw(person)
        return [index for index in range(len(self.members)) if index not in saw]

    def judges(self, person: PersonHashes) -> list[int]:
        """The members that score a person: everyone is scored by as many blind members as a calibration person has.

        A calibration person of a cross-fitted family has one blind member, an outsider has all of them. Averaging several
        members would shrink the residuals of outsiders only, and make them look healthier than the calibration people. So
        one member is chosen for them, by the person's hash.
        """
        blind = self.blind_to(person)
        if len(blind) <= self._num_judges:
            return blind
        first = int(person[0], 16) % len(blind)
        return sorted((blind[first:] + blind[:first])[: self._num_judges])

    @cached_property
    def _num_judges(self) -> int:
        """Fewest members, above 0, that are blind to a person seen by another member; all members if there is no such person."""
        everybody = {person for people in self.subjects for person in people}
        counts = [sum(person not in people for people in self.members) for person in everybody]
        return min((count for count in counts if count), default=len(self.members))

    def blind(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether a member never saw the person of a row, [members, n]."""
        blind = np.ones((len(self.members), len(table)), dtype=bool)
        for row, person in enumerate(identities(table)):
            blind[self.saw(person), row] = False
        return blind

    def by_any(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether some member saw the person of a row, [n]."""
        return np.asarray(~self.blind(table).all(axis=0))

    def by_all(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether every member saw the person of a row, so that none can score them, [n]."""
        return np.asarray(~self.blind(table).any(axis=0))

    def reason(self, person: PersonHashes) -> str:
        """What saw a person, "" where nothing did; and that it did so under another id."""
        for index in reversed(range(len(self.members))):
            if names := self._hits(index, person):
                role = self.members[index][names[0]]
                return f"{role}, {ANOTHER_ID}" if _is_scan(names[0]) else role
        return ""

    def seen_by(self, table: pd.DataFrame) -> list[str]:
        """What saw the person of each row, "" where a member never did, [n]."""
        people = identities(table)
        return ["" if self.blind_to(person) else self.reason(person) or TRAINING for person in people]

    def of_kind(self, what: str) -> SeenBy:
        """The same with the model in front of each role: `vae (train)`."""
        return SeenBy(tuple({person: f"{what} ({role})" for person, role in people.items()} for people in self.members))

    def joined(self, others: Mapping[str, str]) -> SeenBy:
        """With further people in every member; people already there were seen by both."""
        return SeenBy(tuple(_joined(people, others) for people in self.members))


def _is_scan(name: str) -> bool:
    return name.startswith(PREFIX)


def _joined(people: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    union = dict(people)
    for person, what in others.items():
        parts = [part for both in (union.get(person, ""), what) for part in both.split(", ") if part]
        union[person] = ", ".join(dict.fromkeys(parts))
    return union


@dataclass(frozen=True)
class Cleared:
    """The rows that may be tested and those that may be trained on, [n] each, with the notes for the report."""

    testable: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    num_seen: int
    notes: tuple[str, ...] = ()
    waivers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guard:
    """What a verb uses people for, as phrases of its sentences.

    Attributes:
        witness: what must not have seen them: `the generator`.
        harm: what would be wrong with results for people that it saw: `a test of them would be too good`.
        remedy: what to do other than to choose another policy.
        policies: that the verb offers.
        where: folder that the sentence begins with, "" for none.
    """

    witness: str
    harm: str
    remedy: str
    policies: tuple[str, ...] = ("leave_out",)
    where: str = ""

    def sentence(self, table: pd.DataFrame, seen_by: Sequence[str]) -> str:
        """Who was seen by what, without a full stop."""
        people = table["subject"].astype(str)
        subjects = list(dict.fromkeys(people[np.array(seen_by, dtype=object) != ""]))
        what = ", ".join(sorted(set(seen_by) - {""}))
        begin = f"{self.where}: " if self.where else ""
        people_seen = f"{len(subjects)} of {people.nunique()} people ({named(subjects)})"
        return f"{begin}{people_seen} were seen by {self.witness} ({what})"

    def clear(self, table: pd.DataFrame, seen_by: Sequence[str], policy: SeenPolicy) -> Cleared:
        """Apply the policy.

        Args:
            table: rows of the people to be used.
            seen_by: what saw the person of each row, "" where nothing did, [n].
            policy: towards those who were seen.

        Raises:
            UserError: with refuse, naming the people and what saw them; or when nobody is left.
        """
        seen = np.array([bool(what) for what in seen_by], dtype=bool)
        everybody = np.ones(len(table), dtype=bool)
        if not seen.any():
            return Cleared(everybody, everybody, 0)
        what, num = self.sentence(table, seen_by), int(table.loc[seen, "subject"].nunique())
        if policy == "waive":
            return Cleared(everybody, everybody, num, (), (f"{what}, and are tested anyway: figures may be too good",))
        # Known by the scan, they are who they seem; known by the id, they may be others.
        others = "" if all(reason.endswith(ANOTHER_ID) for reason in seen_by if reason) else f"; {OTHER_PEOPLE}"
        if seen.all():
            raise UserError(f"{what}; nobody is left; {self.remedy}{others}.")
        if policy == "refuse":
            ways = [WAYS_OUT[name] for name in self.policies]
            raise UserError(f"{what}; {self.harm}; {', '.join(ways)}, or {self.remedy}{others}.")
        if policy == "leave_out":
            return Cleared(~seen, ~seen, num, (f"{what}, and are left out",))
        note = (
            f"{what}: they are used for training only, and the others are tested. Where only controls were seen, the training "
            "controls differ from the tested ones"
        )
        return Cleared(~seen, everybody, num, (note,))


def named(subjects: Sequence[str]) -> str:
    """The first few of many."""
    ending = " and others" if len(subjects) > MOST_NAMED else ""
    return ", ".join(map(str, subjects[:MOST_NAMED])) + ending
