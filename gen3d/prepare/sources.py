"""Readers that turn a BIDS folder, a CAPS folder or a table into cohort rows with the path of each scan.

BIDS and CAPS are read by one file suffix (`_T1w.nii`, `_T1w.nii.gz`) and the entities in the file's name: no database
and no index, so that a thousand subjects take a second. `which_scan` says which image is taken, `identity` whose it is. What
does not match up (a scan without a row, a row without a scan, a second run) is listed; nothing stops for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.prepare.columns import ALIASES, MISSING, Columns
from gen3d.prepare.dates import doubts_about_visits, with_ages_of_visits
from gen3d.prepare.identity import SourceRows, identified, joined
from gen3d.prepare.joining import join_people
from gen3d.prepare.sidecar import sidecar_of
from gen3d.prepare.standard import AbsentColumn, standardise, told
from gen3d.prepare.which_scan import find_scans

ORIGIN = "_origin"
TABLE_SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class ScanSource:
    """Rows of one or several sources, and what did not match up.

    `frame` has the columns of the cohort table except role, and `source`; `unmatched` holds (entry, remark), and `found_in` the
    source of each of them, filled by `read_sources`; `notes` are sentences on how the tables were read, and `origin` the name of
    every row's source.
    """

    frame: pd.DataFrame
    unmatched: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found_in: list[str] = field(default_factory=list)
    origin: list[str] = field(default_factory=list)

    def unmatched_counts(self) -> str:
        """How many entries of each kind match nothing: `scan without a row in participants.tsv (2)`."""
        kinds = Counter(re.sub(r"session \S+ ", "", remark.split(":")[0]) for _, remark in self.unmatched)
        return ", ".join(f"{kind} ({count})" for kind, count in kinds.items())


def read_sources(
    paths: Sequence[Path] | Mapping[str, Path], columns: Columns | None = None, shared_ids: bool = False
) -> ScanSource:
    """Read every source and join the rows.

    Args:
        paths: BIDS or CAPS folders, or tables; or the same by names, which then stand in front of the ids.
        columns: names and codings that differ from the usual ones.
        shared_ids: the same id in two sources is the same person (otherwise it is refused).

    Raises:
        UserError: a missing folder, no scan at all, unknown codes (listed), ages in another unit, ids that may be one person or
            two.
    """
    columns = columns or Columns()
    if shared_ids and isinstance(paths, Mapping) and len(paths) > 1:
        raise UserError(
            f"the names of the sources ({', '.join(paths)}) keep their ids apart and shared_ids=true joins them; give the "
            "sources as a list if they hold the same people, or leave out shared_ids."
        )
    named = list(paths.items()) if isinstance(paths, Mapping) else [(None, path) for path in paths]
    sources = _read_each([path for _, path in named], columns)
    for place, source in zip(_names(named), sources, strict=True):
        source.frame[ORIGIN] = place
    rows = [
        identified(SourceRows(path, name, source.frame), columns.ids_within_site)
        for (name, path), source in zip(named, sources, strict=True)
    ]
    found_in = [
        name or str(path) for (name, path), source in zip(named, sources, strict=True) for _ in source.unmatched
    ]
    unmatched = [item for source in sources for item in source.unmatched]
    notes = [note for source in sources for note in source.notes]
    frame = joined(rows, shared_ids)
    origin = [str(place) for place in frame.pop(ORIGIN)]
    return ScanSource(frame, unmatched, [*notes, *doubts_about_visits(frame)], found_in, origin)


def _read_each(paths: Sequence[Path], columns: Columns) -> list[ScanSource]:
    """Every source; a column that the user names may be in some of them only, and the usual names then count in the others.

    Raises:
        UserError: see `read_sources`; a named column that no source has.
    """
    sources: list[ScanSource] = []
    absent: dict[str, list[AbsentColumn]] = {}
    for path in paths:
        mine, notes = columns, []
        while True:
            try:
                source = _read_one(path, mine)
                break
            except AbsentColumn as error:
                absent.setdefault(error.field_name, []).append(error)
                if len(absent[error.field_name]) == len(paths):
                    raise
                name = getattr(mine, error.field_name)
                notes.append(f"{path}: no column `{name}` for columns.{error.field_name}, so the usual names count")
                mine = mine.model_copy(update={error.field_name: None})
        sources.append(replace(source, notes=[*notes, *source.notes]))
    return sources


def _names(named: Sequence[tuple[str | None, Path]]) -> list[str]:
    """What each source is called: as the user says, or by its folder or table, or by its path where two have one name."""
    names = [name or (path.name if path.is_dir() else path.stem) for name, path in named]
    return [str(path) if names.count(name) > 1 else name for name, (_, path) in zip(names, named, strict=True)]


def _read_one(path: Path, columns: Columns) -> ScanSource:
    if path.is_dir():
        return _read_folder(path, columns)
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        return _read_scan_table(path, columns)
    if path.is_file():
        raise UserError(
            f"{path}: a source is a BIDS or CAPS folder, a table ({', '.join(TABLE_SUFFIXES)}), a folder of DICOM files or a zip "
            "of them."
        )
    raise UserError(f"{path}: no such folder or table; check source=.")


# ---------------------------------------------------------------------------------------------- folders of scans


def _read_folder(folder: Path, columns: Columns) -> ScanSource:
    scans, unmatched = find_scans(folder, columns.space)
    if not scans:
        raise UserError(f"{folder}: none of its T1w images can be used ({unmatched[0][0]}: {unmatched[0][1]}).")
    people = join_people(folder, pd.DataFrame(scans)[["subject", "session", "source"]], columns)
    frame, named = people.frame, {scan.subject: scan.named for scan in scans}
    original = frame["subject"].map(named)
    frame["source_subject"] = frame["source_subject"].fillna(original) if "source_subject" in frame else original
    frame, notes = with_ages_of_visits(completed(frame), columns, folder)
    return ScanSource(frame, [*unmatched, *people.unmatched], [*people.notes, *notes])


# ------------------------------------------------------------------------------------------------------- tables


def _read_scan_table(path: Path, columns: Columns) -> ScanSource:
    table, sidecar = read_user_table(path, of_files=True), sidecar_of(path)
    frame = standardise(table, columns, path, sidecar)
    if "source" not in frame:
        raise UserError(
            f"{path}: no column with the scans' files (looked for {', '.join(ALIASES['path'])}); name it with columns.path=."
        )
    notes = told(table, columns, path, sidecar)
    absent = frame["source"].str.lower().isin(MISSING)
    unmatched = [(str(s), "row without a scan file") for s in frame.loc[absent, "subject"]]
    if unmatched:
        notes.append(f"{path}: {len(unmatched)} of {words.count(len(frame), 'row')} without a scan file")
    frame = frame[~absent].copy()
    if frame.empty:
        raise UserError(f"{path}: no row names a scan file.")
    frame["source"] = [str(path.parent / name) for name in frame["source"]]
    frame, of_dates = with_ages_of_visits(completed(frame), columns, path)
    return ScanSource(frame, unmatched, [*notes, *of_dates])


# ------------------------------------------------------------------------------------------------------ joining


def completed(frame: pd.DataFrame) -> pd.DataFrame:
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
