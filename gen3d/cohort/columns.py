"""Columns of the cohort table as numbers, fitted on training people: what baselines and confound regression use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import TEXT
from gen3d.cohort.structures import SUFFIX
from gen3d.cohort.target import FEWEST_DISTINCT, as_label
from gen3d.core.errors import UserError

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


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Adjustment:
    """Columns, the levels of each (None: a number, with its mean and SD), and what a dimension changes by, [p, d]."""

    columns: tuple[str, ...]
    levels: tuple[tuple[str, ...] | None, ...]
    scales: tuple[tuple[float, float], ...]
    coefficients: Floats

    def design(self, table: pd.DataFrame) -> Floats:
        """The columns as numbers around their mean in the people it was fitted on, [n, p].

        Raises:
            UserError: a column or a value is missing, or a level is new.
        """
        parts = []
        for column, levels, (mean, spread) in zip(self.columns, self.levels, self.scales, strict=True):
            labels = _labels(table, column)
            if levels is None:
                parts.append(((np.array([float(label) for label in labels]) - mean) / spread)[:, None])
                continue
            new = sorted(set(labels) - set(levels))
            if new:
                raise UserError(
                    f"{column} {new[0]} does not occur among the people of the map ({', '.join(levels)}), so its effect "
                    "is not known; harmonise the latents first."
                )
            parts.append(np.array([[label == level for level in levels[1:]] for label in labels], dtype=np.float64))
        return np.concatenate(parts, axis=1)

    def apply(self, values: Floats, table: pd.DataFrame) -> Floats:
        """Values [n, d] without what the columns explain; row by row."""
        return np.asarray(values - self.design(table) @ self.coefficients)

    def record(self) -> dict[str, Any]:
        """All but the coefficients, JSON-ready."""
        return {"columns": self.columns, "levels": self.levels, "scales": self.scales}

    @classmethod
    def of(cls, record: dict[str, Any], coefficients: Floats) -> Adjustment:
        """From `record()` and the coefficients."""
        levels = tuple(None if each is None else tuple(each) for each in record["levels"])
        scales = tuple((float(mean), float(spread)) for mean, spread in record["scales"])
        return cls(tuple(record["columns"]), levels, scales, coefficients)


def fit_adjustment(values: Floats, table: pd.DataFrame, columns: Sequence[str]) -> Adjustment:
    """Least squares of every dimension on the columns: text and few distinct values as categories, else a number.

    Args:
        values: [n, d].
        table: the people's rows of the cohort table.
        columns: whose effect is to go.

    Raises:
        UserError: a column is absent, constant, or not known of everybody.
    """
    levels: list[tuple[str, ...] | None] = []
    scales: list[tuple[float, float]] = []
    for column in columns:
        labels = _labels(table, column)
        present = tuple(dict.fromkeys(sorted(labels)))
        if len(present) < 2:
            raise UserError(f"adjust={column}: it is {present[0]} for everybody, so there is nothing to take out.")
        numbers = pd.to_numeric(pd.Series(labels), errors="coerce").to_numpy(dtype=np.float64)
        if np.isfinite(numbers).all() and len(present) >= FEWEST_DISTINCT:
            levels.append(None)
            scales.append((float(numbers.mean()), float(numbers.std())))
        else:
            levels.append(present)
            scales.append((0.0, 1.0))
    empty = Adjustment(tuple(columns), tuple(levels), tuple(scales), np.zeros((0, 0)))
    design = empty.design(table)
    if design.shape[1] > len(values) // 3:
        raise UserError(
            f"adjust={list(columns)} takes {design.shape[1]} coefficients from {len(values)} people; adjust for fewer columns."
        )
    with_constant = np.concatenate([np.ones((len(values), 1)), design], axis=1)
    coefficients = np.linalg.lstsq(with_constant, values, rcond=None)[0][1:]
    return Adjustment(empty.columns, empty.levels, empty.scales, coefficients)


def _labels(table: pd.DataFrame, column: str) -> list[str]:
    if column not in table.columns:
        raise UserError(f"adjust={column}: no such column; the table has {', '.join(map(str, table.columns))}.")
    labels = [as_label(cell) for cell in table[column]]
    missing = labels.count("")
    if missing:
        raise UserError(
            f"adjust={column}: {missing} of {len(labels)} people have no value; fill it in or leave it out."
        )
    return labels
