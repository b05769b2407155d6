"""Tables of a folder for readers: columns with plain names, numbers with sensible digits, intervals next to their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gen3d.core import words as spell
from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import Row
from gen3d.figures import names as wording
from gen3d.figures.blocks import Table
from gen3d.maths.stats import Interval

P_VALUES = ("p", "q")
COLUMN_NAMES = {
    "num": "n",
    "p": "p",
    "q": "q",
    "auc": "AUC",
    "ari": "ARI",
    "bic": "BIC",
    "r2": "R²",
    "age_years": "Age, years",
}


def column_name(column: str) -> str:
    """A column's name for a reader."""
    if column in COLUMN_NAMES:
        return COLUMN_NAMES[column]
    if column.startswith("num_"):
        return spell.capital(column.removeprefix("num_").replace("_", " "))
    return spell.capital(column.replace("_", " "))


def plain_table(caption: str, rows: Sequence[Row], names: dict[str, str] | None = None) -> Table:
    """All rows, and all columns that are not empty.

    Columns x_low and x_high (or low and high of `value`) are shown in brackets after x.
    """
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if not _is_empty(rows, name)]
    limits = {name: _limits(name, columns) for name in columns}
    hidden = {limit for pair in limits.values() if pair for limit in pair}
    shown = [name for name in columns if name not in hidden]
    named = names or {}
    header = [named.get(name, column_name(name)) + (" [95 %]" if limits[name] else "") for name in shown]
    cells = [[cell(row.get(name), name, _interval(row, name, limits[name])) for name in shown] for row in rows]
    align = "".join("r" if any(_is_number(row.get(name)) for row in rows) else "l" for name in shown)
    return Table(caption, header, cells, align)


def cell(value: Any, column: str, interval: Interval | None = None) -> str:
    """The text of one cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not _is_number(value):
        return spell.NONE if _is_missing(value) else str(value).replace("_", " ")
    if interval is not None:
        return wording.with_interval(interval, _digits(max(abs(interval.low), abs(interval.high))))
    if column in P_VALUES or column.startswith(("p_", "q_")):
        return spell.probability(float(value))
    if isinstance(value, int) or (float(value).is_integer() and (column.startswith("num") or abs(float(value)) >= 10)):
        return spell.number(float(value), 0)
    return spell.number(float(value), _digits(abs(float(value))))


def _digits(size: float) -> int:
    return 1 if size >= 100 else 2 if size >= 0.1 else 3


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _is_empty(rows: Sequence[Row], name: str) -> bool:
    return all(_is_missing(row.get(name)) for row in rows)


def _limits(name: str, columns: Sequence[str]) -> tuple[str, str] | None:
    pairs = [(f"{name}_low", f"{name}_high")]
    if name in ("value", "difference"):
        pairs.append(("low", "high"))
    return next((pair for pair in pairs if set(pair) <= set(columns)), None)


def _interval(row: Row, name: str, pair: tuple[str, str] | None) -> Interval | None:
    if pair is None or not all(_is_number(row.get(key)) for key in (name, *pair)):
        return None
    return Interval(float(row[name]), float(row[pair[0]]), float(row[pair[1]]), 0)


def interval_of(
    folder: ResultFolder, row: Row, table: str, names: tuple[str, str, str] = ("value", "low", "high")
) -> Interval:
    """A value with its interval, read from three columns of a row, and the number of people behind it.

    Raises:
        UserError: a cell of the table is not a number.
    """
    value, low, high = (folder.number(row, name, table) for name in names)
    num = folder.number(row, "num_people", table)
    return Interval(value, low, high, int(num) if math.isfinite(num) else 0)
