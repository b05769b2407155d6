"""Readers that turn a BIDS folder, a CAPS folder or a table into cohort rows with the path of each scan.

BIDS and CAPS are read by one file suffix (`_T1w.nii`, `_T1w.nii.gz`) and the entities in the file's name: no database
and no index, so that a thousand subjects take a second. What does not match up (a scan without a row, a row without a
scan, a second run) is listed and stops nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from gen3d.cohort.manifest import scan_key
from gen3d.core.config import Config
from gen3d.core.errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
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
MONTHS_OR_DAYS = {"years": 1.0, "months": 12.0, "days": 365.25}


class Columns(Config):
    """Which column of the user's table is which; left out, the usual names are recognised in any case."""

    subject: str | None = Field(None, description="column with the person's id (usual: participant_id, subject)")
    session: str | None = Field(None, description="column with the session or visit (usual: session_id, session)")
    site: str | None = Field(None, description="column with the site or scanner; default the folder's name")
    age_years: str | None = Field(None, description="column with the age at the scan (usual: age)")
    sex: str | None = Field(None, description="column with the sex (usual: sex, gender, M/F)")
    diagnosis: str | None = Field(None, description="column with the diagnosis (usual: diagnosis, group, dx)")
    cdr: str | None = Field(None, description="column with the Clinical Dementia Rating")
    mmse: str | None = Field(None, description="column with the Mini-Mental State Examination score")
    path: str | None = Field(None, description="in a table: column with the scan's file, relative to the table")
    age_unit: Literal["years", "months", "days"] = Field("years", description="unit of the age column")
    sex_codes: dict[str, Literal["M", "F"]] = Field(
        default_factory=dict, description="further codes of sex, for instance {1: M, 2: F}"
    )
    diagnosis_codes: dict[str, str] = Field(
        default_factory=dict, description="new names for diagnoses, for instance {depr: depression, 0: control}"
    )
    space: str | None = Field(None, description="in derivatives with several `space-` images: the one to take")


@dataclass(frozen=True)
class Source:
    """Rows of one or several sources (columns of the cohort table except role, plus `source`), and what was left over."""

    frame: pd.DataFrame
    unmatched: list[tuple[str, str]] = field(default_factory=list)


def read_sources(paths: Sequence[Path], columns: Columns | None = None, shared_ids: bool = False) -> Source:
    """Read every source and join the rows.

    Args:
        paths: BIDS or CAPS folders, or tables.
        columns: names and codings that differ from the usual ones.
        shared_ids: the same id in two sources is the same person (otherwise ids that collide get the site in front).

    Raises:
        UserError: a missing folder, no scan at all, unknown codes (listed), ages in another unit, duplicates.
    """
    columns = columns or Columns()
    sources = [_read_one(path, columns) for path in paths]
    frames = [source.frame for source in sources]
    if len(frames) > 1 and not shared_ids and _collide(frames):
        frames = [_qualify(frame, frame["site"]) for frame in frames]
    frame = pd.concat(frames, ignore_index=True)
    frame["key"] = [scan_key(*pair) for pair in zip(frame["subject"], frame["session"], strict=True)]
    _refuse_duplicates(frame)
    return Source(frame, [item for source in sources for item in source.unmatched])


def _read_one(path: Path, columns: Columns) -> Source:
    if path.is_dir():
        found = _read_folder(path, columns)
    elif path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        found = _read_scan_table(path, columns)
    elif path.is_file():
        raise UserError(f"{path}: a source is a BIDS or CAPS folder or a table ({', '.join(TABLE_SUFFIXES)}).")
    else:
        raise UserError(f"{path}: no such folder or table; check source=.")
    frame = found.frame
    frame["site"] = frame["site"].where(frame["site"] != "", _label(path.name if path.is_dir() else path.parent.name))
    pairs = frame.groupby(["subject", "session"])["site"].nunique()
    if (pairs > 1).any():  # the ids are unique within a site only
        frame = _qualify(frame, frame["site"])
    return Source(frame, found.unmatched)


# ---------------------------------------------------------------------------------------------- folders of scans


def _read_folder(folder: Path, columns: Columns) -> Source:
    scans, unmatched = _find_scans(folder, columns.space)
    if not scans:
        raise UserError(
            f"{folder}: no *_T1w.nii or *_T1w.nii.gz in it; give a BIDS or CAPS folder, or a table of paths."
        )
    table_path = next((p for p in _participant_tables(folder) if p.is_file()), None)
    if table_path is None:
        unmatched.append((str(folder), "no participants.tsv: age, sex and diagnosis are unknown"))
        people = pd.DataFrame({"subject": pd.Series([], dtype=object)})
    else:
        people = _standardise(_read_table(table_path), columns, table_path)
    people = people.drop(columns=["source"], errors="ignore")
    frame = pd.DataFrame(scans, columns=["subject", "session", "source"])
    sessions = _session_tables(folder, columns)
    rows_without_session = (
        people.drop(columns=["session"]) if "session" in people and not people["session"].ne("").any() else people
    )
    on = ["subject", "session"] if "session" in rows_without_session else ["subject"]
    twice = rows_without_session[on][rows_without_session.duplicated(on)]
    if len(twice):
        who = str(twice["subject"].iloc[0])
        raise UserError(f"{table_path}: {who} has more than one row; keep one row per person (and session).")
    known = set(rows_without_session["subject"])
    unmatched += [(str(s), "scan without a row in participants.tsv") for s in sorted(set(frame["subject"]) - known)]
    unmatched += [(str(s), "row in participants.tsv without a scan") for s in sorted(known - set(frame["subject"]))]
    frame = frame.merge(rows_without_session, on=on, how="left")
    frame = _override(frame, sessions)
    return Source(_complete(frame), unmatched)


