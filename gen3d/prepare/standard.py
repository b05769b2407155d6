"""A user's table in gen3d's terms: which column is which, what its sidecar says, and how it was read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.cohort.target import as_label
from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.user_table import NULL_BYTE
from gen3d.prepare.columns import ALIASES, CELL_READERS, MISSING, Columns
from gen3d.prepare.sidecar import Sidecar

BIDS_NAMES = {"subject": "participant_id", "session": "session_id"}
SOCIOECONOMIC = "SES"
"""A column of the OASIS tables that is no session, though a column `ses` is one."""
SAVED_AS_NUMBER = re.compile(r"[0-9]+[.,]0+|[0-9]+(\.[0-9]+)?[eE]\+[0-9]+")


class AbsentColumn(UserError):
    """A column that the user names is not in a table; `field_name` is what it would have been."""

    def __init__(self, sentence: str, field_name: str) -> None:
        super().__init__(sentence)
        self.field_name = field_name


def standardise(
    table: pd.DataFrame, columns: Columns, path: Path, sidecar: Sidecar | None = None, lenient: bool = False
) -> pd.DataFrame:
    """Rename the known columns and bring their codings to gen3d's; every other column is kept as it is.

    Args:
        table: as `read_user_table` returns it.
        columns: the user's names and codings.
        path: of the table, for sentences.
        sidecar: what the table's JSON says of units and codes.
        lenient: whether columns that the user names may be absent, as in one of several tables.

    Raises:
        UserError: no id, a column that is not there, two candidates for one, an unknown code or unit, an impossible value.
    """
    columns = with_sidecar(columns, known_columns(table, columns, path, lenient), sidecar, path)
    absent = {text.lower() for text in columns.missing}
    table = table.map(lambda cell: "n/a" if absent and cell.lower() in absent else cell)
    frame = _renamed(table, known_columns(table, columns, path, lenient))
    for name in frame.columns.difference(["source"]):  # a scan's path is left to who opens it
        row = next((place for place, cell in enumerate(frame[name], start=2) if NULL_BYTE in cell), None)
        if row is not None:
            raise UserError(f"{path}: row {row} holds a null byte in {name}; save the table as UTF-8 text.")
    frame["source_subject"] = frame["subject"]
    for name in ("subject", "session"):
        if name in frame:
            _refuse_numbers(frame[name], name, path)
    for name, read in CELL_READERS.items():
        if name in frame:
            frame[name] = read(frame, columns, path)
    for name in frame.columns.difference([*CELL_READERS, "source", "source_subject"]):
        frame[name] = _plainly_missing(frame[name])
    return frame


def known_columns(table: pd.DataFrame, columns: Columns, path: Path, lenient: bool = False) -> dict[str, str]:
    """The table's own column -> gen3d's name for it; the scan's file is called `source`.

    Of several usual names in one table the first counts where it is gen3d's own name, and BIDS's own names count in BIDS's tables.

    Raises:
        UserError: a named column is not there (unless `lenient`), several candidates that differ, or no column with the id.
    """
    in_table: dict[str, str] = {}
    for name in map(str, table.columns):
        first = in_table.setdefault(name.lower(), name)
        known = next((field for field, aliases in ALIASES.items() if name.lower() in aliases), None)
        if first != name and known and getattr(columns, known) is None and (table[first] != table[name]).any():
            raise UserError(
                f"{path}: the columns {first} and {name} both may be the {known}, and they differ; rename or remove one of them."
            )
    names: dict[str, str] = {}
    for field_name, aliases in ALIASES.items():
        requested: str | None = getattr(columns, field_name)
        column: str | None = in_table.get(requested.lower()) if requested is not None else None
        if requested is not None and column is None and not lenient:
            listed = ", ".join(map(str, table.columns))
            raise AbsentColumn(
                f"{path}: no column `{requested}` for columns.{field_name}; the columns are {listed}.", field_name
            )
        if requested is None:
            free = [in_table[alias] for alias in aliases if alias in in_table and in_table[alias] not in names]
            free = [column for column in free if column != SOCIOECONOMIC]
            column = _the_one(free, field_name, table, path)
        if column is not None and column not in names:
            names[column] = "source" if field_name == "path" else field_name
    if "subject" not in names.values():
        raise UserError(
            f"{path}: no column with the person's id (looked for participant_id, subject); use columns.subject=."
        )
    return names


def _the_one(candidates: list[str], field_name: str, table: pd.DataFrame, path: Path) -> str | None:
    """The column that is meant among those with a usual name; None without any."""
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    if is_bids(path) and BIDS_NAMES.get(field_name) in (lowered := [name.lower() for name in candidates]):
        return candidates[lowered.index(BIDS_NAMES[field_name])]
    if is_bids(path) and field_name == "path":  # the scans are found by their names
        return candidates[0]
    own = candidates[0].lower() == field_name and field_name != "subject"
    cells = [[cell.removeprefix("sub-").removeprefix("ses-") for cell in table[name]] for name in candidates]
    if own or all(column == cells[0] for column in cells[1:]):
        return candidates[0]
    raise UserError(
        f"{path}: the columns {' and '.join(candidates)} both may be the {field_name}, and they differ; say which one with "
        f"columns.{field_name}={candidates[0]} (or {candidates[1]})."
    )


def is_bids(path: Path) -> bool:
    """Whether a table has one of the names that BIDS gives to its tables of people."""
    return path.name == "participants.tsv" or path.name.endswith("sessions.tsv")


def with_sidecar(columns: Columns, names: dict[str, str], sidecar: Sidecar | None, path: Path) -> Columns:
    """The codings with what the sidecar says where the user says nothing.

    Raises:
        UserError: a unit that is not known.
    """
    if sidecar is None:
        return columns
    mine = {field_name: column for column, field_name in names.items()}
    found: dict[str, Any] = {}
    if columns.age_unit is None and "age_years" in mine:
        found["age_unit"] = sidecar.unit(mine["age_years"])
    for field_name, setting, read in (
        ("sex", "sex_codes", sidecar.sexes),
        ("diagnosis", "diagnosis_codes", sidecar.words),
    ):
        if field_name in mine:
            found[setting] = read(mine[field_name]) | getattr(columns, setting)
    return columns.model_copy(update=found)


def told(
    table: pd.DataFrame, columns: Columns, path: Path, sidecar: Sidecar | None, lenient: bool = False
) -> list[str]:
    """Sentences on how a table was read: its columns, the unit and codes of its sidecar, and codes that match no row."""
    names = known_columns(table, columns, path, lenient)
    used = ", ".join(
        column if column.lower() == name else f"{name} from {column}"
        for column, name in names.items()
        if name != "source"
    )
    sentences = [f"{path}: {words.count(len(table), 'row')}; read {used}{_passed_over(table, columns, names)}"]
    full = with_sidecar(columns, names, sidecar, path)
    mine = {field_name: column for column, field_name in names.items()}
    if sidecar is not None and columns.age_unit is None and full.age_unit not in (None, "years"):
        sentences.append(f"{sidecar.path}: {mine['age_years']} is in {full.age_unit}")
    for field_name, setting in (("sex", "sex_codes"), ("diagnosis", "diagnosis_codes")):
        given, whole = getattr(columns, setting), getattr(full, setting)
        present = {as_label(cell).lower() for cell in table[mine[field_name]]} if field_name in mine else set()
        said = [f"{code} is {word}" for code, word in whole.items() if code not in given and code.lower() in present]
        if said and sidecar is not None:
            sentences.append(f"{sidecar.path}: {field_name} {', '.join(said)}")
        idle = [code for code in given if as_label(code).lower() not in present]
        if idle:
            sentences.append(
                f"{path}: no row has {field_name} {words.listed(idle, 'or')}, which columns.{setting} names"
            )
    return sentences


def _passed_over(table: pd.DataFrame, columns: Columns, names: Mapping[str, str]) -> str:
    """The columns with a usual name that are kept as they are, because another one goes before them."""
    own = {field_name for field_name in names.values() if getattr(columns, field_name, None) is None}
    other = [
        f"{column} (for {field_name})"
        for field_name in ALIASES
        if field_name in own
        for column in map(str, table.columns)
        if column not in names and column.lower() in ALIASES[field_name]
    ]
    return f"; passed over: {', '.join(other)}" if other else ""


def _renamed(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The table under gen3d's names; another column that has such a name already gets `_original` behind it."""
    reserved = set(names.values())
    clashing = {column: f"{column}_original" for column in table.columns if column in reserved and column not in names}
    return table.rename(columns=clashing).rename(columns=names)


def _refuse_numbers(ids: pd.Series, what: str, path: Path) -> None:
    """Refuse ids that a spreadsheet turned into numbers: without its point, 1.0 would be the id of person 10."""
    wrong = [cell for cell in ids if SAVED_AS_NUMBER.fullmatch(cell.removeprefix("sub-").removeprefix("ses-"))]
    if wrong:
        raise UserError(
            f"{path}: the {what} {wrong[0]!r} was saved as a number by a spreadsheet; write it as text, as in the names of the "
            f"scans ({re.split('[.,]', wrong[0])[0]!r}?)."
        )


def _plainly_missing(cells: pd.Series) -> pd.Series:
    """A further column with one spelling of a missing value where all its other cells are numbers."""
    missing = cells.str.lower().isin(MISSING)
    if not missing.any() or missing.all() or pd.to_numeric(cells[~missing], errors="coerce").isna().any():
        return cells
    return cells.where(~missing, "n/a")
