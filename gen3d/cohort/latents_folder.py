"""Folders of latents: one vector per scan, the scan's row of the cohort table, and everybody whom their makers saw.

`gen3d encode` and `gen3d harmonise` write them. latents.npy is [scans, dimensions], or [members, scans, dimensions] where a
cross-fitted family made them: each member has a space of its own, and judges the people it never saw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import NUMBERS, TEXT, subject_hash
from gen3d.core.artefact import Artefact, read, write_json
from gen3d.core.errors import UserError
from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import read_table, write_table

ARRAY, MIRRORED, TABLE, SHAPE, SEEN = "latents.npy", "mirrored.npy", "latents.tsv", "latent.json", "seen.json"
VERBS = ("encode", "harmonise")

Seen = dict[str, str]
"""Hash of a subject -> what saw that person, in words: `vae (train)`."""


@dataclass(frozen=True)
class Latents:
    """An opened folder. `seen` has one entry per member: whom it learned from; `record` is what the folder says of its latents."""

    artefact: Artefact
    table: pd.DataFrame
    shape: tuple[int, ...]
    kind: str
    run_key: str
    seen: tuple[Seen, ...]
    record: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.artefact.folder

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """[members, scans, dimensions], read from disk as needed."""
        array: NDArray[np.float32] = np.load(self.folder / ARRAY, mmap_mode="r")
        return array if array.ndim == 3 else array[None]

    @property
    def shape_in_words(self) -> str:
        """`64 latents`, or `4 x 8 x 8 x 8 latents`."""
        return f"{' x '.join(map(str, self.shape))} latents"

    @property
    def num_members(self) -> int:
        """Members of the family that made the latents; 1 where all scans share one space."""
        return len(self.seen)

    @cached_property
    def blind(self) -> NDArray[np.bool_]:
        """Whether a member never saw the person of a scan, [members, scans]."""
        people = [subject_hash(str(subject)) for subject in self.table["subject"]]
        return np.array([[person not in seen for person in people] for seen in self.seen])


def write_latents(
    folder: Path,
    values: NDArray[np.floating],
    table: pd.DataFrame,
    record: Mapping[str, Any],
    seen: Sequence[Seen],
    mirrored: NDArray[np.floating] | None = None,
) -> None:
    """Write what every folder of latents has.

    Args:
        folder: where.
        values: [scans, dimensions], or [members, scans, dimensions] of a cross-fitted family.
        table: rows of the cohort table, one per scan.
        record: shape of one latent, kind and run_key of the model, and its channels.
        seen: per member, whom it saw.
        mirrored: latents of the scans mirrored left to right, shaped as `values`.
    """
    np.save(folder / ARRAY, np.asarray(values, dtype=np.float32))
    if mirrored is not None:
        np.save(folder / MIRRORED, np.asarray(mirrored, dtype=np.float32))
    write_table(folder / TABLE, table)
    write_json(folder / SHAPE, record)
    write_json(folder / SEEN, {str(member): people for member, people in enumerate(seen)})


@dataclass(frozen=True)
class LatentsFolder(ResultFolder):
    """Latents as they are drawn; of a family, whose members have spaces of their own, the first member's."""

    named_by: ClassVar = "model"

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """[n, d]."""
        try:
            values: NDArray[np.float32] = np.load(self.folder / ARRAY, allow_pickle=False)
        except (OSError, ValueError):
            raise UserError(f"{self.folder / ARRAY}: missing or damaged; run `gen3d encode` again.") from None
        return values[0] if values.ndim == 3 else values.reshape(len(values), -1)

    @property
    def description(self) -> str:
        """`64 dimensions`, and of which member where the members of a family have spaces of their own."""
        stored: NDArray[np.float32] = np.load(self.folder / ARRAY, mmap_mode="r")
        member = ", the first member of a cross-fitted family" if stored.ndim == 3 else ""
        return f"{self.values.shape[1]} dimensions{member}"

    @cached_property
    def scan_table(self) -> pd.DataFrame:
        """A row per scan."""
        return read_table(self.folder / TABLE)

    @property
    def cohort_rows(self) -> pd.DataFrame:
        """Rows of the cohort table."""
        return self.scan_table


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
    found = _json(folder / SEEN)
    seen = tuple({str(person): str(role) for person, role in found[name].items()} for name in sorted(found, key=int))
    return Latents(artefact, table, shape, kind, key, seen, record)


def read_latents_table(folder: Path, verbs: Sequence[str] = VERBS) -> pd.DataFrame:
    """The table of a latents folder, one row per scan of the array.

    Raises:
        UserError: not a finished folder of latents, or damaged.
    """
    read(folder, tuple(verbs))
    try:
        table = pd.read_csv(
            folder / TABLE, sep="\t", na_values=["n/a"], keep_default_na=False, dtype=dict.fromkeys(TEXT, str)
        )
        num = np.load(folder / ARRAY, mmap_mode="r").shape[-2]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{folder}: damaged latents ({error}); encode again.") from None
    if num != len(table):
        raise UserError(f"{folder}: {num} latents but {len(table)} rows in {TABLE}; encode again.")
    for column in (name for name in TEXT if name in table.columns):
        table[column] = table[column].astype(object).where(table[column].notna(), "")
    for column in (name for name in NUMBERS if name in table.columns):
        table[column] = pd.to_numeric(table[column], errors="coerce")
    return table


def _json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); encode again.") from None
    return value