def _participant_tables(folder: Path) -> list[Path]:
    """Where BIDS keeps the table; derivatives and CAPS folders often sit below the raw dataset that has it."""
    return [place / "participants.tsv" for place in (folder, folder.parent, folder.parent.parent)]


def _find_scans(folder: Path, space: str | None) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    by_scan: dict[tuple[str, str], list[tuple[dict[str, str], Path]]] = {}
    for path in sorted([*folder.rglob("*_T1w.nii.gz"), *folder.rglob("*_T1w.nii")]):
        entities = dict(re.findall(r"(?:^|_)([a-zA-Z0-9]+)-([a-zA-Z0-9+]+)", path.name.split(".")[0]))
        if "sub" in entities:
            by_scan.setdefault((entities["sub"], entities.get("ses", "1")), []).append((entities, path))
    spaces = {e["space"] for found in by_scan.values() for e, _ in found if "space" in e}
    if space is not None and space not in spaces:
        raise UserError(
            f"{folder}: no scan in space-{space}; the spaces there are {', '.join(sorted(spaces)) or 'none'}."
        )
    native = any("space" not in e for found in by_scan.values() for e, _ in found)
    if space is None and not native and len(spaces) > 1:
        raise UserError(
            f"{folder}: scans in several spaces ({', '.join(sorted(spaces))}); choose one with columns.space=."
        )
    chosen, unmatched = [], []
    for (subject, session), found in sorted(by_scan.items()):
        wanted = [item for item in found if item[0].get("space") == space] or ([] if space else found)
        if not wanted:
            unmatched.append((subject, f"no scan in space-{space} at session {session}"))
            continue
        first, *others = sorted(wanted, key=lambda item: (len(item[0]), item[1].name))
        chosen.append((subject, session, str(first[1])))
        unmatched += [(subject, f"further image not used: {other.name}") for _, other in others]
    return chosen, unmatched


def _session_tables(folder: Path, columns: Columns) -> pd.DataFrame:
    """Ages and scores that change between sessions, from BIDS `sub-*_sessions.tsv`."""
    frames = []
    for path in sorted(folder.glob("sub-*/sub-*_sessions.tsv")):
        table = _read_table(path)
        table.insert(0, "subject", path.parent.name)
        frames.append(_standardise(table, columns.model_copy(update={"subject": "subject"}), path))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _override(frame: pd.DataFrame, sessions: pd.DataFrame) -> pd.DataFrame:
    """What a session's table says of a scan goes before what the participant's row says."""
    if sessions.empty:
        return frame
    extra = frame[["subject", "session"]].merge(
        sessions.drop(columns=["source"], errors="ignore"), on=["subject", "session"], how="left"
    )
    for column in extra.columns.difference(["subject", "session"]):
        values = extra[column].to_numpy()
        present = pd.notna(values) & (values != "")
        frame[column] = pd.Series(values, index=frame.index).where(present, frame.get(column))
    return frame


# ------------------------------------------------------------------------------------------------------- tables


def _read_scan_table(path: Path, columns: Columns) -> Source:
    frame = _standardise(_read_table(path), columns, path)
    if "source" not in frame:
        raise UserError(
            f"{path}: no column with the scans' files (looked for {', '.join(ALIASES['path'])}); name it with columns.path=."
        )
    unmatched = [(str(s), "row without a scan file") for s in frame.loc[frame["source"] == "", "subject"]]
    frame = frame[frame["source"] != ""].copy()
    if frame.empty:
        raise UserError(f"{path}: no row names a scan file.")
    frame["source"] = [str(path.parent / name) for name in frame["source"]]
    return Source(_complete(frame), unmatched)


def _read_table(path: Path) -> pd.DataFrame:
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


