"""The people of a folder joined to its scans: participants.tsv, and sessions.tsv for what changes between visits.

What matches nothing is listed, and how each table was read is said; a table of another dataset is not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_json
from gen3d.core.user_table import read_user_table
from gen3d.prepare.columns import ALIASES, MISSING, Columns
from gen3d.prepare.sidecar import sidecar_of
from gen3d.prepare.standard import AbsentColumn, known_columns, standardise, told

PARTICIPANTS, DESCRIPTION = "participants.tsv", "dataset_description.json"
SCAN = ["subject", "session"]
LEAST_SHARE_BELOW = 0.5
"""Share of the people whose own folders lie next to a participants.tsv above, from which on it is theirs."""


@dataclass
class PeopleTables:
    """What the tables of a folder say of its scans.

    Attributes:
        frame: a row per scan, with the columns of the tables.
        unmatched: (entry, remark) of rows and scans that match nothing.
        notes: sentences on how the tables were read.
    """

    frame: pd.DataFrame
    unmatched: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def join_people(folder: Path, scans: pd.DataFrame, columns: Columns) -> PeopleTables:
    """Join the tables of a BIDS or CAPS folder to its scans.

    Args:
        folder: of the scans.
        scans: columns subject, session and source.
        columns: the user's names and codings.

    Raises:
        UserError: a table that cannot be used, two rows for one scan, or a named column that none of the tables has.
    """
    result = PeopleTables(scans.copy())
    table_path = _participants(folder, scans, result)
    _check_named(table_path, _session_files(folder, table_path), columns)
    if table_path is None:
        result.unmatched.append((str(folder), "no participants.tsv: age, sex and diagnosis are unknown"))
        result.notes.append(f"{folder}: no participants.tsv, so age, sex and diagnosis are unknown{_hint(folder)}")
    else:
        _join_participants(result, table_path, columns)
    _join_sessions(result, _session_files(folder, table_path), columns)
    return result


# ------------------------------------------------------------------------------------------------ which tables


def _participants(folder: Path, scans: pd.DataFrame, result: PeopleTables) -> Path | None:
    """The table of the people of a folder: its own, or that of the dataset whose derivative the folder is."""
    if (folder / PARTICIPANTS).is_file():
        return folder / PARTICIPANTS
    for place in (folder.resolve().parent, folder.resolve().parent.parent):
        table = place / PARTICIPANTS
        if not table.is_file():
            continue
        if _belongs(folder, place, scans):
            return table
        result.notes.append(
            f"{table} is not read, because nothing says that {folder} is a derivative of that dataset; if it is, copy the table "
            "into the folder"
        )
    return None


def _hint(folder: Path) -> str:
    """The table that was meant, perhaps, where a folder has one of another name."""
    near = sorted(
        path.name for path in folder.iterdir() if path.is_file() and path.name.lower().startswith("participants.")
    )
    tables = [name for name in near if not name.lower().endswith(".json")]
    return f"; {tables[0]} is not read, save it as participants.tsv" if tables else ""


def _belongs(folder: Path, place: Path, scans: pd.DataFrame) -> bool:
    """Whether a folder is a derivative of the dataset above it: it says so, or its people have their folders there too."""
    below = folder.resolve().relative_to(place).parts
    if (place / DESCRIPTION).is_file() and ("derivatives" in below or _says_derivative(folder)):
        return True
    people = scans["subject"].unique()
    return sum((place / f"sub-{person}").is_dir() for person in people) >= LEAST_SHARE_BELOW * len(people)


def _says_derivative(folder: Path) -> bool:
    try:
        said = load_json(folder / DESCRIPTION)
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and str(said.get("DatasetType", "")).lower() == "derivative"


def _session_files(folder: Path, participants: Path | None) -> list[Path]:
    """BIDS's sessions.tsv of every person, in the folder or in the dataset whose participants.tsv is read."""
    places = dict.fromkeys([folder.resolve(), *([participants.parent.resolve()] if participants else [])])
    for place in places:
        found = sorted([*place.glob("sub-*/sub-*_sessions.tsv"), *place.glob("subjects/sub-*/sub-*_sessions.tsv")])
        if found:
            return found
    return []


