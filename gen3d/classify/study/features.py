"""Features of heads: latents, harmonised latents or anomaly maps, of one cohort or several, alone or joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.folder import MapsFolder
from gen3d.cohort.channels import VOLUME
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.latents_folder import VERBS, Latents, LatentSpace, open_latents_folder, require_one_space
from gen3d.cohort.manifest import is_synthetic, is_twin, read_manifest
from gen3d.cohort.seen import TRAINING, SeenBy, identities, recorded
from gen3d.cohort.session_order import first_scans, refuse_unknown
from gen3d.cohort.target import Rows
from gen3d.core import words as spell
from gen3d.core.artefact import Artefact, digest, read
from gen3d.core.errors import UserError
from gen3d.core.inputs import find_input
from gen3d.core.progress import warn

MAPS = "anomaly"
SCAN = ["subject", "session"]
EXCLUDED = "excluded"
CALIBRATING = ("train", "calibration")


@dataclass(frozen=True)
class Features:
    """Scans of people, one row each.

    `values` [members, n, d]: members of a cross-fitted family have spaces of their own. `blind` [members, n]: whether the
    member, and every model whose features are joined to it, was trained without the person; `family_blind` the same of
    families alone, None for `blind`. `seen`: person (hash) -> what was trained on them.
    `blocks` are the widths of the sources side by side; `shape` that of a spatial latent, else (d,).
    `made_by` identifies the spaces: the key of each run.
    """

    table: pd.DataFrame
    values: NDArray[np.floating]
    blind: NDArray[np.bool_]
    blocks: tuple[int, ...]
    shape: tuple[int, ...]
    made_by: tuple[str, ...]
    words: str
    seen: dict[str, str]
    notes: tuple[str, ...] = ()
    family_blind: NDArray[np.bool_] | None = None
    harmonised: bool = False

    def __len__(self) -> int:
        return len(self.table)

    @property
    def num_members(self) -> int:
        """Spaces; 1 where all scans share one."""
        return len(self.values)

    @property
    def space(self) -> LatentSpace:
        """Where they lie."""
        return LatentSpace(self.words, self.made_by, self.values.shape[2], self.num_members, self.harmonised)

    def seen_by(self, also: Mapping[str, str] | None = None) -> list[str]:
        """What was trained on the person of each scan, "" where a member was not, [n].

        Args:
            also: hash -> what was trained on the person, of models behind other inputs (generators of synthetic scans).
        """
        behind, within = (SeenBy((people,)) for people in (also or {}, self.seen))
        return [
            "" if blind and not behind.saw(person) else within.reason(person) or behind.reason(person) or TRAINING
            for person, blind in zip(identities(self.table), np.atleast_1d(self.blind.any(axis=0)), strict=True)
        ]

    def take(self, chosen: NDArray[Any]) -> Features:
        """Some of the scans, by row number or boolean."""
        table = self.table.iloc[chosen].reset_index(drop=True)
        family = None if self.family_blind is None else self.family_blind[:, chosen]
        return replace(
            self, table=table, values=self.values[:, chosen], blind=self.blind[:, chosen], family_blind=family
        )

    def may_test(self, waived: bool) -> NDArray[np.bool_]:
        """Whether a member may test a person, [members, n].

        With a waiver, people that another model was trained on are tested; a member of a family still tests only people that it
        was not trained on itself.
        """
        if not waived:
            return self.blind
        family = self.blind if self.family_blind is None else self.family_blind
        family = family | ~family.any(axis=0)
        return np.where(self.blind.any(axis=0), self.blind, family)

    def rows(self, member: int, chosen: NDArray[np.int64]) -> Rows:
        """Scans as a recipe takes them, in the space of a member; where all members share one space, in that."""
        table = self.table.iloc[chosen].reset_index(drop=True)
        return Rows(self.values[member if self.num_members > 1 else 0][chosen], table, self.blocks, self.shape)


def open_features(folders: Sequence[Path], beside: Sequence[Path] = ()) -> Features:
    """Open cohorts of one space, and join further features of the same scans.

    Args:
        folders: of encode or harmonise, or maps of anomaly; several are several cohorts in one space.
        beside: further folders of the same kinds, of the same scans; joined by subject and session.

    Raises:
        UserError: folders of two different models as one space, a scan given twice, nothing in common, or damaged folders.
    """
    whole = _stacked([_open(folder) for folder in folders])
    for folder in beside:
        whole = _beside(whole, _open(folder), folder)
    return whole


def scans_alone(folders: Sequence[Path]) -> Features:
    """The scans of prepared folders without any features, for a study of trained networks: values are [1, n, 0].

    Raises:
        UserError: not prepared folders of one cohort.
    """
    whole = open_prepared(tuple(folders)).manifest
    table = whole[whole["role"] != EXCLUDED].drop(columns="folder", errors="ignore").reset_index(drop=True)
    words, blind = "their scans", np.ones((1, len(table)), dtype=bool)
    return Features(table, np.zeros((1, len(table), 0)), blind, (0,), (0,), (), words, {})


def _open(folder: Path) -> Features:
    artefact = read(folder, (*VERBS, MAPS))
    return _of_maps(folder) if artefact.verb == MAPS else _of_latents(open_latents_folder(folder))


def _of_latents(latents: Latents) -> Features:
    seen: dict[str, str] = {}
    for member in latents.seen.members:
        seen |= member
    width = latents.values.shape[2]
    made_by = (latents.run_key,)
    unknown = f"the training people of the {latents.kind} of {latents.folder} are not known; make sure that none of them is here"
    remark = latents.seen.remark(latents.table, f"the {latents.kind} of {latents.folder}") if seen else unknown
    notes = (remark,) if remark else ()
    return Features(
        latents.table,
        latents.values,
        latents.blind,
        (width,),
        latents.shape,
        made_by,
        latents.description,
        seen,
        notes,
        harmonised=latents.space.harmonised is True,
    )


def _of_maps(folder: Path) -> Features:
    """Regions' z and scores per channel of a maps folder, for the people that it judged (never training people of the run).

    Calibration controls count as seen: their z leave their own scan out, and are still a few per cent wider than those of
    other controls, so that a head on burden scores separates them from other controls (AUC about 0.65).
    """
    artefact = read(folder, (MAPS,))
    maps = MapsFolder(artefact, folder.name)
    people, scores = maps.subjects, maps.score_columns
    regions = maps.regions[maps.regions["channel"] != VOLUME]  # most of its rows repeat readings of other channels
    names = regions["channel"] + " " + regions["region"]
    try:
        z = regions.assign(name=names).pivot(index="key", columns="name", values="z")
    except ValueError as error:
        raise UserError(f"{folder}: damaged maps ({error}); run `gen3d anomaly` again.") from None
    values = people[["key", *scores]].join(z, on="key").drop(columns="key").to_numpy(dtype=np.float64)
    judged = np.isfinite(values).all(axis=1)
    table = _full_table(artefact, people)
    notes = (
        ()
        if judged.all()
        else (f"{spell.count(int((~judged).sum()), 'scan')} that {folder} could not judge are excluded",)
    )
    chosen, kept = values[judged], table[judged].reset_index(drop=True)
    calibrates = kept["role"].isin(CALIBRATING) & ~is_twin(kept)
    known = kept[calibrates]
    saw = recorded(known, [f"calibration of {folder.name} ({role})" for role in known["role"]])
    return Features(
        kept,
        chosen[None],
        SeenBy((saw,)).blind(kept),
        (chosen.shape[1],),
        (chosen.shape[1],),
        (digest([[item["key"] for item in artefact.inputs.get("run", [])], sorted(scores), list(z.columns)]),),
        f"{chosen.shape[1]} anomaly scores of {folder}",
        saw,
        notes,
    )


def _full_table(artefact: Artefact, people: pd.DataFrame) -> pd.DataFrame:
    """The cohort table's rows of these people, where it is still there; else what the maps know of them."""
    found = [find_input(artefact, item) for item in artefact.inputs.get("prepared", [])]
    folders = [folder for folder in found if folder is not None]
    if not folders or len(folders) < len(found):
        return people
    whole = pd.concat([read_manifest(folder) for folder in folders], ignore_index=True)
    return people[["key"]].merge(whole, on="key", how="left", validate="one_to_one")


