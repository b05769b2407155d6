"""Prepared cohorts, opened for reading: one or several folders of `prepare` or `simulate` on one plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.channels import MODULATED
from gen3d.cohort.manifest import FILE, check_split, read_manifest, write_manifest
from gen3d.cohort.scan_hash import refuse_one_scan_twice
from gen3d.core.artefact import digest, file_digest, read
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.tables import AGAIN, TableFile, write_table
from gen3d.imaging.plan import GridPlan, read_plan, write_plan
from gen3d.imaging.volume import SLOPE, open_stored, read_map, write_nifti

PLAN, MASK, REGIONS, REGION_TABLE = "plan.json", "mask.nii", "regions.nii", "regions.tsv"
VERDICTS = TableFile("verdicts.tsv", ("key", "source", "verdict", "reason"))
REGION_NAMES = TableFile(REGION_TABLE, ("label", "name"))
MOST_LABEL = 32767
"""Of 16 bits."""
UNMATCHED = TableFile("unmatched.tsv", ("entry", "remark"))
"""Of folders made from real scans or simulated: a verdict per scan, and what of tables and folders did not match up."""

MOST_MAPPED = 4000
"""Volumes that stay mapped, under the usual limit of a system."""

VERBS = ("prepare", "prepare-slices", "simulate", "sample")
GENERATOR_SUBJECTS = "generator_subjects.json"
"""In a folder of synthetic scans: hashes of all people that their generator was trained on, with roles."""


@dataclass(frozen=True)
class Prepared:
    """Scans on one grid. `manifest` has one row per scan and an extra column `folder`."""

    folders: tuple[Path, ...]
    plan: GridPlan
    manifest: pd.DataFrame
    key: str
    _mapped: dict[Path, NDArray[np.int16] | None] = field(default_factory=dict, repr=False)
    """Maps of volumes that were read twice or more; None of those that were read once."""

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Brain mask of the template [X, Y, Z]."""
        return read_mask(self.folders[0])

    @cached_property
    def regions(self) -> NDArray[np.int16]:
        """Region labels [X, Y, Z]; 0 is no region."""
        return read_map(self.folders[0] / REGIONS).astype(np.int16)

    @cached_property
    def region_table(self) -> pd.DataFrame:
        """Names of the region labels.

        Raises:
            UserError: missing, damaged, or with a label that no volume of levels can hold.
        """
        table = REGION_NAMES.read(self.folders[0])
        labels = pd.to_numeric(table["label"], errors="coerce")
        if not (labels.between(0, MOST_LABEL) & (labels % 1 == 0)).all():
            raise UserError(
                f"{self.folders[0] / REGION_TABLE}: damaged (labels are whole numbers from 0 to {MOST_LABEL}); {AGAIN}."
            )
        return table.assign(label=labels.astype(int))

    @cached_property
    def _folder_of(self) -> dict[str, Path]:
        return {str(key): Path(str(folder)) for key, folder in self.manifest[["key", "folder"]].to_numpy()}

    def path(self, key: str, channel: str) -> Path:
        """Where a scan's volume is stored."""
        return self._folder_of[key] / "volumes" / f"{key}_{channel}.nii"

    def row(self, key: str) -> pd.Series:
        """A scan's row of the table."""
        return self.manifest.loc[self.manifest["key"] == key].iloc[0]

    def select(self, roles: Iterable[str]) -> pd.DataFrame:
        """Rows with one of these roles, in table order."""
        return self.manifest[self.manifest["role"].isin(list(roles))]

    def stored(self, key: str, channel: str) -> NDArray[np.int16]:
        """Memory-mapped stored levels [X, Y, Z]; times `SLOPE` are the values.

        The map of a volume is kept from the second reading on. In a pass that reads everybody once, every array that is kept
        would keep a network's buffers around it from being given back: 2.6 MiB per person at 8 mm were measured.
        """
        path = self.path(key, channel)
        kept = self._mapped.get(path)
        if kept is not None:
            return kept
        levels = open_stored(path)
        if levels.shape != self.plan.shape:
            raise UserError(f"{path}: grid {levels.shape} is not the plan's {self.plan.shape}; prepare it again.")
        if len(self._mapped) > MOST_MAPPED:
            self._mapped.clear()
        self._mapped[path] = levels if path in self._mapped else None
        return levels

    def volume(self, key: str, channel: str) -> NDArray[np.float32]:
        """One channel of one scan, float32 [X, Y, Z]."""
        return np.multiply(self.stored(key, channel), np.float32(SLOPE), dtype=np.float32)

    def load(self, keys: Sequence[str], channels: Sequence[str]) -> NDArray[np.float32]:
        """Several scans, float32 [n, C, X, Y, Z]."""
        out = np.empty((len(keys), len(channels), *self.plan.shape), dtype=np.float32)
        for i, key in enumerate(keys):
            for j, channel in enumerate(channels):
                np.multiply(self.stored(key, channel), np.float32(SLOPE), out=out[i, j], dtype=np.float32)
        return out

    def fingerprint(self, num_volumes: int = 4) -> str:
        """A hash of the tables and of a few volumes' bytes: the same wherever the same data are readable.

        Raises:
            UserError: one of them cannot be read.
        """
        last = len(self.manifest) - 1
        rows = sorted({round(last * share / max(1, num_volumes - 1)) for share in range(num_volumes)})
        paths = [folder / name for folder in self.folders for name in (FILE, PLAN, MASK)]
        paths += [
            self.path(str(self.manifest["key"].iloc[row]), channel) for row in rows for channel in self.plan.channels
        ]
        try:
            return digest([self.key, *(file_digest(path) for path in paths)])
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror}).") from None

    def require_channels(self, channels: Sequence[str]) -> None:
        """Refuse channels that were not prepared."""
        missing = [channel for channel in channels if channel not in self.plan.channels]
        if missing:
            setting = "density_channel" if MODULATED in missing else "deformation_channel"
            raise UserError(
                f"{self.folders[0]}: has no channel {', '.join(missing)}, only {', '.join(self.plan.channels)}; "
                f"name channels it has, or prepare again with {setting}=true."
            )


