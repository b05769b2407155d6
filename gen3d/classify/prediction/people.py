"""Whom a finished head is to predict: new people in the head's own space, whom it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.folder import HEAD, read_metrics
from gen3d.classify.head_folder import Head, open_head
from gen3d.classify.study.features import Features, open_features
from gen3d.cohort.latents_folder import LatentSpace, require_one_space
from gen3d.cohort.seen import TRAINING, Guard, LeaveOutPolicy, SeenBy, named
from gen3d.cohort.target import Rows
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError

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
        return self.people.seen_by()

    def rows_of(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table of the cross-validation that are about this head."""
        rows = self.found.get("tables", {}).get(table, [])
        return [row for row in rows if row.get("model") == self.head.settings.kind]


def open_asked(folder: Path, latents: Sequence[Path], learned: LeaveOutPolicy) -> Asked:
    """Open a head and new latents, and leave out whom the head learned from.

    Raises:
        UserError: no finished head, latents of another run or size, or not finite; people whom the head learned from
            (with refuse), or nobody else.
    """
    made = read(folder, ("classify",))
    found = read_metrics(folder)
    head = open_head(folder / HEAD)
    people = open_features(latents)
    _check_space(made, head, people)
    if not len(people):
        raise UserError(f"{latents[0]}: holds no scan, so there is nobody to predict.")
    _check_finite(latents[0], people)
    notes = (*people.notes, *_harmonised_apart(made, latents))
    guard = Guard(
        f"the head of {folder}",
        "a prediction of them would look better than it is",
        f"see the head's own cross-validation, {folder / 'predictions.tsv'}, which predicts them fairly",
    )
    known = SeenBy.people(head.training.table["subject"], TRAINING)
    cleared = guard.clear(people.table, known.seen_by(people.table), learned)
    kept = people.take(np.flatnonzero(cleared.testable))
    return Asked(folder, head, found, kept, (*notes, *cleared.notes))


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


def _check_space(made: Artefact, head: Head, people: Features) -> None:
    learned = {item.get("verb") == HARMONISE for item in made.inputs.get("latents", [])}
    width = head.training.values.shape[1]
    space = LatentSpace(f"the {width} features that the head of {made.folder} learned from", head.made_by, width)
    require_one_space([replace(space, harmonised=True in learned if learned else None), people.space])


def _harmonised_apart(made: Artefact, latents: Sequence[Path]) -> tuple[str, ...]:
    keys = {item.get("key") for item in made.inputs.get("latents", [])}
    opened = [read(folder) for folder in latents]
    if any(artefact.verb == HARMONISE for artefact in opened) and not {artefact.key for artefact in opened} <= keys:
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
