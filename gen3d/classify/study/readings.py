"""What people read from the same scans: a table of the user's, one score per person and reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gen3d.classify.study.joining import as_in_the_cohort, id_column
from gen3d.cohort.seen import named
from gen3d.cohort.target import Target, as_label
from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table

MISSING = ("", "n/a", "na", "nan", "#n/a")
NEEDED = ("reader", "score")


@dataclass(frozen=True)
class ReaderScores:
    """`table` has subject, reader, score (higher: more the last class) and call: 1 for the last class, 0, or NaN if unknown."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def open_readings(path: Path, cohort: pd.DataFrame, target: Target, threshold: float | None) -> ReaderScores:
    """Read a table of readers' scores of people of the study.

    Args:
        path: of the table: subject (or participant_id), reader, score.
        cohort: rows of the people who are tested; one scan each.
        target: of two classes. A score is the name of a class, or a number that is higher for the last class.
        threshold: the number from which a reader means the last class; None: scores are classes, or 0 and 1, and where they
            are not, readers are compared by the area under their curve alone.

    Raises:
        UserError: not two classes, several scans of a person, no such columns, words, one score given twice, or other people.
    """
    if not target.is_binary:
        raise UserError(
            f"{path}: readers are compared for two classes, but {target.describe()} is asked; give classes=."
        )
    if cohort["subject"].duplicated().any():
        raise UserError(f"{path}: a reader's score is of one scan per person; leave out sessions=all, or readers=.")
    if not path.is_file():
        raise UserError(
            f"{path}: not a table (no such file); give a .csv or a .tsv file with subject, reader and score."
        )
    added = read_user_table(path)
    subject = id_column(added, "subject", path)
    absent = [name for name in NEEDED if name not in added.columns]
    if subject is None or absent:
        lacking = [*(["subject"] if subject is None else []), *absent]
        raise UserError(
            f"{path}: has no column {spell.listed(lacking)}; a table of readers has subject, reader and score, a row per reading."
        )
    added = added.rename(columns={subject: "subject"})[["subject", *NEEDED]]
    added = added[~added["score"].str.lower().isin(MISSING)].reset_index(drop=True)
    added = as_in_the_cohort(added, cohort)
    twice = added.duplicated(["subject", "reader"])
    if twice.any():
        row = added[twice].iloc[0]
        raise UserError(f"{path}: {row['reader']} read {row['subject']} twice; give one score per person and reader.")
    ours = set(cohort["subject"].astype(str))
    here = added["subject"].isin(ours)
    if not here.any():
        raise UserError(
            f"{path}: its readers read other people ({named(added['subject'].drop_duplicates().tolist())}) than are tested here; "
            "only readings of the same people can be compared."
        )
    others = added.loc[~here, "subject"].nunique()
    notes = (f"{path}: readings of {spell.people(others)} who are not tested here are not used",) if others else ()
    known = _with_numbers(added[here].reset_index(drop=True), target, threshold, path)
    return ReaderScores(known, notes)


def _with_numbers(table: pd.DataFrame, target: Target, threshold: float | None, path: Path) -> pd.DataFrame:
    labels = [as_label(score) for score in table["score"]]
    if threshold is None and set(labels) <= set(target.classes):
        codes = target.codes(table["score"])
        return table.assign(score=codes, call=codes)
    scores = pd.to_numeric(table["score"], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(scores).all():
        word = table["score"][~np.isfinite(scores)].iloc[0]
        raise UserError(
            f"{path}: the score {word!r} is neither a number nor one of the classes {' and '.join(target.classes)}; correct it, or "
            "write n/a."
        )
    calls = np.full(len(scores), np.nan)
    if threshold is not None:
        calls = (scores >= threshold).astype(np.float64)
    elif set(scores) <= {0.0, 1.0}:
        calls = scores
    return table.assign(score=scores, call=calls)
