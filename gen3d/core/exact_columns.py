"""Tables of people read without losing a digit: a column becomes numbers only where every cell is the number that it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from gen3d.core.safe_cells import armed
from gen3d.core.tables import holds_codes, parse_exact


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
    return armed(parse_exact(path, text, missing, words_too=True))


def with_numbers(cells: pd.DataFrame, text: Iterable[str] = ()) -> pd.DataFrame:
    """A table of text with numbers in the columns that hold only numbers, by the same rule; an empty cell is missing."""
    frame, words = cells.copy(), set(text)
    for name in (name for name in frame.columns if name not in words):
        known = frame[name].where(frame[name] != "")
        numbers = pd.to_numeric(known, errors="coerce")
        if known.notna().any() and (numbers.notna() == known.notna()).all() and not holds_codes(known):
            frame[name] = numbers
    return frame
