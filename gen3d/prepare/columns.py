"""A user's table in gen3d's terms: which column is which, and every cell in one coding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from gen3d.core.config import Config
from gen3d.core.errors import UserError
from gen3d.prepare.labels import label, plain_text

MISSING = ("", "n/a", "na", "nan", "none", "unknown", "-")
SEX_CODES = {"m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "woman": "F"}
ALIASES: dict[str, tuple[str, ...]] = {
    "subject": ("subject", "participant_id", "subject_id", "participant", "sub", "ptid", "id"),
    "session": ("session", "session_id", "ses", "visit"),
    "site": ("site", "centre", "center", "scanner", "dataset"),
    "age_years": ("age_years", "age", "age_at_scan"),
    "sex": ("sex", "gender", "m/f"),
    "diagnosis": ("diagnosis", "group", "dx", "diagnosis_group"),
    "cdr": ("cdr",),
    "mmse": ("mmse",),
    "path": ("path", "file", "filename", "scan", "image", "t1w"),
}
MAX_AGE_YEARS = 120.0
UNITS_PER_YEAR = {"years": 1.0, "months": 12.0, "days": 365.25}


class Columns(Config):
    """Which column of the user's table is which; without one, the usual names are recognised, in upper or lower case."""

    subject: str | None = Field(None, description="column with the person's id (usual: participant_id, subject)")
    session: str | None = Field(None, description="column with the session or visit (usual: session_id, session)")
    site: str | None = Field(
        None, description="column with the site or scanner; without one, the folder's name is the site"
    )
    age_years: str | None = Field(None, description="column with the age at the scan (usual: age)")
    ids_within_site: bool | None = Field(
        None,
        description="true: the same id at two sites is two people, and the site stands in front of every id; false: it is one "
        "person; without a word, such ids are refused",
    )
    sex: str | None = Field(None, description="column with the sex (usual: sex, gender, M/F)")
    diagnosis: str | None = Field(None, description="column with the diagnosis (usual: diagnosis, group, dx)")
    cdr: str | None = Field(None, description="column with the Clinical Dementia Rating")
    mmse: str | None = Field(None, description="column with the Mini-Mental State Examination score")
    path: str | None = Field(
        None,
        description="for a table of scans: column with each scan's path, relative to the table",
    )
    age_unit: Literal["years", "months", "days"] = Field("years", description="unit of the age column")
    sex_codes: dict[str, Literal["M", "F"]] = Field(
        default_factory=dict, description="meaning of codes of sex other than M and F, for instance {1: M, 2: F}"
    )
    diagnosis_codes: dict[str, str] = Field(
        default_factory=dict, description="new names for diagnoses, for instance {depr: depression, 0: control}"
    )
    space: str | None = Field(
        None, description="in derivatives with images in several spaces: the `space-` label to read"
    )


def read_table(path: Path) -> pd.DataFrame:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save the table as UTF-8.") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise UserError(f"{path}: the table has no rows.")
    separator = max("\t,;", key=lines[0].count)
    try:
        from io import StringIO

        table = pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except ValueError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: the table cannot be read ({reason}); every row needs the same columns.") from None
    table.columns = [str(column).strip() for column in table.columns]
    return table.map(lambda value: value.strip() if isinstance(value, str) else "")


def standardise(table: pd.DataFrame, columns: Columns, path: Path) -> pd.DataFrame:
    """Rename the known columns and bring their codings to gen3d's; every other column is kept as it is."""
    frame = _renamed(table, _known_columns(table, columns, path))
    frame["source_subject"] = frame["subject"]
    for name, read in CELL_READERS.items():
        if name in frame:
            frame[name] = read(frame, columns, path)
    return frame


def _known_columns(table: pd.DataFrame, columns: Columns, path: Path) -> dict[str, str]:
    """The table's own column -> gen3d's name for it; the scan's file is called `source`."""
    in_table = {str(column).lower(): str(column) for column in table.columns}
    names: dict[str, str] = {}
    for field_name, aliases in ALIASES.items():
        column = _column_of(getattr(columns, field_name), aliases, in_table)
        if column is not None and column not in in_table.values():
            listed = ", ".join(map(str, table.columns))
            raise UserError(f"{path}: no column `{column}` for columns.{field_name}; the columns are {listed}.")
        if column is not None and column not in names:
            names[column] = "source" if field_name == "path" else field_name
    if "subject" not in names.values():
        raise UserError(
            f"{path}: no column with the person's id (looked for participant_id, subject); use columns.subject=."
        )
    return names


