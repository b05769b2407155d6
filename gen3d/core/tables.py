"""Tables on disk and in JSON: tab-separated with BIDS's n/a, and rows whose missing numbers are null.

A folder's `folder.py` says once what each of its tables is called and which columns it has, as a `TableFile`; the verb writes
through it and all others read through it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.core.artefact import write_atomic
from gen3d.core.errors import UserError
from gen3d.core.names import require_file_names
from gen3d.core.plain_files import load_json, read_bytes
from gen3d.core.safe_cells import armed, disarmed

# Text is kept by Python's own strings whether or not pyarrow is installed: its strings refuse file names that are no UTF-8.
pd.set_option("mode.string_storage", "python")

Row = dict[str, Any]

TEXT = frozenset(
    (
        "key",
        "subject",
        "session",
        "session_1",
        "session_2",
        "site",
        "diagnosis",
        "role",
        "sex",
        "flags",
        "entry",
        "remark",
    )
) | {"condition", "channel", "region", "base", "source", "scan_hash", "source_subject"}
"""Columns that are text in every table, so that subject 007 stays 007; an empty cell is ""."""

MISSING = ("n/a", "")
"""Not pandas' own list, which would read the condition `null` as a missing value."""

AGAIN = "run the verb that wrote this folder again"


MOST_DIGITS = 15
"""Of a whole number that a float holds exactly."""
_CODE = re.compile(rf"[-+]?0[0-9].*|[0-9]+[eE][0-9]+|[-+]?[0-9]{{{MOST_DIGITS + 1},}}(\.0*)?")
"""0102, 1e3 and 12345678901234567 are codes: as numbers they would be 102, 1000 and another code."""
_MAY_BE_CODE = re.compile(rf"(?:^|\t)[\"' ]*[-+]?(?:0[0-9]|[0-9]{{{MOST_DIGITS + 1}}}|[0-9]+[eE][0-9])", re.MULTILINE)


@dataclass(frozen=True)
class TableFile:
    """One table of a folder: its file, and the columns that its writer gives and its readers rely on.

    A table may have more columns than these (`score_residual`, `score_deformation`, ...). `again` ends the sentence about a
    table that cannot be read.
    """

    file: str
    columns: tuple[str, ...] = ()
    again: str = AGAIN

    def read(self, folder: Path, *further: str) -> pd.DataFrame:
        """The table, text columns as text.

        Raises:
            UserError: missing, damaged, or without one of its columns or of `further` ones.
        """
        return read_table(folder / self.file, (*self.columns, *further), self.again)

    def read_if_there(self, folder: Path) -> pd.DataFrame:
        """The table, or one without rows where the folder has none.

        Raises:
            UserError: damaged, or without one of its columns.
        """
        return self.read(folder) if (folder / self.file).is_file() else pd.DataFrame(columns=list(self.columns))

    def write(self, folder: Path, frame: pd.DataFrame, digits: int = 6) -> None:
        """Write the table, numbers to so many significant digits."""
        absent = set(self.columns) - set(frame.columns)
        assert not absent, f"{self.file} lacks {sorted(absent)}"
        write_table(folder / self.file, frame, digits)


def write_table(path: Path, frame: pd.DataFrame, digits: int = 6) -> None:
    """Write a TSV with BIDS's n/a for missing values, numbers to so many significant digits, whole numbers with all of theirs."""
    buffer = io.StringIO()
    disarmed(frame).to_csv(
        buffer, sep="\t", index=False, na_rep="n/a", float_format=lambda value: _digits(value, digits)
    )
    write_atomic(path, buffer.getvalue())


def _digits(value: Any, digits: int) -> str:
    """A number as text; a whole one may be somebody's code (scanner 2180401), which is another one after rounding."""
    return (
        f"{value:.0f}" if 10**digits <= abs(value) < 10**MOST_DIGITS and value.is_integer() else f"{value:.{digits}g}"
    )


