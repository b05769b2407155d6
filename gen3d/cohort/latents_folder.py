"""Folders of latents: one vector per scan, the scan's row of the cohort table, and all people that the models behind them saw.

`gen3d encode` and `gen3d harmonise` write them. latents.npy is [scans, dimensions], or [members, scans, dimensions] where a
cross-fitted family made them: each member has its own latent space, and scores the people that it never saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import TEXT, typed
from gen3d.cohort.seen import SeenBy
from gen3d.core.arrays import read_array
from gen3d.core.artefact import Artefact, read, write_json
from gen3d.core.errors import UserError
from gen3d.core.exact_columns import read_exact
from gen3d.core.plain_files import load_object
from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import read_table, write_table
from gen3d.core.work_arrays import save_array

ARRAY, MIRRORED, TABLE, SHAPE, SEEN = "latents.npy", "mirrored.npy", "latents.tsv", "latent.json", "seen.json"
VERBS = ("encode", "harmonise")


@dataclass(frozen=True)
class LatentSpace:
    """The space that latents lie in. Numbers of two spaces cannot be compared, so spaces are checked before latents are joined.

    Attributes:
        description: of its latents: `64 latents of the vae of FOLDER`.
        made_by: keys of the runs that made it.
        width: numbers per scan.
        num_members: spaces, of the members of a cross-fitted family.
        harmonised: whether the sites' effects were taken out; None where that is not known.
    """

    description: str
    made_by: tuple[str, ...]
    width: int
    num_members: int = 1
    harmonised: bool | None = False

    def _difference(self, other: LatentSpace) -> tuple[str, str]:
        """How two spaces differ and what to do, "" where they are one."""
        if self.made_by != other.made_by:
            return (
                f"the run {', '.join(other.made_by)} is not the run {', '.join(self.made_by)}",
                "encode all with one run",
            )
        if self.width != other.width:
            return f"{other.width} numbers per scan are not {self.width}", "encode all in the same way"
        if None not in (self.harmonised, other.harmonised) and self.harmonised != other.harmonised:
            return (
                f"the {'former' if other.harmonised else 'latter'} are harmonised, the others are not",
                "harmonise both together, or let classify harmonise inside its folds (harmonise.by=site)",
            )
        return "", ""


def require_one_space(spaces: Sequence[LatentSpace], families: bool = False) -> None:
    """Refuse latents that do not all lie in one space.

    Args:
        spaces: of everything that is to be put together.
        families: whether each member of a family may have a space of its own.

    Raises:
        UserError: naming the two that differ.
    """
    first = spaces[0]
    for space in spaces:
        if space.num_members > 1 and not families:
            raise UserError(
                f"{space.description}: each of its {space.num_members} members has a latent space of its own; encode with a run "
                "trained with cross_fit=1."
            )
        difference, remedy = first._difference(space)
        if difference:
            raise UserError(
                f"{space.description} and {first.description} are not in one latent space: {difference}; {remedy}."
            )


@dataclass(frozen=True)
class Latents:
    """An opened folder. `seen`: who each member was trained on; `record` describes the latents."""

    artefact: Artefact
    table: pd.DataFrame
    shape: tuple[int, ...]
    kind: str
    run_key: str
    seen: SeenBy
    record: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.artefact.folder

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """[members, scans, dimensions], read from disk as needed."""
        array = read_latents(self.folder)
        return array if array.ndim == 3 else array[None]

    @property
    def shape_text(self) -> str:
        """`64 latents`, or `4 x 8 x 8 x 8 latents`."""
        return f"{' x '.join(map(str, self.shape))} latents"

    @property
    def description(self) -> str:
        """`64 latents of the vae of FOLDER`."""
        return f"{self.shape_text} of the {self.kind} of {self.folder}"

    @property
    def space(self) -> LatentSpace:
        """Where they lie."""
        harmonised = self.artefact.verb == "harmonise"
        return LatentSpace(self.description, (self.run_key,), self.values.shape[2], self.num_members, harmonised)

    @property
    def num_members(self) -> int:
        """Members of the family that made the latents; 1 where all scans share one space."""
        return len(self.seen.members)

    @cached_property
    def blind(self) -> NDArray[np.bool_]:
        """Whether a member never saw the person of a scan, [members, scans]."""
        return self.seen.blind(self.table)


def write_latents(
    folder: Path,
    values: NDArray[np.floating],
    table: pd.DataFrame,
    record: Mapping[str, Any],
    seen: SeenBy,
    mirrored: NDArray[np.floating] | None = None,
) -> None:
    """Write what every folder of latents has.

    Args:
        folder: where.
        values: [scans, dimensions], or [members, scans, dimensions] of a cross-fitted family.
        table: rows of the cohort table, one per scan.
        record: shape of one latent, kind and run_key of the model, and its channels.
        seen: who each member was trained on.
        mirrored: latents of the scans mirrored left to right, shaped as `values`.
    """
    save_array(folder / ARRAY, np.asarray(values, dtype=np.float32))
    if mirrored is not None:
        save_array(folder / MIRRORED, np.asarray(mirrored, dtype=np.float32))
    write_table(folder / TABLE, table)
    write_json(folder / SHAPE, record)
    write_json(folder / SEEN, seen.record())


@dataclass(frozen=True)
class LatentsFolder(ResultFolder):
    """Latents as they are drawn; of a family, whose members have spaces of their own, the first member's."""

    named_by: ClassVar = "model"

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """[n, d]."""
        values = read_latents(self.folder)
        first = np.asarray(values[0] if values.ndim == 3 else values)
        if not np.isfinite(first).all():
            raise UserError(
                f"{self.folder / ARRAY}: holds NaN or infinite latents; encode again with a run that is sound."
            )
        return first

    @property
    def description(self) -> str:
        """`64 dimensions`, and of which member where the members of a family have spaces of their own."""
        member = ", the first member of a cross-fitted family" if read_latents(self.folder).ndim == 3 else ""
        return f"{self.values.shape[1]} dimensions{member}"

    @cached_property
    def scan_table(self) -> pd.DataFrame:
        """A row per scan."""
        return read_table(self.folder / TABLE, ("key", "subject"))

    @property
    def cohort_rows(self) -> pd.DataFrame:
        """Rows of the cohort table."""
        return self.scan_table


