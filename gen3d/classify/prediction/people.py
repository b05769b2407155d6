"""The people that a kept head is to predict: new people in the head's own space, on whom it was not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.folder import HEAD, read_metrics
from gen3d.classify.head_folder import Head, HeadFamily, open_heads
from gen3d.classify.study.features import Features, open_features
from gen3d.cohort.latents_folder import LatentSpace, require_one_space
from gen3d.cohort.seen import TRAINING, Guard, LeaveOutPolicy, SeenBy, named
from gen3d.cohort.target import Rows
from gen3d.cohort.tested_folds import PREDICTIONS
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError
from gen3d.core.tables import Row

HARMONISE = "harmonise"


@dataclass(frozen=True)
class PredictionRequest:
    """A kept head, the study it was tested in (metrics.json), and the scans to predict.

    A head of a cross-fitted family has one member per space; `notes` say who was left out.
    """

    folder: Path
    family: HeadFamily
    metrics: dict[str, Any]
    people: Features
    notes: tuple[str, ...]

    @property
    def head(self) -> Head:
        """The head of the first member, for what all members share."""
        return self.family.first

    @property
    def spaces(self) -> tuple[Rows, ...]:
        """The scans to predict, in the space of each member."""
        everybody = np.arange(len(self.people))
        return tuple(self.people.rows(member, everybody) for member in range(len(self.family.heads)))

    def seen_by(self) -> list[str]:
        """For each scan, which model behind the latents saw its person (`vae (train)`), "" where none did."""
        return self.people.seen_by()

    def rows_of(self, table: str) -> list[Row]:
        """Rows of a table of the cross-validation that are about this head."""
        rows = self.metrics.get("tables", {}).get(table, [])
        return [row for row in rows if row.get("model") == self.head.settings.kind]

    def training(self, member: int) -> TrainingPeople:
        """Scans of people that the head of a member was trained on; synthetic scans are left out."""
        return training_people(self.family.heads[member])

    @cached_property
    def everybody(self) -> TrainingPeople:
        """Scans of everybody that any member's head was trained on, once each, in the space of the first member that has them."""
        parts = [self.training(member) for member in range(len(self.family.heads))]
        first = np.concatenate([part.rows.table["key"].astype(str).to_numpy() for part in parts])
        _, kept = np.unique(first, return_index=True)
        if len(parts) == 1:
            return parts[0]
        table = pd.concat([part.rows.table for part in parts], ignore_index=True).iloc[kept].reset_index(drop=True)
        values = np.concatenate([part.rows.values for part in parts])[kept]
        rows = replace(parts[0].rows, values=values, table=table)
        codes = np.concatenate([part.codes for part in parts])[kept]
        return TrainingPeople(rows, codes, np.unique(table["subject"].astype(str), return_inverse=True)[1])


@dataclass(frozen=True)
class TrainingPeople:
    """Scans that a head was trained on: rows, codes [n] and the number of each scan's person [n]."""

    rows: Rows
    codes: NDArray[np.float64]
    groups: NDArray[np.int64]


def training_people(head: Head) -> TrainingPeople:
    """The scans of people that a head was trained on, without synthetic ones."""
    generator = head.training.table.get("generator")
    if generator is None:
        real = np.arange(len(head.training))
    else:
        text = generator.astype(object)
        real = np.flatnonzero((text.where(text.notna(), "").astype(str) == "").to_numpy())
    return TrainingPeople(head.training.take(real), head.codes[real], head.groups[real])


def open_request(folder: Path, latents: Sequence[Path], policy: LeaveOutPolicy) -> PredictionRequest:
    """Open a head and new latents, and leave out people that the head was trained on.

    Raises:
        UserError: no finished head, latents of another run or size, or not finite; people that the head was trained on
            (with refuse), or nobody else.
    """
    study, metrics = read(folder, ("classify",)), read_metrics(folder)
    if metrics.get("networks") and not (folder / HEAD).is_dir():
        raise UserError(f"{folder}: holds no fitted head: {metrics.get('head')}.")
    family = open_heads(folder / HEAD)
    people = open_features(latents)
    _check_space(study, family, people)
    if not len(people):
        raise UserError(f"{latents[0]}: holds no scan, so there is nobody to predict.")
    _check_finite(latents[0], people)
    notes = (*people.notes, *_harmonised_apart(study, latents))
    guard = Guard(
        f"the head of {folder}",
        "a prediction of them would look better than it is",
        f"see the head's own cross-validation, {folder / PREDICTIONS.file}, which predicts them fairly",
    )
    known = SeenBy.rows(pd.concat([head.training.table for head in family.heads]), TRAINING)
    cleared = guard.clear(people.table, known.seen_by(people.table), policy)
    kept = people.take(np.flatnonzero(cleared.testable))
    return PredictionRequest(folder, family, metrics, kept, (*notes, *cleared.notes))


def balanced(rows: Rows, reference: Rows) -> NDArray[np.float64]:
    """Features [n, d], each source divided by its total standard deviation in the reference: wide sources do not dominate."""
    values, usual = (np.array(part.values, dtype=np.float64) for part in (rows, reference))
    start = 0
    for width in reference.blocks or (values.shape[1],):
        part = slice(start, start + width)
        spread = float(np.sqrt(usual[:, part].var(axis=0).sum()))
        values[:, part] /= spread if spread > 0 else 1.0
        start += width
    return values


def _check_space(study: Artefact, family: HeadFamily, people: Features) -> None:
    harmonised = {item.get("verb") == HARMONISE for item in study.inputs.get("latents", [])}
    width, num = family.first.training.values.shape[1], len(family.heads)
    space = LatentSpace(
        f"the {width} features that the head of {study.folder} was trained on", family.first.made_by, width
    )
    expected = replace(space, harmonised=True in harmonised if harmonised else None, num_members=num)
    require_one_space([expected, people.space], families=num > 1)


def _harmonised_apart(made: Artefact, latents: Sequence[Path]) -> tuple[str, ...]:
    keys = {item.get("key") for item in made.inputs.get("latents", [])}
    opened = [read(folder) for folder in latents]
    if any(artefact.verb == HARMONISE for artefact in opened) and not {artefact.key for artefact in opened} <= keys:
        return (
            "these latents were harmonised apart from those that the head was trained on, each with sites of its own; a head that "
            "harmonises itself (classify with harmonise.by=site) treats both alike",
        )
    return ()


def _check_finite(latents: Path, people: Features) -> None:
    bad = ~np.isfinite(np.asarray(people.values, dtype=np.float64)).all(axis=(0, 2))
    if bad.any():
        raise UserError(
            f"{latents}: the latents of {named(people.table['key'].to_numpy()[bad].tolist())} are NaN or infinite; encode again."
        )
