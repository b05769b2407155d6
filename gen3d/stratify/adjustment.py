"""Latents without what columns of the cohort table explain: least squares, kept to do the same to new people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.columns import ColumnCode, Rules, TableCode, fit_columns
from gen3d.cohort.target import FEWEST_DISTINCT
from gen3d.core.errors import UserError

Floats = NDArray[np.float64]
RULES = Rules(fewest_numbers=FEWEST_DISTINCT, standardise_words=False, strict=True)
SETTING = "adjust"


@dataclass(frozen=True)
class Adjustment:
    """The columns as numbers [n, p], and what a dimension changes by, [p, d]."""

    code: TableCode
    coefficients: Floats

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the cohort table that are held fixed."""
        return self.code.names

    def apply(self, values: Floats, table: pd.DataFrame) -> Floats:
        """Values [n, d] without what the columns explain; row by row.

        Raises:
            UserError: a column or a value is missing, or a level is new.
        """
        return np.asarray(values - self.code.matrix(table) @ self.coefficients)

    def record(self) -> dict[str, Any]:
        """All but the coefficients, JSON-ready: the levels of each column (None: a number), its mean and SD."""
        columns = self.code.columns
        numbers = [column.levels is None for column in columns]
        return {
            "columns": self.columns,
            "levels": [column.levels for column in columns],
            "scales": [
                (column.mean[0], column.sd[0]) if number else (0.0, 1.0)
                for column, number in zip(columns, numbers, strict=True)
            ],
        }

    @classmethod
    def of(cls, record: dict[str, Any], coefficients: Floats) -> Adjustment:
        """From `record()` and the coefficients."""
        columns = []
        for name, levels, (mean, sd) in zip(record["columns"], record["levels"], record["scales"], strict=True):
            categories = None if levels is None else tuple(levels)
            width = 1 if categories is None else len(categories) - 1
            columns.append(ColumnCode(name, categories, (float(mean),) * width, (float(sd),) * width, rules=RULES))
        return cls(TableCode(tuple(columns), SETTING), coefficients)


def fit_adjustment(values: Floats, table: pd.DataFrame, columns: Sequence[str]) -> Adjustment:
    """Least squares of every dimension on the columns: text and few distinct values as categories, else a number.

    Args:
        values: [n, d].
        table: the people's rows of the cohort table.
        columns: whose effect is to go.

    Raises:
        UserError: a column is absent, constant, or not known of everybody.
    """
    code = fit_columns(table, columns, RULES, SETTING)
    same = next((column for column in code.columns if column.levels is not None and len(column.levels) < 2), None)
    if same is not None and same.levels:
        raise UserError(
            f"adjust={same.name}: it is {same.levels[0]} for everybody, so there is nothing to take out; leave it out."
        )
    design = code.matrix(table)
    if design.shape[1] > len(values) // 3:
        raise UserError(
            f"adjust={list(columns)} takes {design.shape[1]} coefficients from {len(values)} people; adjust for fewer columns."
        )
    with_constant = np.concatenate([np.ones((len(values), 1)), design], axis=1)
    return Adjustment(code, np.linalg.lstsq(with_constant, values, rcond=None)[0][1:])
