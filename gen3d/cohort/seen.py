"""No person is tested by a model trained on them: who each model saw (`SeenBy`), and what a verb does about it (`Guard`).

Every verb that tests or scores people uses this module; `tests/contracts/test_seen.py` lists them. Two rules complement it: a
person has one role (`manifest.check_split`), and two ids of one person are found by their scans (`cohort.duplicates`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import subject_hash
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
"""Hashes that identify a person; the person was seen if any of the hashes was."""


def identity_of(subject: str, *further: str) -> PersonHashes:
    """The hashes that identify a person: of the id, and further ones, such as that of a scan's content."""
    return (subject_hash(str(subject)), *further)


def identities(table: pd.DataFrame) -> list[PersonHashes]:
    """The identity of the person of each row of a cohort table, [n]."""
    return [identity_of(subject) for subject in table["subject"]]


@dataclass(frozen=True)
class SeenBy:
    """Who each member of a model, or a model before it, was trained on: hash -> role (`train`) or description (`vae (train)`).

    subjects.json of a run and seen.json of latents hold one.
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
        """One member that saw these subjects."""
        return cls(({person: what for subject in subjects for person in identity_of(subject)},))

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
    def roles(self) -> list[str]:
        """The roles of everybody, member by member."""
        return [role for people in self.members for role in people.values()]

    def saw(self, person: PersonHashes) -> list[int]:
        """Members that were trained on a person."""
        return [index for index, people in enumerate(self.members) if any(name in people for name in person)]

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
        everybody = {person for people in self.members for person in people}
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
        """What saw a person, "" where nothing did."""
        return next((people[name] for people in reversed(self.members) for name in person if name in people), "")

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
        if seen.all():
            raise UserError(f"{what}; nobody is left; {self.remedy}.")
        if policy == "refuse":
            ways = [WAYS_OUT[name] for name in self.policies]
            raise UserError(f"{what}; {self.harm}; {', '.join(ways)}, or {self.remedy}.")
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
