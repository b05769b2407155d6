"""Tables on disk and in JSON: tab-separated with BIDS's n/a, and rows whose missing numbers are null."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.core.artefact import write_atomic

Row = dict[str, Any]


def write_table(path: Path, frame: pd.DataFrame, digits: int = 6) -> None:
    """Write a TSV with BIDS's n/a for missing values, numbers to so many significant digits."""
    buffer = io.StringIO()
    frame.to_csv(buffer, sep="\t", index=False, na_rep="n/a", float_format=f"%.{digits}g")
    write_atomic(path, buffer.getvalue())


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table as JSON can hold them: a number that is missing or infinite is None."""
    return [plain_row(row) for row in frame.to_dict("records")]


def plain_row(row: Mapping[Any, Any]) -> Row:
    """A row as JSON can hold it."""
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