def _standardise(table: pd.DataFrame, columns: Columns, path: Path) -> pd.DataFrame:
    """Rename the known columns and bring their codings to gen3d's; every other column is kept as it is."""
    lower = {str(column).lower(): str(column) for column in table.columns}
    rename: dict[str, str] = {}
    for field_name, aliases in ALIASES.items():
        asked = getattr(columns, field_name)
        if asked is not None and asked.lower() not in lower:
            known = ", ".join(map(str, table.columns))
            raise UserError(f"{path}: no column `{asked}` for columns.{field_name}; the columns are {known}.")
        found = lower.get(asked.lower()) if asked else next((lower[a] for a in aliases if a in lower), None)
        if found is not None and found not in rename:
            rename[found] = "source" if field_name == "path" else field_name
    if "subject" not in rename.values():
        raise UserError(
            f"{path}: no column with the person's id (looked for participant_id, subject); use columns.subject=."
        )
    taken = set(rename.values())
    frame = table.rename(columns={c: f"{c}_original" for c in table.columns if c in taken and c not in rename})
    frame = frame.rename(columns=rename)
    frame["source_subject"] = frame["subject"]
    frame["subject"] = [_label(value.removeprefix("sub-")) for value in frame["subject"]]
    if (frame["subject"] == "").any():
        raise UserError(f"{path}: row {int((frame['subject'] == '').to_numpy().argmax()) + 2} has no subject id.")
    if "session" in frame:
        frame["session"] = [_label(value.removeprefix("ses-")) for value in frame["session"]]
    if "site" in frame:
        frame["site"] = [_label(value) if value.lower() not in MISSING else "" for value in frame["site"]]
    if "sex" in frame:
        frame["sex"] = _sexes(frame["sex"], columns, path)
    if "age_years" in frame:
        frame["age_years"] = _ages(frame, columns, path)
    if "diagnosis" in frame:
        codes = {key.lower(): value for key, value in columns.diagnosis_codes.items()}
        frame["diagnosis"] = [
            "" if v.lower() in MISSING and v.lower() not in codes else codes.get(v.lower(), v)
            for v in frame["diagnosis"]
        ]
    for column in ("cdr", "mmse"):
        if column in frame:
            frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return frame


def _sexes(values: pd.Series, columns: Columns, path: Path) -> list[str]:
    codes: dict[str, str] = {**SEX_CODES, **{str(key).lower(): str(value) for key, value in columns.sex_codes.items()}}
    unknown = sorted({v for v in values if v.lower() not in codes and v.lower() not in MISSING})
    if unknown:
        raise UserError(
            f"{path}: unknown code of sex {', '.join(repr(v) for v in unknown[:6])}; say what it means, "
            f"for instance columns.sex_codes='{{{unknown[0]}: F}}'."
        )
    return [codes.get(v.lower(), "") for v in values]


def _ages(frame: pd.DataFrame, columns: Columns, path: Path) -> pd.Series:
    text = frame["age_years"]
    ages = pd.to_numeric(text, errors="coerce")
    wrong = sorted({v for v, age in zip(text, ages, strict=True) if pd.isna(age) and v.lower() not in MISSING})
    if wrong:
        raise UserError(f"{path}: age {', '.join(repr(v) for v in wrong[:5])} is not a number; write a number or n/a.")
    ages = ages / MONTHS_OR_DAYS[columns.age_unit]
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


# ------------------------------------------------------------------------------------------------------ joining


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of the cohort table that a source does not have."""
    frame = frame.reset_index(drop=True)
    for column in ("subject", "session", "site", "sex", "diagnosis", "source"):
        values = frame[column] if column in frame else pd.Series("", index=frame.index, dtype=object)
        frame[column] = values.astype(object).where(values.notna(), "")
    for column in ("age_years", "cdr", "mmse"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce") if column in frame else float("nan")
    frame["session"] = frame["session"].replace("", "1")
    if "source_subject" not in frame:
        frame["source_subject"] = frame["subject"]
    frame["source_subject"] = frame["source_subject"].where(frame["source_subject"].notna(), frame["subject"])
    return frame


def _label(text: str) -> str:
    """Letters and digits only, as BIDS labels are."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _collide(frames: list[pd.DataFrame]) -> bool:
    seen: set[str] = set()
    for frame in frames:
        subjects = set(frame["subject"])
        if seen & subjects:
            return True
        seen |= subjects
    return False


def _qualify(frame: pd.DataFrame, site: pd.Series) -> pd.DataFrame:
    return frame.assign(subject=[f"{_label(s)}{subject}" for s, subject in zip(site, frame["subject"], strict=True)])


def _refuse_duplicates(frame: pd.DataFrame) -> None:
    twice = frame[frame.duplicated("key", keep=False)].sort_values("key")
    if len(twice):
        key = twice["key"].iloc[0]
        files = " and ".join(twice.loc[twice["key"] == key, "source"].iloc[:2])
        raise UserError(
            f"{key} occurs more than once ({files}); give each scan of a person its own session, or remove one row."
        )
    one_person = frame[frame["sex"] != ""].groupby("subject")["sex"].nunique()
    if (one_person > 1).any():
        subject = one_person.index[one_person > 1][0]
        raise UserError(
            f"{subject} is M in one row and F in another; correct the rows, or tell two people apart by id."
        )
