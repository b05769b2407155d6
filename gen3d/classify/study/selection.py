"""Which scans a study is about: the table's rows, further columns, who is asked for, and who has an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.study.features import Features
from gen3d.cohort.target import Target, as_label
from gen3d.core.errors import UserError


def with_columns(features: Features, path: Path) -> Features:
    """The scans with further columns of a table, joined by subject, and by session where it has that column.

    Raises:
        UserError: not a table, no subject column, a person given twice, or nobody in common.
    """
    try:
        more = pd.read_csv(
            path,
            sep="," if path.suffix.lower() == ".csv" else "\t",
            dtype={"subject": str, "participant_id": str, "session": str},
            na_values=["n/a", ""],
            keep_default_na=False,
        )
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table ({str(error).splitlines()[0]}); give a .csv or a .tsv file.") from None
    if "participant_id" in more.columns and "subject" not in more.columns:
        more["subject"] = more.pop("participant_id").str.removeprefix("sub-")
    if "subject" not in more.columns:
        raise UserError(
            f"{path}: has no column subject (or participant_id); its columns are {', '.join(more.columns)}."
        )
    by = ["subject", "session"] if "session" in more.columns else ["subject"]
    twice = more.duplicated(by)
    if twice.any():
        raise UserError(f"{path}: {more.loc[twice, 'subject'].iloc[0]} is given twice; one row per {' and '.join(by)}.")
    more = more.drop(columns=[name for name in more.columns if name in features.table.columns and name not in by])
    if not more["subject"].isin(features.table["subject"].astype(str)).any():
        raise UserError(f"{path}: nobody there has features; subjects there are called {more['subject'].iloc[0]}, ...")
    joined = features.table.astype(dict.fromkeys(by, str)).merge(more, on=by, how="left", validate="many_to_one")
    return replace(features, table=joined)


def only_those(features: Features, conditions: Mapping[str, Any]) -> Features:
    """The scans that meet every condition: column -> a value, a list of values, or [lowest, highest] of a number.

    Raises:
        UserError: a column that is not there, or nobody left.
    """
    chosen = np.ones(len(features), dtype=bool)
    for column, asked in conditions.items():
        chosen &= _meets(column_of(features.table, column), asked)
    if not chosen.any():
        raise UserError(f"nobody meets {dict(conditions)}; see the columns of the cohort table.")
    if chosen.all():
        return features
    kept = features.take(np.flatnonzero(chosen))
    words = ", ".join(f"{column} {_words(asked)}" for column, asked in conditions.items())
    return replace(kept, notes=(*features.notes, f"{int((~chosen).sum())} scans are left out by only= ({words})"))


def _words(asked: Any) -> str:
    return " to ".join(map(str, asked)) if _is_range(asked) else str(asked)


def _is_range(asked: Any) -> bool:
    return (
        isinstance(asked, (list, tuple))
        and len(asked) == 2
        and all(item is None or (isinstance(item, (int, float)) and not isinstance(item, bool)) for item in asked)
    )


def _meets(column: pd.Series, asked: Any) -> NDArray[np.bool_]:
    if _is_range(asked):
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        low, high = (-np.inf if asked[0] is None else asked[0]), (np.inf if asked[1] is None else asked[1])
        return np.asarray((numbers >= low) & (numbers <= high))
    wanted = {as_label(item) for item in (asked if isinstance(asked, (list, tuple)) else [asked])}
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
    """The scans whose target is known and asked for, and their codes [n]."""
    column = column_of(features.table, target.name)
    codes = target.codes(column)
    known = np.isfinite(codes)
    empty = np.array([as_label(value) == "" for value in column])
    notes = features.notes
    if empty.any():
        notes += (f"{_people(features, empty)} have no {target.name} and are left out",)
    other = ~known & ~empty
    if other.any():
        labels = ", ".join(sorted({as_label(value) for value in column[other]}))
        notes += (f"{_people(features, other)} with another {target.name} ({labels}) are left out",)
    kept = features.take(np.flatnonzero(known))
    return replace(kept, notes=notes), codes[known]


def _people(features: Features, chosen: NDArray[np.bool_]) -> str:
    count = features.table.loc[chosen, "subject"].nunique()
    return f"{count} {'person' if count == 1 else 'people'}"