def _check_named(participants: Path | None, sessions: list[Path], columns: Columns) -> None:
    """Refuse a named column that no table has: it may stand in participants.tsv or in the tables of sessions."""
    paths = [*([participants] if participants else []), *sessions]
    named = [name for name in ALIASES if name != "path" and getattr(columns, name) is not None]
    if not paths or not named:
        return
    there = {str(name).lower() for path in paths for name in read_user_table(path, may_be_empty=True).columns}
    for name in named:
        if getattr(columns, name).lower() not in there:
            others = f" and {words.count(len(sessions), 'table')} of sessions" if participants and sessions else ""
            raise AbsentColumn(
                f"{paths[0]}{others}: no column `{getattr(columns, name)}` for columns.{name}; the columns are "
                f"{', '.join(sorted(there))}.",
                name,
            )


# ----------------------------------------------------------------------------------------------------- joining


def _join_participants(result: PeopleTables, path: Path, columns: Columns) -> None:
    table, sidecar = read_user_table(path, may_be_empty=True), sidecar_of(path)
    if table.empty:
        result.notes.append(f"{path}: no rows, so age, sex and diagnosis are unknown")
        result.unmatched += [
            (str(s), f"scan without a row in {path.name}") for s in sorted(set(result.frame["subject"]))
        ]
        return
    result.notes += told(table, columns, path, sidecar, lenient=True)
    people = standardise(table, columns, path, sidecar, lenient=True).drop(columns=["source"], errors="ignore")
    if "session" in people and not people["session"].ne("").any():
        people = people.drop(columns="session")
    on = SCAN if "session" in people else ["subject"]
    _refuse_twice(people, on, path)
    before = result.frame
    known, scanned = set(people["subject"]), set(before["subject"])
    result.unmatched += [(str(s), f"scan without a row in {path.name}") for s in sorted(scanned - known)]
    result.unmatched += [(str(s), f"row in {path.name} without a scan") for s in sorted(known - scanned)]
    if on == SCAN:
        people, renamed = _as_scanned(people, _sessions_of(before), result, path, only_row=True)
        result.notes += _renamed_note(str(path), renamed)
    result.frame = before.merge(people, on=on, how="left", validate="many_to_one")
    scans, rows = (list(frame[on].itertuples(index=False, name=None)) for frame in (before, people))
    bare, idle = (sum(key not in there for key in keys) for keys, there in ((scans, set(rows)), (rows, set(scans))))
    if bare == len(scans):
        result.notes.append(
            f"{path}: none of its {words.count(len(people), 'row')} is that of a scan here (its ids are like "
            f"{table.iloc[0][_id_column(table, columns, path)]!r}, the scans' like {before['subject'].iloc[0]!r}), so age, sex "
            "and diagnosis are unknown"
        )
    else:
        parts = [f"{bare} of {words.count(len(scans), 'scan')} without a row"] if bare else []
        parts += [f"{idle} of {words.count(len(rows), 'row')} without a scan"] if idle else []
        result.notes += [f"{path}: {', '.join(parts)}"] if parts else []


def _id_column(table: pd.DataFrame, columns: Columns, path: Path) -> str:
    return next(
        name for name, field_name in known_columns(table, columns, path, True).items() if field_name == "subject"
    )


def _join_sessions(result: PeopleTables, paths: list[Path], columns: Columns) -> None:
    """Let the values of people's tables of sessions replace those of the participants' rows."""
    scanned, parts, renamed, used = _sessions_of(result.frame), [], [], set()
    for path in paths:
        table = read_user_table(path, may_be_empty=True)
        if table.empty:
            continue
        sessions = _session_table(path, table, columns)
        used |= set(sessions.columns) - {*SCAN, "source_subject"}
        sessions, new = _as_scanned(sessions, scanned, result, path, only_row=False)
        parts.append(sessions)
        renamed += new
    if not parts:
        return
    result.notes.append(
        f"{words.count(len(parts), 'sessions.tsv', 'tables sessions.tsv')}; read {', '.join(sorted(used))}"
    )
    result.notes += _renamed_note("sessions.tsv", renamed)
    _override(result.frame, pd.concat(parts, ignore_index=True).drop(columns="source_subject"))


