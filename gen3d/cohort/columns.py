"""Columns of the cohort table as numbers: the one coder of baselines, confounds, harmonisation, adjustment, associations.

Numbers are standardised, words become indicators, and a missing value is the mean of the people of the fit. Where the uses
differ, `Rules` says so. Two codings are no case of this sentence and stay by themselves: `maths.design` (terms of a normative
model, chosen by the number of people, in units that a reader understands) and `cohort.coding` (conditions of a generator: one
code per person for an embedding, a missing value stays missing, and what a user types is checked against the trained range).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.manifest import TEXT
from gen3d.cohort.structures import SUFFIX
from gen3d.cohort.target import as_label, refuse_stray_words
from gen3d.core.errors import UserError

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """One column, read: labels [n], "" where missing; numbers [n], NaN where missing, or None for a column of words."""

    name: str
    labels: NDArray[np.str_]
    numbers: Values | None

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have a value, [n]."""
        return np.asarray(self.labels != "")

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """The distinct values in order."""
        return tuple(sorted(set(self.labels[self.known].tolist())))


def read_cells(table: pd.DataFrame, name: str, setting: str = "", fewest_numbers: int = 1) -> Cells:
    """Read a column and settle whether it holds numbers.

    Args:
        table: rows of the cohort table.
        name: of the column.
        setting: what names the column, for the sentence of an absent one: `keep`.
        fewest_numbers: distinct values that a column of numbers needs to count as a quantity.

    Raises:
        UserError: no such column.
    """
    column = _column(table, name, setting)
    cells = Cells(name, np.array([as_label(value) for value in column], dtype=np.str_), None)
    # The text columns of the cohort table are words even where they look like numbers: site 3 is no quantity.
    if name in TEXT or len(cells.levels) < fewest_numbers:
        return cells
    numbers = _to_numbers(column)
    return cells if np.isnan(numbers[cells.known]).any() else Cells(name, cells.labels, numbers)


@dataclass(frozen=True)
class Rules:
    """Where the uses of the coder differ.

    Attributes:
        fewest_numbers: distinct values that a column of numbers needs to count as a quantity; with fewer it holds words.
        standardise_words: give indicators mean 0 and SD 1, as numbers have; otherwise they are 0 and 1.
        every_word: give each of three or more words an indicator. A penalised fit then prefers none of them; an unpenalised
            one needs the first word as the reference, without an indicator.
        flag_missing_above: share of people without a number, above which being without one gets a column; None for never.
        flag_missing_words: do the same for words.
        log_volumes: take the logarithm of volumes (names that end in _ml), so that a difference is a relative one.
        strict: refuse missing values and words that the fit has not seen, instead of taking the mean for them.
        allow_stray_words: take numbers with a few words among them for words, where nobody named the column.
    """

    fewest_numbers: int = 1
    standardise_words: bool = True
    every_word: bool = False
    flag_missing_above: float | None = None
    flag_missing_words: bool = False
    log_volumes: bool = False
    strict: bool = False
    allow_stray_words: bool = False


PENALISED = Rules(every_word=True, flag_missing_above=0.05, log_volumes=True)
"""Of classifiers' baselines and confounds. Where under 5 % miss a value, a column for it would say little and cost a weight."""


@dataclass(frozen=True)
class ColumnCode:
    """How one column becomes k columns of a matrix, as fitted.

    `levels` are its words, None for numbers; `mean` and `sd` [k] centre and scale the columns; `divisor` names the volume that a
    volume is divided by; `flagged`: the last column says that the value was missing.
    """

    name: str
    levels: tuple[str, ...] | None
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    num_missing: int = 0
    rules: Rules = Rules()
    divisor: str = ""
    flagged: bool = False

    @property
    def indicators(self) -> tuple[str, ...]:
        """The words that have a column: all but the reference. A lone word keeps its constant column, to be named by."""
        levels = self.levels or ()
        return levels if len(levels) == 1 or (self.rules.every_word and len(levels) > 2) else levels[1:]

    def matrix(self, table: pd.DataFrame, setting: str = "") -> Values:
        """[n, k].

        Raises:
            UserError: no such column; with strict rules also a missing value or a word that the fit has not seen.
        """
        standard = (self._raw(table, setting) - np.array(self.mean)) / np.array(self.sd)
        return np.where(np.isfinite(standard), standard, 0.0)

    def _raw(self, table: pd.DataFrame, setting: str) -> Values:
        """Numbers or indicators [n, k], NaN where unknown; the column of missing values is 0 and 1."""
        if self.levels is not None:
            labels = read_cells(table, self.name, setting).labels
            missing = labels == ""
            known = np.isin(labels, self.levels)
            if self.rules.strict:
                self._refuse_missing(missing, setting)
                _refuse_new(self.name, labels[~known], self.levels)
            columns = [np.where(known, labels == word, np.nan) for word in self.indicators]
        else:
            numbers = self._numbers(table, setting)
            missing = np.isnan(numbers)
            if self.rules.strict:
                self._refuse_missing(missing, setting)
            columns = [numbers]
        if self.flagged:
            columns.append(missing.astype(np.float64))
        return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0))

    def _numbers(self, table: pd.DataFrame, setting: str) -> Values:
        numbers = _to_numbers(_column(table, self.name, setting))
        if not (self.rules.log_volumes and self.name.endswith(SUFFIX)):
            return numbers
        if self.divisor:
            numbers = numbers / _to_numbers(_column(table, self.divisor, setting))
        return np.log(np.where(numbers > 0, numbers, np.nan))

    def _refuse_missing(self, missing: NDArray[np.bool_], setting: str) -> None:
        if missing.any():
            raise UserError(
                f"{setting}={self.name}: {int(missing.sum())} of {len(missing)} people have no value; fill it in or leave it "
                "out."
            )


