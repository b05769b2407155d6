"""The training people of a run: rows of the cohort, the share of each member, and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import assign_folds, is_synthetic, is_twin, subject_hash
from gen3d.cohort.seen import SeenBy, recorded
from gen3d.core.errors import UserError
from gen3d.models.base import Statistics
from gen3d.train.engine.processes import Processes


@dataclass(frozen=True)
class RunPeople:
    """The scans that a run may be trained on, and the row numbers of each member's training scans."""

    frame: pd.DataFrame
    members: tuple[NDArray[np.int64], ...]

    @property
    def num_patients(self) -> int:
        """People with role `evaluation` among those that are learned from."""
        return int(self.frame.loc[self.frame["role"] == "evaluation", "subject"].nunique())

    def seen(self) -> SeenBy:
        """The people that each member is trained on, with roles."""
        members = []
        for rows in self.members:
            chosen = self.frame.iloc[rows]
            members.append(recorded(chosen, chosen["role"].tolist()))
        return SeenBy(tuple(members))


def learners(table: pd.DataFrame, patients: float, roles: Sequence[str] = ("train",)) -> NDArray[np.int64]:
    """Rows of the people with these roles, and of a share of those with role evaluation, of every diagnosis alike.

    The choice of evaluation people depends on the hash of the subject alone. Planted twins and synthetic scans are never
    used.
    """
    chosen = table["role"].isin(list(roles)).to_numpy()
    others = table[table["role"].eq("evaluation") & ~is_twin(table) & ~is_synthetic(table)]
    for _, group in others.groupby(others["diagnosis"].fillna("").astype(str)):
        subjects = sorted(group["subject"].astype(str).unique(), key=subject_hash)
        taken = subjects[: round(patients * len(subjects))]
        chosen = chosen | (table["subject"].astype(str).isin(taken) & table.index.isin(group.index)).to_numpy()
    return np.flatnonzero(chosen)


def choose_people(prepared: Prepared, cross_fit: int, seed: int, patients: float = 0.0) -> RunPeople:
    """Rows with role `train`, and with `cross_fit` > 1 also `calibration`, divided over the members by subject; with them a
    share of the people with role `evaluation`.

    One member is trained on all rows. Of K members, member k is trained on all folds but k, so that each person has an
    expectation from the member that never saw them.

    Raises:
        UserError: nobody has such a role, or there are fewer subjects than folds.
    """
    roles = ("train",) if cross_fit == 1 else ("train", "calibration")
    manifest = prepared.manifest.reset_index(drop=True)
    frame = manifest.iloc[learners(manifest, patients, roles)].reset_index(drop=True)
    if frame.empty:
        counts = ", ".join(f"{role} {count}" for role, count in prepared.manifest["role"].value_counts().items())
        raise UserError(
            f"{prepared.folders[0]}: nobody has the role {' or '.join(roles)} (roles there: {counts}); prepare with "
            "controls=[...] naming the diagnoses that are healthy."
        )
    if cross_fit == 1:
        return RunPeople(frame, (np.arange(len(frame)),))
    folds = assign_folds(frame, cross_fit, seed).to_numpy()
    return RunPeople(frame, tuple(np.flatnonzero(folds != fold) for fold in range(cross_fit)))


def statistics(
    prepared: Prepared, channels: tuple[str, ...], keys: list[str], processes: Processes | None = None
) -> Statistics:
    """Mean and standard deviation per channel over these scans inside the mask, and their mean volume.

    Several processes read a share of the scans each and add up their sums.

    Raises:
        UserError: a channel has the same value everywhere.
    """
    processes = processes or Processes()
    mask = prepared.mask
    sums = np.zeros((2, len(channels)))
    total = np.zeros((len(channels), *mask.shape))
    for key in keys[processes.rank :: processes.num]:
        volume = prepared.load([key], channels)[0]
        inside = volume[:, mask].astype(np.float64)
        sums += np.stack([inside.sum(1), np.square(inside).sum(1)])
        total += volume
    sums, total = processes.sum_array(sums), processes.sum_array(total)
    mean, square = sums / (len(keys) * mask.sum())
    std = np.sqrt(np.clip(square - mean**2, 0, None))
    flat = [channel for channel, value in zip(channels, std, strict=True) if value < 1e-6]
    if flat:
        raise UserError(f"the channel {flat[0]} has the same value in every voxel of all training scans.")
    mean_volume = (total / len(keys) * mask).astype(np.float32)
    return Statistics(mean.astype(np.float32), std.astype(np.float32), mask, mean_volume)