def read_latents(folder: Path) -> NDArray[np.float32]:
    """The array of a folder of latents, [scans, dimensions] or [members, scans, dimensions], read from disk as needed.

    Raises:
        UserError: missing, damaged, or of another kind.
    """
    path = folder / ARRAY
    try:
        values = read_array(path, mapped=True)
        if values.ndim not in (2, 3) or values.dtype.kind != "f":
            raise ValueError(f"{values.dtype} of shape {values.shape} is no table of latents")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); encode again.") from None
    return values


def open_latents_folder(folder: Path, verbs: Sequence[str] = VERBS) -> Latents:
    """Open a finished folder of latents.

    Raises:
        UserError: not such a folder, damaged, or a table that does not fit the array.
    """
    artefact = read(folder, tuple(verbs))
    record = _json(folder / SHAPE)
    try:
        shape, kind, key = tuple(int(side) for side in record["shape"]), str(record["kind"]), str(record["run_key"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / SHAPE}: damaged ({error}); encode again.") from None
    table = read_latents_table(folder, verbs)
    seen = SeenBy.read(folder / SEEN, "encode again")
    values = read_latents(folder)
    if len(seen.members) != (len(values) if values.ndim == 3 else 1):
        raise UserError(
            f"{folder / SEEN}: names {len(seen.members)} members, and {ARRAY} has the shape {values.shape}; encode again."
        )
    return Latents(artefact, table, shape, kind, key, seen, record)


def read_latents_table(folder: Path, verbs: Sequence[str] = VERBS) -> pd.DataFrame:
    """The table of a latents folder, one row per scan of the array.

    Raises:
        UserError: not a finished folder of latents, or damaged.
    """
    read(folder, tuple(verbs))
    try:
        table = read_exact(folder / TABLE, TEXT, ["n/a"])
        num = read_array(folder / ARRAY, mapped=True).shape[-2]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{folder}: damaged latents ({error}); encode again.") from None
    if num != len(table):
        raise UserError(f"{folder}: {num} latents but {len(table)} rows in {TABLE}; encode again.")
    absent = [name for name in ("key", "subject") if name not in table.columns]
    if absent:
        raise UserError(f"{folder / TABLE}: lacks the column {absent[0]}; encode again.")
    typed(table, folder / TABLE, "encode again")
    if "seen" in table.columns:  # gen3d's own column, not a word of the user's
        table["seen"] = table["seen"].astype(str).eq("True")
    return table


def _json(path: Path) -> dict[str, Any]:
    try:
        return load_object(path, finite=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); encode again.") from None