def _stacked(parts: Sequence[Features]) -> Features:
    first = parts[0]
    require_one_space([part.space for part in parts], families=True)
    table = pd.concat([part.table for part in parts], ignore_index=True)
    twice = table["key"][table["key"].duplicated()]
    if len(twice):
        raise UserError(f"{twice.iloc[0]}: the same subject and session in two of the folders; give each scan once.")
    seen: dict[str, str] = {}
    for part in parts:
        seen |= part.seen
    return Features(
        table,
        first.values if len(parts) == 1 else np.concatenate([part.values for part in parts], axis=1),
        np.concatenate([part.blind for part in parts], axis=1),
        first.blocks,
        first.shape,
        first.made_by,
        first.words,
        seen,
        tuple(note for part in parts for note in part.notes),
        harmonised=first.harmonised,
    )


def _beside(whole: Features, added: Features, folder: Path) -> Features:
    """Join the features of the scans that both have: a family with one space, or with a family of the same folds."""
    right = {tuple(pair): row for row, pair in enumerate(added.table[SCAN].astype(str).to_numpy())}
    pairs = [(row, right.get(tuple(pair))) for row, pair in enumerate(whole.table[SCAN].astype(str).to_numpy())]
    left_rows = np.array([row for row, match in pairs if match is not None], dtype=np.int64)
    right_rows = np.array([match for _, match in pairs if match is not None], dtype=np.int64)
    if not len(left_rows):
        raise UserError(
            f"{folder}: has no scan (subject and session) in common with the latents; give the same cohort."
        )
    notes = (*whole.notes, *added.notes)
    if len(left_rows) < len(whole):
        notes += (f"{spell.count(len(whole) - len(left_rows), 'scan')} that {folder} does not have are excluded",)
        warn(notes[-1] + ".")
    members = max(whole.num_members, added.num_members)
    if min(whole.num_members, added.num_members) not in (1, members):
        raise UserError(
            f"{folder}: {added.num_members} members, but the latents have {whole.num_members}; train both with the same cross_fit."
        )
    left, other = whole.take(left_rows), added.take(right_rows)
    values = [np.broadcast_to(part.values, (members, *part.values.shape[1:])) for part in (left, other)]
    blind = np.broadcast_to(left.blind, (members, len(left_rows))) & np.broadcast_to(
        other.blind, (members, len(left_rows))
    )
    family = np.ones((members, len(left_rows)), dtype=bool)
    for part in (left, other):
        if part.num_members > 1:
            family &= part.blind if part.family_blind is None else part.family_blind
    table = left.table.join(other.table[other.table.columns.difference(left.table.columns)])
    blocks = (*whole.blocks, *added.blocks)
    return Features(
        table,
        np.concatenate(values, axis=2),
        blind,
        blocks,
        (sum(blocks),),
        (*whole.made_by, *added.made_by),
        f"{whole.words}, and {added.words}",
        whole.seen | added.seen,
        notes,
        family,
        whole.harmonised,
    )


def one_scan_each(features: Features, sessions: str) -> Features:
    """Without planted twins and synthetic scans; with sessions="first", the first session of every person only."""
    table = features.table
    artificial = is_twin(table) | is_synthetic(table)
    notes = features.notes
    if artificial.any():
        notes += (f"{int(artificial.sum())} planted copies or synthetic scans are excluded",)
    chosen = ~artificial.to_numpy()
    if sessions == "first":
        first, unknown = first_scans(table[chosen])
        refuse_unknown(table[chosen], unknown, ", or take all (sessions=all)")
        chosen[chosen] = first
        later = int((~artificial).sum() - chosen.sum())
        if later:
            notes += (f"{spell.count(later, 'later session')} of the same people are excluded",)
    return replace(features.take(np.flatnonzero(chosen)), notes=notes)