def _session_table(path: Path, table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """One person's sessions in gen3d's terms."""
    table = table.drop(columns=[name for name in table.columns if name.lower() in ALIASES["subject"]])
    table.insert(0, "subject", path.parent.name)
    mine = columns.model_copy(update={"subject": "subject"})
    if "session" not in known_columns(table, mine, path, lenient=True).values():
        raise UserError(
            f"{path}: no column session_id, which says whose values they are; its columns are "
            f"{', '.join(map(str, table.columns[1:]))}."
        )
    sidecar = sidecar_of(path, *(path.parent.parent / name for name in ("sessions.json", "participants.json")))
    sessions = standardise(table, mine, path, sidecar, lenient=True).drop(columns=["source"], errors="ignore")
    _refuse_twice(sessions, SCAN, path)
    return sessions


def _refuse_twice(table: pd.DataFrame, on: list[str], path: Path) -> None:
    twice = table[table.duplicated(on)]
    if len(twice):
        session = f" of session {twice['session'].iloc[0]}" if "session" in on else ""
        raise UserError(
            f"{path}: {twice['subject'].iloc[0]} has more than one row{session}; keep one row per person (and session)."
        )


def _sessions_of(frame: pd.DataFrame) -> dict[str, list[str]]:
    sessions: dict[str, list[str]] = {}
    for person, session in frame[SCAN].itertuples(index=False):
        sessions.setdefault(person, []).append(session)
    return sessions


def _as_scanned(
    rows: pd.DataFrame, scanned: dict[str, list[str]], result: PeopleTables, path: Path, only_row: bool
) -> tuple[pd.DataFrame, list[str]]:
    """The rows with the sessions called as the scans' are, where it is plain which is meant, and what was renamed.

    M00 and M000 are one session where a person has no other that could be meant. With `only_row`, the one row of a person with one
    scan is that scan's where the scan's name has no session. What matches nothing is listed in `result`.
    """
    called, new, renamed = _sessions_of(rows), [], []
    for person, session in rows[SCAN].itertuples(index=False):
        there = scanned.get(person, [])
        meant = session if session in there else _meant(session, there, called[person], only_row)
        if meant is None:
            meant = session
            if there:
                remark = f"row of session {session or '(none)'} in {path.name} without a scan"
                result.unmatched.append((str(person), remark))
        if meant != session:
            renamed.append(f"{session or '(none)'} is taken for {meant}")
        new.append(meant)
    with_row = set(zip(rows["subject"], new, strict=True))
    for person in called:
        result.unmatched += [
            (str(person), f"scan of session {session} without a row in {path.name}")
            for session in scanned.get(person, [])
            if (person, session) not in with_row
        ]
    return rows.assign(session=new), renamed


def _meant(session: str, there: list[str], called: list[str], only_row: bool) -> str | None:
    """The session of a scan that a row means which is called otherwise, or None where that is not plain."""
    same = [name for name in there if _unpadded(name) == _unpadded(session) and name not in called]
    if len(same) == 1 and sum(_unpadded(name) == _unpadded(session) for name in called) == 1:
        return same[0]
    return "1" if only_row and there == ["1"] and len(called) == 1 else None


def _renamed_note(where: str, renamed: list[str]) -> list[str]:
    shown = list(dict.fromkeys(renamed))
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return [f"{where}: session {', '.join(shown[:5])}{more}"] if shown else []


def _unpadded(session: str) -> str:
    """A session without the zeros in front of its numbers, in lower case."""
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", session.lower())


def _override(frame: pd.DataFrame, sessions: pd.DataFrame) -> None:
    """Values of a session's table replace those of the participant's row, in place; missing ones do not."""
    extra = frame[SCAN].merge(sessions, on=SCAN, how="left")
    for column in extra.columns.difference(SCAN):
        values = extra[column]
        present = (values.notna() & ~values.astype(str).str.lower().isin(MISSING)).to_numpy()
        frame[column] = pd.Series(values.to_numpy(), index=frame.index).where(present, frame.get(column, float("nan")))
