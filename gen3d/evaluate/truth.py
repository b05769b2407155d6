"""A simulated cohort's or a truth bench's planted truth, and the maps folders that are measured against it.

The twins of a bench are measured together with the real cohort they were made from: maps of prepared=[cohort, bench] hold
both, and the controls of the cohort set the thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.folder import REGIONS, MapsFolder
from gen3d.cohort.channels import CHANNELS
from gen3d.cohort.folder import read_mask
from gen3d.cohort.manifest import HEALTHY, NULL
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError
from gen3d.imaging.volume import read_map
from gen3d.simulate.folder import PERCENT_CHANGE, changed_path, log_jacobian_path, read_truth

MIN_CONTROLS = 19
"""Fewer people cannot give a conformal p of 5 % or less: the smallest is 1 / (n + 1)."""

CONTROL_ROLES = ("train", "calibration", "test")
"""Roles of healthy controls. Scans of other roles without a planted truth are dropped."""

SIGNED_CHANNELS = ("structural",)
"""Channels in which only large positive values are abnormal: no reconstruction is too good."""


@dataclass(frozen=True)
class CohortTruth:
    """The planted truth: `table` has one row per scan (key, subject, session, condition, severity)."""

    artefact: Artefact
    mask: NDArray[np.bool_]
    table: pd.DataFrame
    regions: pd.DataFrame

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """Planted conditions other than healthy, the null condition last."""
        names = sorted(set(self.table["condition"]) - {HEALTHY})
        return tuple(sorted(names, key=lambda name: name == NULL))

    def log_jacobian(self, key: str) -> NDArray[np.float32] | None:
        """The condition's true log-Jacobian in template coordinates [V], or None where there is no truth volume."""
        path = log_jacobian_path(self.artefact.folder, key)
        return _masked(path, self.mask) if path.is_file() else None

    def changed(self, key: str, channel: str, changed_log_jacobian: float) -> NDArray[np.bool_]:
        """The mask voxels [V] that truly differ, in the space of this channel's maps.

        residual and structural: the `changed` mask in the aligned scan; deformation: |true log-Jacobian| above
        `changed_log_jacobian` in template coordinates. A scan without a truth volume has nothing planted.
        """
        if channel == "deformation":
            truth = self.log_jacobian(key)
            return self._nothing if truth is None else np.abs(truth) > changed_log_jacobian
        path = changed_path(self.artefact.folder, key)
        return _masked(path, self.mask) > 0.5 if path.is_file() else self._nothing

    @property
    def _nothing(self) -> NDArray[np.bool_]:
        return np.zeros(int(self.mask.sum()), dtype=bool)

    def percent_change(self, keys: Sequence[str], regions: Sequence[str]) -> pd.DataFrame:
        """True volume change in percent, one row per key and one column per region; 0 where nothing was planted."""
        wide = self.regions.pivot_table(index="key", columns="region", values=PERCENT_CHANGE, aggfunc="mean")
        return wide.reindex(index=list(keys), columns=list(regions)).fillna(0.0)


def open_truth(folder: Path) -> CohortTruth:
    """Open a finished folder of `gen3d simulate`.

    Raises:
        UserError: another verb's folder, or one whose truth is missing or damaged.
    """
    artefact = read(folder, ("simulate",))
    table, regions = read_truth(folder)
    table["severity"] = pd.to_numeric(table["severity"], errors="coerce").fillna(0.0)
    return CohortTruth(artefact, read_mask(folder), table, regions)


@dataclass(frozen=True)
class EvaluatedMaps:
    """One maps folder against the truth: `subjects` has one row per scan with the planted condition joined."""

    name: str
    folder: MapsFolder
    mask: NDArray[np.bool_]
    subjects: pd.DataFrame
    channels: tuple[str, ...]

    @property
    def regions(self) -> pd.DataFrame:
        """A row per scan, channel and region."""
        return self.folder.regions

    def z(self, key: str, channel: str) -> NDArray[np.float32] | None:
        """The z map in the mask [V], or None where the scan has no map in this channel."""
        path = self.folder.path(key, channel)
        if not path.is_file():
            return None
        values = _masked(path, self.mask)
        return values if np.isfinite(values).all() else None

    def with_condition(self, condition: str) -> pd.DataFrame:
        """Rows of scans with this planted condition."""
        return self.subjects[self.subjects["condition"] == condition]

    @property
    def test_controls(self) -> pd.DataFrame:
        """Rows of healthy people that neither the model nor its calibration has seen."""
        healthy = self.with_condition(HEALTHY)
        return healthy[healthy["role"] == "test"]

    @property
    def other_controls(self) -> pd.DataFrame:
        """Rows of the other healthy people: the model has not seen them either, and their z is leave-one-out."""
        healthy = self.with_condition(HEALTHY)
        return healthy[healthy["role"] != "test"]

    @property
    def held_out(self) -> pd.DataFrame:
        """Healthy people who set thresholds: test controls, and the other controls too if there are fewer than 19 of those.

        Fewer than 19 people cannot give a threshold that 5 % exceed.
        """
        test = self.test_controls
        return test if len(test) >= MIN_CONTROLS else pd.concat([test, self.other_controls])