def read_generator_subjects(folder: Path) -> dict[str, str] | None:
    """Hash -> role of all people that the generator of a folder of synthetic scans saw; None if the folder has no such record.

    Raises:
        UserError: a damaged file.
    """
    path = folder / GENERATOR_SUBJECTS
    if not path.is_file():
        return None
    try:
        return {str(person): str(role) for person, role in load_object(path).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); run `gen3d sample` again.") from None


def generator_seen(prepared: Prepared) -> dict[str, str]:
    """All people that the generators of synthetic scans in these folders saw: hash -> `generator of FOLDER (train)`."""
    return {
        person: f"generator of {folder.name} ({role})"
        for folder in prepared.folders
        for person, role in (read_generator_subjects(folder) or {}).items()
    }


def write_cohort(
    folder: Path,
    plan: GridPlan,
    mask: NDArray[Any],
    regions: NDArray[Any],
    region_table: pd.DataFrame,
    manifest: pd.DataFrame,
) -> None:
    """Write what every cohort has besides volumes: grid, brain mask and labels [X, Y, Z], names of labels, table of scans."""
    write_plan(folder / PLAN, plan)
    write_nifti(folder / MASK, mask, plan.matrix)
    write_nifti(folder / REGIONS, regions, plan.matrix)
    write_table(folder / REGION_TABLE, region_table)
    write_manifest(folder, manifest)


def read_mask(folder: Path) -> NDArray[np.bool_]:
    """Brain mask of a cohort [X, Y, Z]."""
    return read_map(folder / MASK) > 0.5


def open_prepared(folders: Path | Sequence[Path]) -> Prepared:
    """Open one or several prepared folders as one cohort.

    Raises:
        UserError: not a finished prepared folder, plans that differ, or a scan or a person's role given twice.
    """
    listed = (folders,) if isinstance(folders, Path) else tuple(folders)
    artefacts = [read(folder, VERBS) for folder in listed]
    plans = [read_plan(folder / PLAN) for folder in listed]
    for folder, plan in zip(listed[1:], plans[1:], strict=True):
        if plan.key != plans[0].key:
            raise UserError(
                f"{folder}: its plan differs from that of {listed[0]} ({plans[0].difference(plan)}); "
                "prepare both with the same settings and version."
            )
    frames = [read_manifest(folder).assign(folder=str(folder)) for folder in listed]
    manifest = pd.concat(frames, ignore_index=True)
    twice = manifest["key"][manifest["key"].duplicated()]
    if len(twice):
        raise UserError(
            f"{', '.join(twice.iloc[:5])}: the same subject and session in two prepared folders; if they are different "
            "people, name the source of one of them when it is prepared (source='{siteB: FOLDER}')."
        )
    check_split(manifest)
    used = manifest[manifest["role"] != "excluded"]
    refuse_one_scan_twice(used, used["folder"].tolist())
    key = artefacts[0].key if len(listed) == 1 else digest([artefact.key for artefact in artefacts])
    return Prepared(listed, plans[0], manifest, key)
