"""Columns whose effect on the latents is taken out before clustering: a linear model per dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.downstream.associations import FEWEST_DISTINCT
from gen3d.downstream.target import as_label

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
