"""Tables of expression, proteins or other measurements of the same people: columns that become features."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.genotypes.joining import Cohort, rows_of_people
from gen3d.genotypes.keyed_table import MISSING, numbers_of, read_keyed


@dataclass(frozen=True)
class Omics:
    """Features of everybody of the cohort. `features`: feature, table, missing; `values` [people, features], NaN where missing."""

    features: pd.DataFrame
    values: NDArray[np.float32]
    words: tuple[str, ...]
    """Columns that hold words, which are left out."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Who has any value, [people]."""
        return np.asarray(np.isfinite(self.values).any(axis=1))


def named(paths: Mapping[str, Path] | Sequence[Path]) -> dict[str, Path]:
    """Files by the names that the user gives them, else by those of the files.

    Raises:
        UserError: two files of one name.
    """
    if isinstance(paths, Mapping):
        return dict(paths)
    found: dict[str, Path] = {}
    for path in paths:
        name = re.sub("[^A-Za-z0-9]", "", path.name.partition(".")[0]) or "table"
        if name in found:
            raise UserError(
                f"{path} and {found[name]} would both be called {name}; name them: {{a: {found[name]}, b: {path}}}."
            )
        found[name] = path
    return found


def read_omics(tables: Mapping[str, Path], cohort: Cohort) -> Omics:
    """Read tables with a row per person and a column per measurement.

    Raises:
        UserError: a table that cannot be read, whose people are not those of the cohort, or with a column of numbers and words.
    """
    rows: list[dict[str, object]] = []
    values: list[NDArray[np.float64]] = []
    words: list[str] = []
    for name, path in tables.items():
        own, table = read_keyed(path)
        place = rows_of_people(cohort, path, table[own].tolist(), what="measurements")
        num_before = len(rows)
        for column in (str(column) for column in table.columns if column != own):
            cells = table[column].astype(str).str.strip()
            known = ~cells.str.lower().isin(MISSING)
            if known.any() and pd.to_numeric(cells[known], errors="coerce").isna().all():
                words.append(f"{column} of {path.name}")
                continue
            numbers = numbers_of(path, table[column], column)
            everybody = np.where(place >= 0, numbers[place], np.nan)
            rows.append({"feature": f"{name}_{column}", "table": name, "missing": float(np.isnan(everybody).mean())})
            values.append(everybody)
        if len(rows) == num_before:
            raise UserError(f"{path}: no column holds numbers.")
    features = pd.DataFrame(rows, columns=["feature", "table", "missing"])
    shape = (len(cohort.people), 0)
    return Omics(
        features, np.stack(values, axis=1).astype(np.float32) if values else np.empty(shape, np.float32), tuple(words)
    )
