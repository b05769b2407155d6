"""A scan known by its content, whatever its id, file name or compression: the second line of defence of who was seen by what.

The column `scan_hash` of a cohort table holds the hash of the scan that a row was made from (of a planted twin: its base's).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import SCAN_HASH, is_twin
from gen3d.core.errors import UserError

PREFIX = "v"
"""Of every hash of voxels, so that it is never read as a number nor taken for the hash of an id."""


def voxel_hash(voxels: NDArray[Any]) -> str:
    """A hash of an image's shape and values [X, Y, Z], as float32 in the order of its axes."""
    values = np.ascontiguousarray(voxels, dtype="<f4")
    content = hashlib.sha256(repr(values.shape).encode())
    content.update(values.data)
    return f"{PREFIX}{content.hexdigest()[:16]}"


def file_voxel_hash(path: Path, stored: NDArray[Any] | None = None) -> str:
    """The hash of a readable image in its closest-canonical axes (RAS+): compression, format and number type do not count.

    ``stored`` are its voxels [I, J, K] as float32, where somebody has read them already; an image whose header scales its
    numbers is read again, because that somebody may have rounded otherwise.
    """
    image: Any = nib.load(path)
    scaled = (getattr(image.dataobj, "slope", None), getattr(image.dataobj, "inter", None)) != (1.0, 0.0)
    values = np.asarray(image.dataobj, dtype=np.float32) if stored is None or scaled else stored
    values = values.reshape(image.shape[:3]) if values.ndim > 3 else values
    turn = nib.orientations.io_orientation(image.affine)
    return voxel_hash(nib.orientations.apply_orientation(values, turn))


def one_scan_of_two(table: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """Pairs of row numbers that hold one scan under two keys: the first such row with each further one; twins do not count."""
    if SCAN_HASH not in table.columns:
        return
    first: dict[str, int] = {}
    hashes, twins = table[SCAN_HASH].astype(object).where(table[SCAN_HASH].notna(), "").astype(str), is_twin(table)
    for row, (content, key, twin) in enumerate(zip(hashes, table["key"], twins, strict=True)):
        if content and not twin:
            earlier = first.setdefault(content, row)
            if table["key"].iloc[earlier] != key:
                yield earlier, row


def refuse_one_scan_twice(table: pd.DataFrame, places: Sequence[str]) -> None:
    """Refuse a table in which one scan has two keys, whoever they are: one of the two rows is wrong.

    Args:
        table: cohort table.
        places: where each row comes from, for the sentence.

    Raises:
        UserError: naming both.
    """
    pairs = list(one_scan_of_two(table))
    if pairs:
        (first, second), keys = pairs[0], table["key"]
        more = f", and {len(pairs) - 1} more such pair{'s' if len(pairs) > 2 else ''}" if len(pairs) > 1 else ""
        raise UserError(
            f"{keys.iloc[first]} ({places[first]}) and {keys.iloc[second]} ({places[second]}) are one scan, voxel by "
            f"voxel{more}; keep the row of the person whose scan it is, or correct the path of the other."
        )