@dataclass(frozen=True)
class TableCode:
    """Several columns side by side; `setting` names them in sentences."""

    columns: tuple[ColumnCode, ...]
    setting: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the table."""
        return tuple(column.name for column in self.columns)

    @property
    def column_names(self) -> list[str]:
        """The column of the table behind each column of the matrix."""
        return [column.name for column in self.columns for _ in column.mean]

    def matrix(self, table: pd.DataFrame) -> Values:
        """[n, k].

        Raises:
            UserError: see `ColumnCode.matrix`.
        """
        parts = (column.matrix(table, self.setting) for column in self.columns)
        return np.hstack([np.zeros((len(table), 0)), *parts])


def fit_columns(
    table: pd.DataFrame, names: Sequence[str], rules: Rules, setting: str = "", head_size: str = ""
) -> TableCode:
    """Learn how columns become numbers.

    Args:
        table: rows of the people of the fit.
        names: columns of the table.
        rules: see `Rules`.
        setting: what names the columns, for sentences: `keep`.
        head_size: column of the head's (or brain's) volume that volumes are divided by, "" for none.

    Raises:
        UserError: a column that the table has not, or of numbers with a few words; with strict rules also a missing value.
    """
    return TableCode(tuple(_fit_column(table, name, rules, setting, head_size) for name in names), setting)


def _fit_column(table: pd.DataFrame, name: str, rules: Rules, setting: str, head_size: str) -> ColumnCode:
    cells = read_cells(table, name, setting, rules.fewest_numbers)
    if cells.numbers is None and name not in TEXT and not rules.allow_stray_words:
        refuse_stray_words(cells.labels, f"{setting}={name}" if setting else name)
    levels = cells.levels if cells.numbers is None else None
    divisor = head_size if rules.log_volumes and name.endswith(SUFFIX) and name != head_size else ""
    code = ColumnCode(name, levels, (), (), int((~cells.known).sum()), rules, divisor)
    code = replace(code, flagged=_flagged(code, table, setting))
    raw = code._raw(table, setting)
    # Numbers are the first column of a column of numbers; indicators and the column of missing values are 0 and 1.
    moments = [
        _of_numbers(values) if levels is None and not place else _of_shares(values, rules.standardise_words)
        for place, values in enumerate(raw.T)
    ]
    return replace(code, mean=tuple(mean for mean, _ in moments), sd=tuple(sd for _, sd in moments))


def _flagged(code: ColumnCode, table: pd.DataFrame, setting: str) -> bool:
    limit = code.rules.flag_missing_above
    if limit is None or (code.levels is not None and not (code.rules.flag_missing_words and code.indicators)):
        return False
    share = float(np.isnan(code._raw(table, setting)[:, 0]).mean())
    return limit < share < 1.0


def _of_numbers(values: Values) -> tuple[float, float]:
    """Mean and SD of the known values; SD infinite where they do not vary, so that the column is 0 for everybody."""
    known = values[np.isfinite(values)]
    mean, spread = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    return mean, spread if spread > 1e-12 * max(1.0, abs(mean)) else np.inf


def _of_shares(values: Values, standardise: bool) -> tuple[float, float]:
    """Mean p and SD sqrt(p (1 - p)) of zeros and ones, or 0 and 1 to leave them as they are."""
    if not standardise:
        return 0.0, 1.0
    share = float(values[np.isfinite(values)].mean())
    return share, float(np.sqrt(share * (1.0 - share))) or np.inf


def _refuse_new(name: str, labels: NDArray[np.str_], levels: tuple[str, ...]) -> None:
    if len(labels):
        raise UserError(
            f"{name} {min(labels)} does not occur among the people of the fit ({', '.join(levels)}), so its effect is not "
            "known; harmonise the latents first."
        )


def _column(table: pd.DataFrame, name: str, setting: str) -> pd.Series:
    if name not in table.columns:
        where = f"{setting}: " if setting else ""
        raise UserError(
            f"{where}the cohort table has no column {name}; it has {', '.join(str(other) for other in table.columns)}."
        )
    return table[name]


def _to_numbers(column: pd.Series) -> Values:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
