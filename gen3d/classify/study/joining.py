"""Further columns of a study, from a table of the user's: joined by person and session, and told where nothing matches."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pandas as pd

from gen3d.classify.study.features import Features
from gen3d.cohort.labels import label, plain_text
from gen3d.cohort.manifest import NUMBERS, TEXT
from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.exact_columns import with_numbers
from gen3d.core.user_table import read_user_table

MISSING = ("n/a", "na", "nan", "#n/a")
OURS = ("key", "role", "base", "generator", "folder", "source_subject", "scan_hash")
"""Columns that say what a scan is; a table of the user's cannot change them."""
NAMES = {"subject": ("subject", "participant_id"), "session": ("session", "session_id")}


def with_columns(features: Features, path: Path) -> Features:
    """The scans with the columns of a table, joined by subject, and by session where the table has that column.

    A column that the cohort table has already is replaced: a table that is given for its labels is not outvoted by older ones.

    Raises:
        UserError: not a table, no subject column, a person given twice, words in a column of numbers, or nobody in common.
    """
    if not path.is_file():
        raise UserError(f"{path}: not a table (no such file); give a .csv or a .tsv file.")
    added = read_user_table(path)
    added = added.rename(columns={id_column(added, name, path): name for name in NAMES if id_column(added, name, path)})
    if "subject" not in added.columns:
        raise UserError(
            f"{path}: has no column subject (or participant_id); its columns are {', '.join(added.columns)}."
        )
    by = ["subject", "session"] if "session" in added.columns else ["subject"]
    added = as_in_the_cohort(added, features.table)
    twice = added.duplicated(by)
    if twice.any():
        raise UserError(
            f"{path}: {added.loc[twice, 'subject'].iloc[0]} is given twice; one row per {' and '.join(by)}."
        )
    table = features.table.astype(dict.fromkeys(by, str))
    notes = _match_notes(table, added, by, path)
    kept_out = [name for name in added.columns if name in OURS]
    if kept_out:
        notes.append(f"{path}: {spell.listed(kept_out)} cannot be changed by a table and is left as it is")
    added = _typed(added.drop(columns=kept_out), by, path)
    replaced = [name for name in added.columns if name in table.columns and name not in by]
    if replaced:
        notes.append(f"{path}: {spell.listed(replaced)} of this table replaces that of the cohort table")
    joined = table.drop(columns=replaced).merge(added, on=by, how="left", validate="many_to_one")
    for name in (name for name in TEXT if name in replaced):
        joined[name] = joined[name].astype(object).where(joined[name].notna(), "")
    return replace(features, table=joined, notes=(*features.notes, *notes))


def id_column(table: pd.DataFrame, name: str, path: Path) -> str | None:
    """The table's column that is meant by subject or session, None without one."""
    usual = [str(column) for column in table.columns if str(column).lower() in NAMES[name]]
    if len(usual) > 1 and not table[usual[0]].equals(table[usual[1]]):
        raise UserError(f"{path}: {spell.listed(usual)} both may be the {name}, and they differ; leave one of them.")
    return usual[0] if usual else None


def as_in_the_cohort(added: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows under the cohort's ids: its own, or the ids of the source where those name one person."""
    subjects = [plain_text(cell).removeprefix("sub-") for cell in added["subject"]]
    ours = set(table["subject"].astype(str))
    elsewhere: dict[str, set[str]] = defaultdict(set)
    if "source_subject" in table.columns:
        for original, subject in zip(table["source_subject"].astype(str), table["subject"].astype(str), strict=True):
            elsewhere[plain_text(original).removeprefix("sub-")].add(subject)
    renamed = [
        next(iter(elsewhere[subject]))
        if subject not in ours and len(elsewhere.get(subject, ())) == 1
        else label(subject)
        for subject in subjects
    ]
    added = added.assign(subject=renamed)
    if "session" in added.columns:
        added["session"] = [label(plain_text(cell).removeprefix("ses-")) for cell in added["session"]]
    return added


def _match_notes(table: pd.DataFrame, added: pd.DataFrame, by: list[str], path: Path) -> list[str]:
    """How many rows and scans match nothing.

    Raises:
        UserError: none matches.
    """
    ours, theirs = (list(map(tuple, frame[by].to_numpy())) for frame in (table, added))
    if not set(ours) & set(theirs):
        if not set(table["subject"]) & set(added["subject"]):
            raise UserError(
                f"{path}: none of its subjects has features; give ids of the cohort, not {added['subject'].iloc[0]}, ..."
            )
        raise UserError(
            f"{path}: none of its sessions (such as {added['session'].iloc[0]!r}) is that of a scan "
            f"({table['session'].iloc[0]!r}); correct the column session, or leave it out."
        )
    idle, bare = (sum(row not in known for row in rows) for rows, known in ((theirs, set(ours)), (ours, set(theirs))))
    parts = [f"{idle} of {spell.count(len(theirs), 'row')} without a scan"] if idle else []
    parts += [f"{bare} of {spell.count(len(ours), 'scan')} without a row"] if bare else []
    return [f"{path}: {', '.join(parts)}"] if parts else []


def _typed(added: pd.DataFrame, by: list[str], path: Path) -> pd.DataFrame:
    """The columns as those of a cohort table: numbers where all cells are, words elsewhere."""
    added = added.map(lambda cell: "" if cell.lower() in MISSING else cell)
    for name in (name for name in NUMBERS if name in added.columns):
        numbers = pd.to_numeric(added[name], errors="coerce")
        wrong = added[name][numbers.isna() & (added[name] != "")]
        if len(wrong):
            raise UserError(f"{path}: {name} {wrong.iloc[0]!r} is not a number; write a number or n/a.")
        added[name] = numbers
    typed = with_numbers(added, (*TEXT, *NUMBERS, *by))
    for name in typed.columns.difference([*TEXT, *NUMBERS, *by]):
        typed[name] = typed[name].where(typed[name] != "")
    return typed
