"""Slice images of people: a row per image, from a table, a Parquet file or a folder, and the pixels of each.

An image without its person cannot be split: slices of one brain on both sides of a split make any classifier look good
(Yagis et al. 2021, Sci Rep 11:22544). So every source needs a column, or a part of the file's name, that says who it is.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gen3d.core.errors import UserError
from gen3d.core.files import require_regular
from gen3d.core.user_table import read_parquet, read_user_table
from gen3d.imaging.volume import read_volume
from gen3d.prepare.columns import ALIASES, Columns
from gen3d.prepare.standard import standardise

Grey = NDArray[np.float32]

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".nii", ".nii.gz")
PARQUET = (".parquet",)
SLICE, IMAGE, ROW = "slice", "image", "_row"
MOST_PIXELS = 16_000_000
"""Of one image, far more than any slice has; a file that claims more is not decoded."""
NO_PEOPLE = "slices without people cannot be split, because slices of one brain on both sides would be recognised, not classified"


@dataclass(frozen=True)
class SliceTable:
    """One row per image: columns of the cohort table, `slice` (a number), and `source`; `table` is the Parquet file, if any."""

    frame: pd.DataFrame
    packed: Path | None = None


def read_slice_table(
    source: Path, columns: Columns, slice_column: str, pattern: str | None, lenient: bool = False
) -> SliceTable:
    """The images of a source and whose they are.

    Args:
        source: CSV or TSV table with the paths of images or volumes; Parquet file with the images in it, or with paths; or a
            folder of images.
        columns: names and codings that differ from the usual ones.
        slice_column: column with the number of a slice in its scan.
        pattern: of a folder: regular expression of the paths below it, with the groups `subject` and `slice`, and perhaps
            `session` and `diagnosis`.
        lenient: whether columns that the user names may be absent, because a table of people has them.

    Raises:
        UserError: no person or no slice number, paths that do not match, or a table that cannot be read.
    """
    if source.is_dir():
        return SliceTable(_of_folder(source, columns, pattern, lenient))
    if pattern is not None:
        raise UserError(f"{source}: pattern= goes with a folder of images; a table has columns.")
    if source.suffix.lower() in PARQUET:
        table = read_parquet(source)
        packed = IMAGE in table.columns
        table = table.drop(columns=IMAGE) if packed else table
        text = table.map(lambda cell: "" if cell is None or cell != cell else str(cell).strip())
        frame = _numbered(source, _known(source, text, columns, lenient), slice_column)
        frame[ROW] = np.arange(len(frame))
        return SliceTable(frame if not packed else frame.assign(source=str(source)), source if packed else None)
    frame = _numbered(source, _known(source, read_user_table(source, of_files=True), columns, lenient), slice_column)
    if "source" not in frame:
        raise UserError(
            f"{source}: no column with the images' files (looked for {', '.join(ALIASES['path'])}); name it with columns.path=."
        )
    return SliceTable(frame.assign(source=[str(source.parent / name) for name in frame["source"]]))


def _known(source: Path, table: pd.DataFrame, columns: Columns, lenient: bool) -> pd.DataFrame:
    """The table in gen3d's terms.

    Raises:
        UserError: no column that says who a slice shows.
    """
    there = {str(name).lower() for name in table.columns}
    wanted = (columns.subject.lower(),) if columns.subject else ALIASES["subject"]
    if not there & set(wanted):
        raise UserError(
            f"{source}: no column says whose slice a row is (looked for {', '.join(wanted)}), and {NO_PEOPLE}; name the column "
            f"with columns.subject= (the columns are {', '.join(map(str, table.columns))})."
        )
    return standardise(table, columns, source, lenient=lenient)


def _numbered(source: Path, frame: pd.DataFrame, slice_column: str) -> pd.DataFrame:
    """The rows with `slice` as a number; a scan of one row (a volume) needs none.

    Raises:
        UserError: a scan of several rows without numbers, or a number given twice in one scan.
    """
    named = {str(name).lower(): name for name in frame.columns}
    session = frame["session"] if "session" in frame else pd.Series("", index=frame.index)
    scan = frame["subject"].astype(str) + "\t" + session.astype(str)
    if slice_column.lower() in named:
        numbers = pd.to_numeric(frame[named[slice_column.lower()]], errors="coerce")
    else:
        numbers = pd.Series(np.nan, index=frame.index)
    several = scan.duplicated(keep=False)
    if (several & numbers.isna()).any():
        who = scan[several & numbers.isna()].iloc[0].split("\t")[0]
        raise UserError(
            f"{source}: the slices of {who} have no number (column {slice_column}), so their order is unknown; name the column "
            "with slice_column=, and the visit with columns.session= if a person was scanned more than once."
        )
    twice = pd.DataFrame({"scan": scan, "slice": numbers}).duplicated()
    if twice.any():
        who = scan[twice].iloc[0].split("\t")[0]
        raise UserError(
            f"{source}: slice {numbers[twice].iloc[0]:g} of {who} is given twice; name the visit with columns.session= if these "
            "are two scans."
        )
    return frame.assign(**{SLICE: numbers.fillna(0.0)})


def _of_folder(folder: Path, columns: Columns, pattern: str | None, lenient: bool) -> pd.DataFrame:
    """A row per image below a folder, by the groups of a pattern.

    Raises:
        UserError: no pattern, one without the group `subject`, no image, or one that it does not match.
    """
    if pattern is None:
        raise UserError(
            f"{folder}: say whose slice a file is, for {NO_PEOPLE}: "
            "pattern='(?P<diagnosis>[^/]+)/(?P<subject>[^_/]+)_(?P<slice>[0-9]+)' "
            "is found in each path below the folder; or give a table."
        )
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"pattern={pattern}: not a regular expression ({error}).") from None
    if "subject" not in expression.groupindex:
        raise UserError(f"pattern={pattern}: has no group (?P<subject>...), and {NO_PEOPLE}.")
    paths = sorted(path for path in folder.rglob("*") if path.name.lower().endswith((*IMAGES, *VOLUMES)))
    if not paths:
        raise UserError(f"{folder}: no image below it ({', '.join((*IMAGES, *VOLUMES))}).")
    rows = []
    for path in paths:
        found = expression.search(path.relative_to(folder).as_posix())
        if found is None:
            raise UserError(f"{path}: does not match pattern={pattern}; correct the pattern, or move the file.")
        rows.append({**{name: value or "" for name, value in found.groupdict().items()}, "path": str(path)})
    frame = standardise(pd.DataFrame(rows, dtype=object), columns, folder / "the names of its files", lenient=lenient)
    return _numbered(folder, frame, SLICE)


def pixels(path: Path, content: bytes | None = None) -> Grey:
    """Grey values of one image [rows, columns], as stored; colours are averaged by luminance.

    Raises:
        UserError: no image, or more pixels than a slice can have.
    """
    try:
        if content is None:
            require_regular(path)
        with Image.open(io.BytesIO(content) if content is not None else path) as whole:
            whole.verify()  # checksums, which decoding alone does not look at where the end is missing
        with Image.open(io.BytesIO(content) if content is not None else path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(f"{path}: {image.width} x {image.height} pixels are no slice of a brain.")
            grey = image if image.mode in ("L", "I", "I;16", "F") else image.convert("L")
            return np.asarray(grey, dtype=np.float32)
    except (OSError, SyntaxError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({str(error).splitlines()[0]}).") from None


def image_bytes(cell: Any, path: Path, row: int) -> bytes:
    """The content of a Parquet file's image cell: bytes, or the mapping {bytes, path} of image datasets.

    Raises:
        UserError: neither.
    """
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise UserError(f"{path}: row {row + 1} holds no image in its column `{IMAGE}`; give the images as bytes.")
    return content


def as_plane(image: Grey, plane: str) -> Grey:
    """An image as it is looked at, turned into the two axes of its plane, left to right, back to front, bottom to top.

    The upper edge is the front of an axial slice and the top of a coronal or sagittal one; the left edge is the person's left,
    or the back of a sagittal slice. Files do not say which side is which: where it matters, check it.
    """
    return np.ascontiguousarray(image[::-1].T)


def stacked(slices: list[Grey], plane: str) -> Grey:
    """Slices in order as a volume [X, Y, Z]."""
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    return np.stack([as_plane(image, plane) for image in slices], axis=axis)


def volume_of(path: Path) -> Grey:
    """A volume file in RAS+ axis order [X, Y, Z]."""
    return read_volume(path).data


def is_volume(path: str) -> bool:
    """Whether a file is a volume, by its name."""
    return path.lower().endswith(VOLUMES)
