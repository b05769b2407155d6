"""Tables of people made elsewhere, as text or Parquet, with the column that names each person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.core.user_table import read_parquet, read_user_table

ID_COLUMNS = ("subject", "participant_id", "genotype_id", "iid", "#iid", "subject_id", "id")
MISSING = ("", "n/a", "na", "nan", "null", "none", ".")


def read_keyed(path: Path) -> tuple[str, pd.DataFrame]:
    """The name of the column of ids, and a table with a row per person, every cell as text.

    Raises:
        UserError: no such file, no column of ids, an empty id, or an id that is there twice.
    """
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else read_user_table(path)
    by_name = {str(name).lower(): str(name) for name in table.columns}
    found = next((by_name[name] for name in ID_COLUMNS if name in by_name), None)
    if found is None:
        raise UserError(
            f"{path}: no column says whose row it is; people are joined by id and never by their order, so add a column subject."
        )
    ids = table[found].astype(str)
    if ids.isin(MISSING).any():
        raise UserError(f"{path}: row {int(np.argmax(ids.isin(MISSING).to_numpy())) + 1} has no {found}.")
    twice = ids[ids.duplicated()]
    if len(twice):
        raise UserError(
            f"{path}: {found} {twice.iloc[0]} is there twice ({len(twice)} such rows); give one row per person."
        )
    return found, table


def _read_parquet(path: Path) -> pd.DataFrame:
    table = read_parquet(path)
    table.columns = pd.Index([str(name) for name in table.columns])
    return table.astype(object).astype(str).mask(table.isna(), "")


def numbers_of(path: Path, column: pd.Series, name: str) -> NDArray[np.float64]:
    """A column as numbers, NaN where a cell is missing; [people].

    Raises:
        UserError: a cell is another word. The sentence does not repeat the person.
    """
    cells = column.astype(str).str.strip()
    missing = cells.str.lower().isin(MISSING)
    numbers = pd.to_numeric(cells.mask(missing), errors="coerce")
    wrong = numbers.isna() & ~missing
    if wrong.any():
        raise UserError(
            f"{path}: the column {name} has {int(wrong.sum())} cells that are no number; write n/a for a missing one."
        )
    return numbers.to_numpy(dtype=np.float64)
