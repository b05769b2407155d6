"""A user's table in gen3d's terms: the names and codings that the user can give, and every cell in one coding."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from gen3d.cohort.labels import label, plain_text
from gen3d.cohort.target import as_label
from gen3d.core.config import Config
from gen3d.core.errors import UserError
from gen3d.prepare.sidecar import SEX_CODES, UNKNOWN_SEX

MISSING = ("", "n/a", "na", "nan", "none", "unknown", "-", "#n/a")
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
UNITS_PER_YEAR = {"years": 1.0, "months": 12.0, "weeks": 365.25 / 7, "days": 365.25}


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
    date: str | None = Field(
        None,
        description="column with the date of the scan, as 2015-03-28 (usual: acq_time, scan_date, date); it tells ages that later "
        "visits lack",
    )
    path: str | None = Field(
        None,
        description="for a table of scans: column with each scan's path, relative to the table",
    )
    age_unit: Literal["years", "months", "weeks", "days"] | None = Field(
        None, description="unit of the age column; none: what participants.json says, otherwise years"
    )
    age_codes: dict[str, float] = Field(
        default_factory=dict, description="ages that are no numbers, for instance {89+: 90}, in the unit of the column"
    )
    sex_codes: dict[str, Literal["M", "F", "unknown"]] = Field(
        default_factory=dict,
        description="meaning of codes of sex other than M and F, for instance {1: M, 2: F, 9: unknown}",
    )
    diagnosis_codes: dict[str, str] = Field(
        default_factory=dict, description="new names for diagnoses, for instance {depr: depression, 0: control}"
    )
    missing: tuple[str, ...] = Field(
        (), description="further spellings of a missing value, in any column, for instance [-9, 999]"
    )
    space: str | None = Field(
        None, description="in derivatives with images in several spaces: the `space-` label to read"
    )


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
    values = [as_label(value) for value in frame["sex"]]
    codes: dict[str, str] = {**SEX_CODES, **_by_label(columns.sex_codes)}
    unknown = sorted({v for v in values if v.lower() not in codes and v.lower() not in MISSING})
    if unknown:
        raise UserError(
            f"{path}: unknown code of sex {', '.join(repr(v) for v in unknown[:6])}; say what it means, "
            f"for instance columns.sex_codes='{{{unknown[0]}: F}}' (or M, or unknown)."
        )
    found = [codes.get(v.lower(), "") for v in values]
    return ["" if sex == UNKNOWN_SEX else sex for sex in found]


def _by_label(codes: Mapping[str, str]) -> dict[str, str]:
    """Codes as `as_label` writes them, in lower case: 2 is also 2.0."""
    return {as_label(code).lower(): meaning for code, meaning in codes.items()}


def _diagnoses(frame: pd.DataFrame, columns: Columns, path: Path) -> list[str]:
    codes = _by_label(columns.diagnosis_codes)
    values = [as_label(value) for value in frame["diagnosis"]]
    # A code that the user names goes before the usual spellings of a missing value: `none` may well mean control.
    return [codes.get(v.lower(), "" if v.lower() in MISSING else v) for v in values]


def _scores(name: str, highest: float) -> CellReader:
    def read(frame: pd.DataFrame, columns: Columns, path: Path) -> pd.Series:
        scores = _numbers(frame[name], name, path)
        wrong = (scores < 0) | (scores > highest)
        if wrong.any():
            raise UserError(
                f"{path}: {name} {frame[name][wrong].iloc[0]} of {frame['source_subject'][wrong].iloc[0]} is not between 0 and "
                f"{highest:g}; correct it, or name it in columns.missing= if it stands for a missing value."
            )
        return scores

    return read


def _numbers(text: pd.Series, name: str, path: Path) -> pd.Series:
    numbers = pd.to_numeric(text, errors="coerce")
    wrong = sorted({v for v, number in zip(text, numbers, strict=True) if pd.isna(number) and v.lower() not in MISSING})
    if wrong:
        coded = re.search(r"[0-9]+", wrong[0]) if name == "age" and re.search("[<>+]", wrong[0]) else None
        hint = (
            f", or say what it counts as with columns.age_codes='{{\"{wrong[0]}\": {coded.group()}}}'" if coded else ""
        )
        raise UserError(
            f"{path}: {name} {', '.join(repr(v) for v in wrong[:5])} is not a number; write a number or n/a, or name it in "
            f"columns.missing={hint}."
        )
    return numbers


def _ages(frame: pd.DataFrame, columns: Columns, path: Path) -> pd.Series:
    codes = {code.lower(): str(age) for code, age in columns.age_codes.items()}
    coded = frame["age_years"].str.lower().isin(list(codes))
    text = frame["age_years"].where(~coded, frame["age_years"].str.lower().map(codes))
    ages = _numbers(text, "age", path) / UNITS_PER_YEAR[columns.age_unit or "years"]
    if ages.max() > MAX_AGE_YEARS:
        who = frame["source_subject"].iloc[int(ages.argmax())]
        raise UserError(
            f"{path}: {who} would be {ages.max():g} years old; if the column is in months or days, "
            "say columns.age_unit=months (or days), otherwise correct that row."
        )
    if ages.min() < 0:
        raise UserError(
            f"{path}: {frame['source_subject'].iloc[int(ages.argmin())]} has a negative age; correct that row, or name the value "
            "in columns.missing= if it stands for a missing one."
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
    "cdr": _scores("cdr", 3.0),
    "mmse": _scores("mmse", 30.0),
}
"""In the order in which mistakes are reported."""
