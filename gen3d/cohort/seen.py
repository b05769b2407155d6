"""Nobody is tested by something that saw them: who saw whom (`SeenBy`), and what a verb does about it (`Guard`).

Every verb that tests or judges people asks here; `tests/contracts/test_seen.py` lists them. Two rules beside this one: a person
has one role (`manifest.check_split`), and ids that are one person are found by their scans (`cohort.duplicates`).
"""

from __future__ import annotations

import json
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

SeenPolicy = Literal["refuse", "leave_out", "train_only", "waive"]
"""Towards people who were seen: stop; neither test nor learn from them; learn from them only; test them all the same."""

LeaveOutPolicy = Literal["refuse", "leave_out"]
"""The same for verbs that learn from nobody."""

MOST_NAMED = 5
TRAINING = "its training"
WAYS_OUT: dict[str, str] = {
    "leave_out": "set seen=leave_out to do without them",
    "train_only": "set seen=train_only to learn from them and test the others",
    "waive": "set seen=waive to test them all the same and record the waiver",
}

PersonHashes = tuple[str, ...]
"""Hashes that a person is recognised by; somebody is seen if any of them was."""


def identity_of(subject: str, *further: str) -> PersonHashes:
    """What a person is recognised by: the hash of the id, and further hashes, such as one of a scan's content."""
    return (subject_hash(str(subject)), *further)


def identities(table: pd.DataFrame) -> list[PersonHashes]:
    """The identity of the person of each row of a cohort table, [n]."""
    return [identity_of(subject) for subject in table["subject"]]


@dataclass(frozen=True)
class SeenBy:
    """Whom each member of a model, or what stands before it, learned from: hash -> role (`train`) or words (`vae (train)`).

    subjects.json of a run and seen.json of latents hold one.
    """

    members: tuple[Mapping[str, str], ...]

    @classmethod
    def of(cls, record: Mapping[str, Mapping[str, str]]) -> SeenBy:
        """From `record()`: number of the member -> hash -> role.

        Raises:
            ValueError, TypeError, AttributeError: another kind of record.
        """
        members = [people for _, people in sorted(record.items(), key=lambda item: int(item[0]))]
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
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
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
        """Members that learned from a person."""
        return [index for index, people in enumerate(self.members) if any(name in people for name in person)]

    def blind_to(self, person: PersonHashes) -> list[int]:
        """Members that never saw a person."""
        saw = self.saw(person)
        return [index for index in range(len(self.members)) if index not in saw]

    def judges(self, person: PersonHashes) -> list[int]:
        """The members that judge a person: as many blind ones for everybody as the people of the family itself have.

        A calibration person of a cross-fitted family has one blind member, somebody from outside has them all. The mean of
        several members is a better expectation, so people from outside would look healthier than the people that calibrate;
        of their members, one is chosen by the person's hash.
        """
        blind = self.blind_to(person)
        if len(blind) <= self._num_judges:
            return blind
        first = int(person[0], 16) % len(blind)
        return sorted((blind[first:] + blind[:first])[: self._num_judges])

    @cached_property
    def _num_judges(self) -> int:
        """Fewest members, above none, that are blind to a person whom another member saw; all, where there is no such person."""
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
        """Whether every member saw the person of a row, so that none can judge them, [n]."""
        return np.asarray(~self.blind(table).any(axis=0))

    def words(self, person: PersonHashes) -> str:
        """What saw a person, "" where nothing did."""
        return next((people[name] for people in reversed(self.members) for name in person if name in people), "")

    def seen_by(self, table: pd.DataFrame) -> list[str]:
        """What saw the person of each row, "" where a member never did, [n]."""
        people = identities(table)
        return ["" if self.blind_to(person) else self.words(person) or TRAINING for person in people]

    def of_kind(self, what: str) -> SeenBy:
        """The same with roles in words: `vae (train)`."""
        return SeenBy(tuple({person: f"{what} ({role})" for person, role in people.items()} for people in self.members))

    def joined(self, others: Mapping[str, str]) -> SeenBy:
        """With further people in every member; who is there already was seen by both."""
        return SeenBy(tuple(_joined(people, others) for people in self.members))


def _joined(people: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    union = dict(people)
    for person, what in others.items():
        parts = [part for both in (union.get(person, ""), what) for part in both.split(", ") if part]
        union[person] = ", ".join(dict.fromkeys(parts))
    return union


@dataclass(frozen=True)
class Cleared:
    """Who may be tested and who may be learned from, [n] each, with what the report must print."""

    testable: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    num_seen: int
    notes: tuple[str, ...] = ()
    waivers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guard:
    """What a verb uses people for, in the words of its sentences.

    Attributes:
        witness: what must not have seen them: `the generator`.
        harm: what would be wrong of people whom it saw: `a test of them would be too good`.
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
        whom = f"{len(subjects)} of {people.nunique()} people ({named(subjects)})"
        return f"{begin}{whom} were seen by {self.witness} ({what})"

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
            return Cleared(
                everybody, everybody, num, (), (f"{what}, and are tested all the same: figures may be too good",)
            )
        if seen.all():
            raise UserError(f"{what}; nobody is left; {self.remedy}.")
        if policy == "refuse":
            ways = [WAYS_OUT[name] for name in self.policies]
            raise UserError(f"{what}; {self.harm}; {', '.join(ways)}, or {self.remedy}.")
        if policy == "leave_out":
            return Cleared(~seen, ~seen, num, (f"{what}, and are left out",))
        note = (
            f"{what}: they are learned from, and the others are tested. Where only controls were seen, this makes the controls "
            "learned from unlike those tested"
        )
        return Cleared(~seen, everybody, num, (note,))


def named(subjects: Sequence[str]) -> str:
    """The first few of many."""
    more = " and others" if len(subjects) > MOST_NAMED else ""
    return ", ".join(map(str, subjects[:MOST_NAMED])) + more
