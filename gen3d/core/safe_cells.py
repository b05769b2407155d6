"""Cells that a spreadsheet would execute: written with an apostrophe in front, and read without it.

A diagnosis `=HYPERLINK(...)` of a foreign table would run when somebody opens verdicts.tsv in a spreadsheet. Every table that gen3d
writes is opened by people and read by other verbs, so both sides are here, and what is read is what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

_FIRST = frozenset("'=+-@\t\r")
_EXECUTED = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]inf|-")


def disarmed(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe in front of text that a spreadsheet would execute; numbers such as -3 stay."""
    return _of_text(frame, lambda cell: f"'{cell}" if _EXECUTED.match(cell) and not _NUMBER.fullmatch(cell) else cell)


def armed(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as it was before `disarmed`."""
    return _of_text(frame, lambda cell: cell[1:] if cell[:1] == "'" and _EXECUTED.match(cell) else cell)


def _of_text(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    changed = {}
    for place, (_, column) in enumerate(frame.items()):
        if column.dtype.kind not in "OUS" and not isinstance(column.dtype, pd.StringDtype):
            continue
        if any(isinstance(cell, str) and cell[:1] in _FIRST for cell in column.unique()):
            changed[place] = column.map(lambda cell: change(cell) if isinstance(cell, str) else cell)
    if not changed:
        return frame
    columns = [changed.get(place, column) for place, (_, column) in enumerate(frame.items())]
    return pd.concat(columns, axis=1)
