"""Whom a finished head is to predict: new people in the head's own space, whom it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.folder import HEAD, PREDICTIONS, read_metrics
from gen3d.classify.head_folder import Head, open_head
from gen3d.classify.study.features import Features, open_features
from gen3d.cohort.manifest import subject_hash
from gen3d.cohort.seen import named
from gen3d.cohort.target import Rows
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError

Learned = Literal["refuse", "leave_out"]
HARMONISE = "harmonise"


@dataclass(frozen=True)
class Asked:
    """A head, what its cross-validation found (metrics.json), and the scans to predict; `notes` say who was left out."""

    folder: Path
    head: Head
    found: dict[str, Any]
    people: Features
    notes: tuple[str, ...]

    @property
    def rows(self) -> Rows:
        """The scans to predict."""
        return self.people.rows(0, np.arange(len(self.people)))

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which of the scans the head learned from are of people, not synthetic, [n]."""
        generator = self.head.training.table.get("generator")
        if generator is None:
            return np.ones(len(self.head.training), dtype=bool)
        text = generator.astype(object)
        return (text.where(text.notna(), "").astype(str) == "").to_numpy()

    def seen_by(self) -> list[str]:
        """For each scan, what behind the latents saw its person (`vae (train)`), "" where nothing did."""
        hashes = [subject_hash(str(subject)) for subject in self.people.table["subject"]]
        return [
            "" if blind else self.people.seen.get(person, "the model behind the latents")
            for person, blind in zip(hashes, self.people.blind[0], strict=True)
        ]

    def rows_of(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table of the cross-validation that are about this head."""
        rows = self.found.get("tables", {}).get(table, [])
        return [row for row in rows if row.get("model") == self.head.settings.kind]


def open_asked(folder: Path, latents: Sequence[Path], learned: Learned) -> Asked:
    """Open a head and new latents, and leave out whom the head learned from.

    Raises:
        UserError: no finished head, latents of another run or size, or not finite; people whom the head learned from
            (with refuse), or nobody else.
    """
    made = read(folder, ("classify",))
    found = read_metrics(folder)
    head = open_head(folder / HEAD)
    people = open_features(latents)
    _check_space(folder, latents[0], head, people)
    if not len(people):
        raise UserError(f"{latents[0]}: holds no scan, so there is nobody to predict.")
    _check_finite(latents[0], people)
    notes = (*people.notes, *_check_harmonised(made, latents))
    known = {subject_hash(str(subject)) for subject in head.training.table["subject"]}
    subjects = people.table["subject"].astype(str)
    met = np.array([subject_hash(subject) in known for subject in subjects])
    if not met.any():
        return Asked(folder, head, found, people, notes)
    whom = list(dict.fromkeys(subjects[met]))
    what = (
        f"{len(whom)} of {subjects.nunique()} people ({named(whom)}) are people whom the head of {folder} learned from"
    )
    if learned == "refuse" or met.all():
        more = "nobody else is there to predict" if met.all() else "set seen=leave_out to predict the others"
        raise UserError(
            f"{what}, and a prediction of them would look better than it is; {more} (the head's own cross-validation, "
            f"{folder / PREDICTIONS.file}, predicts them fairly)."
        )
    note = f"{what}, and are left out"
    return Asked(folder, head, found, people.take(np.flatnonzero(~met)), (*notes, note))


def balanced(rows: Rows, reference: Rows) -> NDArray[np.float64]:
    """Features [n, d], every source divided by its total standard deviation in the reference, so that all speak as loud."""
    values, usual = (np.array(part.values, dtype=np.float64) for part in (rows, reference))
    start = 0
    for width in reference.blocks or (values.shape[1],):
        part = slice(start, start + width)
        spread = float(np.sqrt(usual[:, part].var(axis=0).sum()))
        values[:, part] /= spread if spread > 0 else 1.0
        start += width
    return values


def training_people(asked: Asked) -> tuple[Rows, NDArray[np.float64], NDArray[np.int64], pd.DataFrame]:
    """Scans of people the head learned from, their codes and person numbers, and their table."""
    chosen = np.flatnonzero(asked.real)
    rows = asked.head.training.take(chosen)
    return rows, asked.head.codes[chosen], asked.head.groups[chosen], rows.table


def _check_space(folder: Path, latents: Path, head: Head, people: Features) -> None:
    if people.num_members > 1:
        raise UserError(
            f"{latents}: latents of a cross-fitted family of {people.num_members} members, whose spaces have nothing to do with "
            "each other; encode with the run that the head's latents came from."
        )
    if people.made_by != head.made_by:
        raise UserError(
            f"{latents}: made by the run {', '.join(people.made_by)}, but the head of {folder} was learned on {head.words}, made "
            f"by the run {', '.join(head.made_by)}; encode these people with that run."
        )
    wide, needed = people.values.shape[2], head.training.values.shape[1]
    if wide != needed:
        raise UserError(
            f"{latents}: {wide} features per scan, but the head of {folder} was learned on {needed}; encode these people as those "
            "that it learned from."
        )


def _check_harmonised(made: Artefact, latents: Sequence[Path]) -> tuple[str, ...]:
    """Latents with and without their sites' effects are of one run but not of one space."""
    learned = made.inputs.get("latents", [])
    before, keys = {item.get("verb") == HARMONISE for item in learned}, {item.get("key") for item in learned}
    opened = [read(folder) for folder in latents]
    now = {artefact.verb == HARMONISE for artefact in opened}
    if learned and before != now:
        state = {True: "harmonised latents", False: "latents that were not harmonised"}
        raise UserError(
            f"{latents[0]}: the head of {made.folder} was learned on {state[True in before]}, and these are "
            f"{state[True in now]}; give the same kind, or let `gen3d classify` harmonise within the head (harmonise.by=site)."
        )
    if True in now and not {artefact.key for artefact in opened} <= keys:
        return (
            "these latents were harmonised apart from those that the head learned from, each with sites of its own; a head that "
            "harmonises itself (classify with harmonise.by=site) treats both alike",
        )
    return ()


def _check_finite(latents: Path, people: Features) -> None:
    bad = ~np.isfinite(np.asarray(people.values[0], dtype=np.float64)).all(axis=1)
    if bad.any():
        raise UserError(
            f"{latents}: the latents of {named(people.table['key'].to_numpy()[bad].tolist())} are NaN or infinite; encode again."
        )