def read_table(path: Path, required: Iterable[str] = (), again: str = AGAIN) -> pd.DataFrame:
    """A tab-separated table; columns of `TEXT` are text, and "" where a cell is empty.

    Raises:
        UserError: missing, damaged, or without one of the columns `required`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table; {again}.")
    if path.stat().st_size == len("\n"):  # a table without rows whose columns depend on its rows, see `write_table`
        return pd.DataFrame(columns=list(required))
    try:
        frame = parse_exact(path, TEXT, MISSING)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); {again}.") from None
    absent = [column for column in required if column not in frame.columns]
    if absent:
        raise UserError(f"{path}: lacks the column {', '.join(absent)}; {again}.")
    for column in TEXT.intersection(frame.columns):
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    frame = armed(frame)
    require_file_names(frame, path, again)
    return frame


def parse_table(path: Path, separator: str = "\t", **options: Any) -> pd.DataFrame:
    """A table of a text file as it is: no cell is missing unless `options` (those of `pandas.read_csv`) say which.

    Raises:
        OSError: missing or no regular file.
        ValueError: not a table in UTF-8, two columns of one name, or a row with more or fewer cells than the header; with
            the reason.
    """
    text = read_bytes(path).decode("utf-8-sig")
    _require_rectangle(text, separator)
    try:
        frame = pd.read_csv(io.StringIO(text), sep=separator, keep_default_na=False, **options)
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError("its rows have more cells than its header")
    return frame


def parse_exact(path: Path, text: Iterable[str], missing: Sequence[str], words_too: bool = False) -> pd.DataFrame:
    """A table of a text file in which a column becomes numbers only where every cell is the number that it was.

    Args:
        path: of the table.
        text: columns that are words whatever they look like.
        missing: what a missing value is written as.
        words_too: leave true and false as they are written.

    Raises:
        OSError, ValueError: as `parse_table`.
    """
    words = dict.fromkeys(text, str)
    frame = parse_table(path, dtype=words, na_values=list(missing))
    inferred = [name for name in frame.columns if name not in words and frame[name].dtype.kind in "iufb"]
    truths = [name for name in inferred if frame[name].dtype.kind == "b"]
    if not (words_too and truths) and not _MAY_BE_CODE.search(read_bytes(path).decode("utf-8-sig")):
        return frame
    cells = parse_table(path, dtype=str, na_values=list(missing))
    for name in inferred:
        if words_too if name in truths else holds_codes(cells[name]):
            frame[name] = cells[name].astype(object)
    return frame


def holds_codes(cells: pd.Series) -> bool:
    """Whether a cell of a column of text would be another one after a number was made of it."""
    return any(_CODE.fullmatch(str(cell).strip()) for cell in cells.dropna().unique())


def _require_rectangle(text: str, separator: str) -> None:
    """Refuse what pandas would read as something else without a word: missing cells at the end of a row, or too many."""
    if "\0" in text:
        raise ValueError("it holds NUL bytes, so it is no text")
    header, *rows = text.replace("\r\n", "\n").split("\n")
    if '"' in header:
        return
    names = header.split(separator)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"the column {twice[0]!r} is there twice")
    if '"' in text:  # a quoted cell may hold separators and line ends
        return
    for number, row in enumerate(rows, start=2):
        if row and row.count(separator) + 1 != len(names):
            raise ValueError(f"line {number} has {row.count(separator) + 1} cells and the header {len(names)}")


def read_cells(path: Path, again: str = AGAIN) -> pd.DataFrame:
    """A tab-separated table with every cell as it is written, for copying.

    Raises:
        UserError: missing or damaged.
    """
    try:
        frame = parse_table(path, dtype=str)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); {again}.") from None
    require_file_names(frame, path, again)
    return frame


def read_record(path: Path, again: str = AGAIN) -> dict[str, Any]:
    """A JSON object, or {} where the file is absent.

    Raises:
        UserError: damaged.
    """
    if not path.is_file():
        return {}
    try:
        record = load_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); {again}.") from None
    return record if isinstance(record, dict) else {"rows": record}


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table as they are: a missing number is NaN."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table as JSON can hold them: a number that is missing or infinite is None."""
    return [plain_row(row) for row in frame.to_dict("records")]


def plain_row(row: Mapping[Any, Any]) -> Row:
    """A row as JSON can hold it."""
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