def _column_of(requested: str | None, aliases: tuple[str, ...], in_table: dict[str, str]) -> str | None:
    """The table's column that was requested (as it was typed, if there is none), or the first with a usual name."""
    if requested is not None:
        return in_table.get(requested.lower(), requested)
    return next((in_table[alias] for alias in aliases if alias in in_table), None)


def _renamed(table: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The table under gen3d's names; another column that has such a name already gets `_original` behind it."""
    reserved = set(names.values())
    clashing = {column: f"{column}_original" for column in table.columns if column in reserved and column not in names}
    return table.rename(columns=clashing).rename(columns=names)


def _subjects(frame: pd.DataFrame, columns: Columns, path: Path) -> list[str]:
    ids = [plain_text(value).removeprefix("sub-") for value in frame["subject"]]
    missing = [value.lower() in MISSING for value in ids]
    if any(missing):
        row = missing.index(True) + 2  # as a spreadsheet numbers them: from 1, the header included
        written = f" (it says {ids[row - 2]!r})" if ids[row - 2] else ""
        raise UserError(f"{path}: row {row} has no subject id{written}; give every row the id of its person.")
    return [label(value) for value in ids]


def _sessions(frame: pd.DataFrame, columns: Columns, path: Path) -> list[str]:
    sessions = [plain_text(value).removeprefix("ses-") for value in frame["session"]]
    return ["" if value.lower() in MISSING else label(value) for value in sessions]


def _sites(frame: pd.DataFrame, columns: Columns, path: Path) -> list[str]:
    return [plain_text(value) if value.lower() not in MISSING else "" for value in frame["site"]]


def _sexes(frame: pd.DataFrame, columns: Columns, path: Path) -> list[str]:
    values = frame["sex"]
    codes: dict[str, str] = {**SEX_CODES, **{str(key).lower(): str(value) for key, value in columns.sex_codes.items()}}
    unknown = sorted({v for v in values if v.lower() not in codes and v.lower() not in MISSING})
    if unknown:
        raise UserError(
            f"{path}: unknown code of sex {', '.join(repr(v) for v in unknown[:6])}; say what it means, "
            f"for instance columns.sex_codes='{{{unknown[0]}: F}}'."
        )
    return [codes.get(v.lower(), "") for v in values]


def _diagnoses(frame: pd.DataFrame, columns: Columns, path: Path) -> list[str]:
    codes = {key.lower(): value for key, value in columns.diagnosis_codes.items()}
    # A code that the user names goes before the usual spellings of a missing value: `none` may well mean control.
    return [codes.get(v.lower(), "" if v.lower() in MISSING else v) for v in frame["diagnosis"]]


def _scores(name: str) -> CellReader:
    def read(frame: pd.DataFrame, columns: Columns, path: Path) -> pd.Series:
        return pd.to_numeric(frame[name], errors="coerce")

    return read


def _ages(frame: pd.DataFrame, columns: Columns, path: Path) -> pd.Series:
    text = frame["age_years"]
    ages = pd.to_numeric(text, errors="coerce")
    wrong = sorted({v for v, age in zip(text, ages, strict=True) if pd.isna(age) and v.lower() not in MISSING})
    if wrong:
        raise UserError(f"{path}: age {', '.join(repr(v) for v in wrong[:5])} is not a number; write a number or n/a.")
    ages = ages / UNITS_PER_YEAR[columns.age_unit]
    if ages.max() > MAX_AGE_YEARS:
        who = frame["source_subject"].iloc[int(ages.argmax())]
        raise UserError(
            f"{path}: {who} would be {ages.max():g} years old; if the column is in months or days, "
            "say columns.age_unit=months (or days), otherwise correct that row."
        )
    if ages.min() < 0:
        raise UserError(
            f"{path}: {frame['source_subject'].iloc[int(ages.argmin())]} has a negative age; correct that row."
        )
    return ages


CellReader = Callable[[pd.DataFrame, Columns, Path], "list[str] | pd.Series"]
"""(table under gen3d's names, the user's codings, the table's file) -> the cells of one column in gen3d's coding."""

CELL_READERS: dict[str, CellReader] = {
    "subject": _subjects,
    "session": _sessions,
    "site": _sites,
    "sex": _sexes,
    "age_years": _ages,
    "diagnosis": _diagnoses,
    "cdr": _scores("cdr"),
    "mmse": _scores("mmse"),
}
"""In the order in which mistakes are reported."""
