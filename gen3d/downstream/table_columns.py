"""Columns of the cohort table as numbers, fitted on training people: what baselines and confound regression use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.data.manifest import TEXT
from gen3d.data.structures import SUFFIX
from gen3d.downstream.target import as_label

Values = NDArray[np.float64]
MISSING_SHARE = 0.05
"""Share of training people without a value from which being without one gets a column of its own."""


@dataclass(frozen=True)
class Number:
    """A numeric column: standardised, a missing value is the training mean; `flagged`: a column that says it was missing."""

    name: str
    divisor: str
    mean: float
    spread: float
    flagged: bool
    missing_share: float

    def matrix(self, table: pd.DataFrame) -> Values:
        """[n, 1], or [n, 2] with the column of missing values."""
        numbers = _numbers(table, self.name, self.divisor)
        missing = ~np.isfinite(numbers)
        columns = [np.where(missing, 0.0, (numbers - self.mean) / self.spread)]
        if self.flagged:
            share = self.missing_share
            columns.append((missing - share) / np.sqrt(share * (1.0 - share)))
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Categories:
    """A column of words: one standardised column per word (one for two words); any other word is the mean person's."""

    name: str
    words: tuple[str, ...]
    shares: tuple[float, ...]

    def matrix(self, table: pd.DataFrame) -> Values:
        """[n, words], or [n, 1] for two words."""
        labels = np.array([as_label(value) for value in _column(table, self.name)], dtype=object)
        known = np.isin(labels, self.words)
        told = list(zip(self.words, self.shares, strict=True))[1 if len(self.words) == 2 else 0 :]
        columns = [
            np.where(known, ((labels == word) - share) / np.sqrt(max(share * (1.0 - share), 1e-12)), 0.0)
            for word, share in told
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0))


@dataclass(frozen=True)
class TableColumns:
    """Several columns side by side."""

    columns: tuple[Number | Categories, ...]

    def matrix(self, table: pd.DataFrame) -> Values:
        """[n, k]; centred and of variance 1 over the training people."""
        return np.hstack([np.zeros((len(table), 0)), *(column.matrix(table) for column in self.columns)])


def fit_columns(table: pd.DataFrame, names: Sequence[str], head_size: str = "") -> TableColumns:
    """Learn how columns become numbers.

    Words become one column each. Volumes (columns that end in _ml) become their logarithm, so that a difference is a
    relative one, and are divided by the head size first where its column is named; a volume that is not above 0 is missing.

    Args:
        table: rows of training people.
        names: columns of the table.
        head_size: column of the head's (or brain's) volume, "" for none.

    Raises:
        UserError: a column that the table has not.
    """
    return TableColumns(tuple(_fit_column(table, name, head_size) for name in names))


def _fit_column(table: pd.DataFrame, name: str, head_size: str) -> Number | Categories:
    column = _column(table, name)
    if not is_numeric(name, column):
        labels = [label for label in map(as_label, column) if label]
        words = tuple(sorted(set(labels)))
        return Categories(name, words, tuple(labels.count(word) / len(labels) for word in words))
    divisor = head_size if name.endswith(SUFFIX) and name != head_size else ""
    numbers = _numbers(table, name, divisor)
    known = numbers[np.isfinite(numbers)]
    share = 1.0 - len(known) / len(numbers)
    mean, spread = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    flagged = MISSING_SHARE < share < 1.0
    return Number(name, divisor, mean, spread if spread > 1e-12 * max(1.0, abs(mean)) else np.inf, flagged, share)


def is_numeric(name: str, column: pd.Series) -> bool:
    """Whether a column is taken for numbers; the table's own text columns never are, so that site 3 is no quantity."""
    if name in TEXT:
        return False
    labels = [label for label in map(as_label, column) if label]
    return bool(pd.to_numeric(pd.Series(labels, dtype=object), errors="coerce").notna().all())


def _numbers(table: pd.DataFrame, name: str, divisor: str) -> Values:
    numbers = pd.to_numeric(_column(table, name), errors="coerce").to_numpy(dtype=np.float64)
    if not name.endswith(SUFFIX):
        return numbers
    if divisor:
        numbers = numbers / pd.to_numeric(_column(table, divisor), errors="coerce").to_numpy(dtype=np.float64)
    return np.log(np.where(numbers > 0, numbers, np.nan))


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table.columns:
        raise UserError(f"the cohort table has no column {name}; it has {', '.join(map(str, table.columns))}.")
    return table[name]