def anomaly_score(z: NDArray[np.float32], channel: str) -> NDArray[np.float32]:
    """Scores that are large where a voxel is abnormal: |z|, or z itself in the channels of `SIGNED_CHANNELS`."""
    return z if channel in SIGNED_CHANNELS else np.abs(z)


def open_maps(folders: Sequence[Path], truth: CohortTruth) -> list[EvaluatedMaps]:
    """Open finished folders of `gen3d anomaly` for the simulated cohort, or for a bench and its cohort.

    Raises:
        UserError: a folder given twice, of another verb, made from another cohort, or without a common scan.
    """
    resolved = [folder.resolve() for folder in folders]
    twice = [folder for folder in folders if resolved.count(folder.resolve()) > 1]
    if twice:
        raise UserError(f"{twice[0]}: given twice in maps=; name each maps folder once.")
    return [_open_maps(folder, name, truth) for folder, name in zip(folders, _names(folders), strict=True)]


def _open_maps(folder: Path, name: str, truth: CohortTruth) -> EvaluatedMaps:
    artefact = read(folder, ("anomaly",))
    sources = [source for folders in artefact.inputs.values() for source in folders]
    if truth.artefact.key not in [source.get("key") for source in sources]:
        cohorts = ", ".join(source["path"] for source in sources if source.get("verb") in ("prepare", "simulate"))
        raise UserError(
            f"{folder}: these maps are of another cohort ({cohorts or 'unknown'}), not of {truth.artefact.folder}; "
            "give the simulated cohort that they were made from as truth=."
        )
    maps = MapsFolder(artefact, name)
    subjects = maps.subjects
    planted = truth.table[["key", "condition", "severity"]]
    if not subjects["key"].isin(planted["key"]).any():
        raise UserError(
            f"{folder}: no scan of {truth.artefact.folder} has a map there (first scans: "
            f"{', '.join(subjects['key'].iloc[:2])} and {', '.join(planted['key'].iloc[:2])}); "
            "run `gen3d anomaly` on the simulated cohort."
        )
    joined = with_truth(subjects, truth)
    regions = REGIONS.read(folder)
    channels = tuple(channel for channel in CHANNELS if channel in maps.mapped_channels)
    if len(truth.regions) and not set(truth.regions["region"]) & set(regions["region"]):
        raise UserError(
            f"{folder}: its regions ({', '.join(regions['region'].unique()[:2])}) are not those of the truth "
            f"({', '.join(truth.regions['region'].unique()[:2])}); run `gen3d anomaly` on this cohort again."
        )
    if not channels:
        raise UserError(f"{folder}: holds no z maps; run `gen3d anomaly` again.")
    return EvaluatedMaps(name, maps, truth.mask, joined, channels)


def with_truth(subjects: pd.DataFrame, truth: CohortTruth) -> pd.DataFrame:
    """Rows of a maps folder with the planted condition and severity joined.

    Scans without a planted truth count as healthy controls if their role is one of `CONTROL_ROLES`; the others are dropped.
    Only the first scan of a healthy person counts, because two scans of one person are not two independent controls.
    """
    planted = truth.table[["key", "condition", "severity"]]
    joined = subjects.drop(columns=["condition", "severity"], errors="ignore").merge(planted, on="key", how="left")
    known = joined["condition"].notna()
    joined = joined[known | joined["role"].isin(CONTROL_ROLES)]
    joined = joined.fillna({"condition": HEALTHY, "severity": 0.0})
    healthy = joined["condition"] == HEALTHY
    repeated = healthy & joined[healthy]["subject"].duplicated().reindex(joined.index, fill_value=False)
    return joined[~repeated].reset_index(drop=True)


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest distinct names: the folder's name, preceded by its parent's where two folders have the same name."""
    names = [folder.resolve().name for folder in folders]
    return [
        name if names.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for folder, name in zip(folders, names, strict=True)
    ]


def _masked(path: Path, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    volume: NDArray[Any] = read_map(path)
    if volume.shape != mask.shape:
        raise UserError(
            f"{path}: its grid {volume.shape} is not that of the simulated cohort {mask.shape}; "
            "make the maps from this cohort again."
        )
    return np.asarray(volume[mask], dtype=np.float32)
