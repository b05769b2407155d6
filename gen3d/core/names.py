"""Names that become names of files: a key, a channel, a subject. One that leads elsewhere is refused where it is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from gen3d.core.errors import UserError

NAME_COLUMNS = ("key", "base", "neighbour_key", "subject", "session", "session_1", "session_2", "channel")
"""Columns of tables whose cells are parts of the names of files."""

OPTIONAL = ("base", "neighbour_key")
"""Those of them that a row need not have: most scans are no planted copy of another."""

ABSENT = "n/a"
"""How tables that are read cell by cell spell what is missing."""

LONGEST = 180
"""Bytes; most file systems allow 255, of which gen3d adds a channel, a suffix and a mark of unfinished files."""


def fault_of(name: str) -> str:
    """Why a text cannot be part of a file's name, "" where it can."""
    if "/" in name or "\\" in name:
        return "it would be a path"
    if name in (".", ".."):
        return "it would be a folder"
    if not name.isprintable():
        return "it holds a control character"
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        return f"it is longer than {LONGEST} bytes"
    return ""


def require_names(names: Iterable[object], path: Path, what: str, remedy: str) -> None:
    """Refuse names that would lead out of a folder, or that no file can have; what is missing ("" or NaN) is no name.

    Args:
        names: parts of names of files.
        path: the file that they were read from.
        what: what they are: `key`.
        remedy: how to mend it, as the end of the sentence.

    Raises:
        UserError: naming the file and the first of them.
    """
    for name in names:
        text = name if isinstance(name, str) else ""
        if fault := fault_of(text):
            listed = text if len(text) <= 60 else f"{text[:57]}..."
            raise UserError(f"{path}: the {what} {listed!r} cannot be part of a file's name ({fault}); {remedy}.")


def require_file_names(frame: pd.DataFrame, path: Path, remedy: str) -> None:
    """`require_names` for every column of a table that names files.

    Raises:
        UserError: naming the file, the column and the first cell that cannot be a name.
    """
    for column in NAME_COLUMNS:
        if column in frame.columns:
            may_be_absent = column in OPTIONAL
            names = [name for name in frame[column].unique() if not (may_be_absent and name == ABSENT)]
            require_names(names, path, column, remedy)
