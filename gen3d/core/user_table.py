"""Tables that people made: read cell by cell as text, and refused with a sentence where a reader would have to guess."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

import pandas as pd

from gen3d.core.errors import UserError
from gen3d.core.files import require_regular
from gen3d.core.plain_files import read_bytes

NULL_BYTE = "\0"


def read_user_table(path: Path, may_be_empty: bool = False, of_files: bool = False) -> pd.DataFrame:
    """A table with a header, separated by tabs, commas or semicolons, whichever the header has most of.

    Every cell is text without blanks around it. Rows of empty cells only are skipped. Quotation marks group cells as in CSV.

    Args:
        path: of the table.
        may_be_empty: whether a header without rows is a table.
        of_files: whether cells name files, any of which may be damaged: a null byte is then left to who opens the file.

    Raises:
        UserError: unreadable, not UTF-8, no rows, a row with more or fewer cells than the header, a column without a name or two of
            one name, the header given twice, a quotation mark that is not closed.
    """
    text = _text_of(path)
    if NULL_BYTE in text and not of_files:
        raise UserError(f"{path}: holds a null byte, so it is no text table; save it as UTF-8 text.")
    return parse_user_table(path, text, may_be_empty)


def parse_user_table(path: Path, text: str, may_be_empty: bool = False) -> pd.DataFrame:
    """The table that a text holds, which came from a file whose own lines (of comments) are not part of it; see `read_user_table`.

    Raises:
        UserError: as `read_user_table`.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or (len(lines) < 2 and not may_be_empty):
        raise UserError(f"{path}: the table has no rows.")
    separator = max("\t,;", key=lines[0].count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        numbered = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UserError(
            f"{path}: the table cannot be read (line {reader.line_num}: {error}); look for a quotation mark that is not closed."
        ) from None
    rows = [(line, row) for line, row in numbered if any(row)]
    header = _header(path, rows[0][1], [row for _, row in rows[1:]])
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(
                f"{path}: line {line} has {len(row)} cells, but the header has {len(header)} columns; every row needs the same "
                "columns (look for a separator too many or too few)."
            )
        if [cell.lower() for cell in row] == [name.lower() for name in header]:
            raise UserError(f"{path}: line {line} repeats the header; leave one header in the table.")
    named = [place for place, name in enumerate(header) if name]
    frame = pd.DataFrame([[row[place] for place in named] for _, row in rows[1:]], dtype=object)
    frame.columns = pd.Index([header[place] for place in named]) if len(frame) else frame.columns
    return frame if len(frame) else pd.DataFrame(columns=[header[place] for place in named], dtype=object)


def _text_of(path: Path) -> str:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save the table as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); give a .csv or a .tsv file."
        ) from None
    return text


def _header(path: Path, names: list[str], rows: list[list[str]]) -> list[str]:
    """The names of the columns, "" for a column that is empty in every row as well."""
    for place, name in enumerate(names):
        if not name and any(row[place] for row in rows if place < len(row)):
            raise UserError(f"{path}: column {place + 1} has no name in the header; name it, or remove the column.")
    twice = [name for name, count in Counter(name for name in names if name).items() if count > 1]
    if twice:
        raise UserError(f"{path}: two columns are called {twice[0]}; rename or remove one of them.")
    return names


def read_parquet(path: Path) -> pd.DataFrame:
    """The table of a Parquet file.

    Raises:
        UserError: no Parquet reader is installed, or the file cannot be read.
    """
    try:
        require_regular(path)
        return pd.read_parquet(path, engine="pyarrow")
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs the package pyarrow; pip install 'gen3d[parquet]'.") from None
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}).") from None
