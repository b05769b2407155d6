"""Tables of people read without losing a digit: a column becomes numbers only where every cell is the number that it was."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from gen3d.core.safe_cells import armed
from gen3d.core.tables import parse_table

MOST_DIGITS = 15
"""Of a whole number that a float holds exactly."""
_CODE = re.compile(rf"[-+]?0[0-9].*|[0-9]+[eE][0-9]+|[-+]?[0-9]{{{MOST_DIGITS + 1},}}(\.0*)?")
"""0102, 1e3 and 12345678901234567 are codes: as numbers they would be 102, 1000 and another code."""


def read_exact(path: Path, text: Iterable[str], missing: Sequence[str]) -> pd.DataFrame:
    """A tab-separated table.

    Args:
        path: of the table.
        text: columns that are words whatever they look like.
        missing: what a missing value is written as.

    Returns:
        Numbers where a column holds only numbers that can be written back as they are, words elsewhere (also true and false).

    Raises:
        OSError, ValueError: as `parse_table`.
    """
    words = dict.fromkeys(text, str)
    frame = parse_table(path, dtype=words, na_values=list(missing))
    inferred = [name for name in frame.columns if name not in words and frame[name].dtype.kind in "iufb"]
    cells = parse_table(path, dtype=str, na_values=list(missing))
    for name in inferred:
        if name in cells and (frame[name].dtype.kind == "b" or holds_codes(cells[name])):
            frame[name] = cells[name].astype(object)
    return armed(frame)


def with_numbers(cells: pd.DataFrame, text: Iterable[str] = ()) -> pd.DataFrame:
    """A table of text with numbers in the columns that hold only numbers, by the same rule; an empty cell is missing."""
    frame, words = cells.copy(), set(text)
    for name in (name for name in frame.columns if name not in words):
        known = frame[name].where(frame[name] != "")
        numbers = pd.to_numeric(known, errors="coerce")
        if known.notna().any() and (numbers.notna() == known.notna()).all() and not holds_codes(known):
            frame[name] = numbers
    return frame


def holds_codes(cells: pd.Series) -> bool:
    """Whether a cell of a column of text would be another one after a number was made of it."""
    return any(_CODE.fullmatch(str(cell).strip()) for cell in cells.dropna().unique())
