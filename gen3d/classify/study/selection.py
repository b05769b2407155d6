"""Select the scans of a study: conditions, and a known target; `joining` adds further columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.study.features import Features
from gen3d.cohort.manifest import TEXT
from gen3d.cohort.target import Target, as_label
from gen3d.core import words as spell
from gen3d.core.errors import UserError


def only_those(features: Features, conditions: Mapping[str, Any]) -> Features:
    """The scans that meet every condition: column -> a value, a list of values, or [lowest, highest] of a number.

    Raises:
        UserError: a column that is not there, or nobody left.
    """
    chosen = np.ones(len(features), dtype=bool)
    for column, condition in conditions.items():
        chosen &= _meets(column_of(features.table, column), condition)
    if not chosen.any():
        raise UserError(f"only={dict(conditions)} keeps nobody; see the columns of the cohort table.")
    if chosen.all():
        return features
    kept = features.take(np.flatnonzero(chosen))
    listed = ", ".join(f"{column} {_condition_text(condition)}" for column, condition in conditions.items())
    return replace(
        kept, notes=(*features.notes, f"{spell.count(int((~chosen).sum()), 'scan')} are excluded by only= ({listed})")
    )


def _condition_text(condition: Any) -> str:
    return " to ".join(map(str, condition)) if _is_range(condition) else str(condition)


def _is_range(condition: Any) -> bool:
    return (
        isinstance(condition, (list, tuple))
        and len(condition) == 2
        and all(item is None or (isinstance(item, (int, float)) and not isinstance(item, bool)) for item in condition)
    )


def _meets(column: pd.Series, condition: Any) -> NDArray[np.bool_]:
    # Codes are no quantities: only={site: [1, 3]} means two sites, and not a third one between them.
    if _is_range(condition) and column.name not in TEXT:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        low, high = (
            (-np.inf if condition[0] is None else condition[0]),
            (np.inf if condition[1] is None else condition[1]),
        )
        return np.asarray((numbers >= low) & (numbers <= high))
    wanted = {as_label(item) for item in (condition if isinstance(condition, (list, tuple)) else [condition])}
    return np.array([as_label(value) in wanted for value in column])


def column_of(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of the cohort table.

    Raises:
        UserError: it is not there; names those that are.
    """
    if name not in table.columns:
        known = ", ".join(column for column in table.columns if column not in ("key", "folder"))
        raise UserError(
            f"{name} is not a column of the cohort table (columns: {known}); give table=FILE with subject and {name}."
        )
    column: pd.Series = table[name]
    return column


def with_answers(features: Features, target: Target) -> tuple[Features, NDArray[np.float64]]:
    """The scans with a known target among the classes, and their codes [n]."""
    column = column_of(features.table, target.name)
    codes = target.codes(column)
    known = np.isfinite(codes)
    empty = np.array([as_label(value) == "" for value in column])
    notes = features.notes
    if empty.any():
        notes += (f"{_people(features, empty)} have no {target.name} and are excluded",)
    other = ~known & ~empty
    if other.any():
        labels = ", ".join(sorted({as_label(value) for value in column[other]}))
        notes += (f"{_people(features, other)} with another {target.name} ({labels}) are excluded",)
    kept = features.take(np.flatnonzero(known))
    return replace(kept, notes=notes), codes[known]


def _people(features: Features, chosen: NDArray[np.bool_]) -> str:
    return spell.people(int(features.table.loc[chosen, "subject"].nunique()))
