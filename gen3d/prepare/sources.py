"""Readers that turn a BIDS folder, a CAPS folder or a table into cohort rows with the path of each scan.

BIDS and CAPS are read by one file suffix (`_T1w.nii`, `_T1w.nii.gz`) and the entities in the file's name: no database
and no index, so that a thousand subjects take a second. What does not match up (a scan without a row, a row without a
scan, a second run) is listed; nothing stops for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from gen3d.cohort.manifest import scan_key
from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.prepare.columns import ALIASES, MISSING, Columns, label
from gen3d.prepare.joining import join_people
from gen3d.prepare.sidecar import sidecar_of
from gen3d.prepare.standard import standardise, told

ORIGIN = "_origin"
TABLE_SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class ScanSource:
    """Rows of one or several sources, and what did not match up.

    `frame` has the columns of the cohort table except role, and `source`; `unmatched` holds (entry, remark), `notes` sentences on
    how the tables were read, and `origin` the name of every row's source.
    """

    frame: pd.DataFrame
    unmatched: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    origin: list[str] = field(default_factory=list)

    def unmatched_counts(self) -> str:
        """How many entries of each kind match nothing: `2 scan without a row in participants.tsv`."""
        kinds = Counter(re.sub(r"session \S+ ", "", remark.split(":")[0]) for _, remark in self.unmatched)
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def read_sources(paths: Sequence[Path], columns: Columns | None = None, shared_ids: bool = False) -> ScanSource:
    """Read every source and join the rows.

    Args:
        paths: BIDS or CAPS folders, or tables.
        columns: names and codings that differ from the usual ones.
        shared_ids: the same id in two sources is the same person (otherwise the site is put in front of ids that collide).

    Raises:
        UserError: a missing folder, no scan at all, unknown codes (listed), ages in another unit, duplicates.
    """
    columns = columns or Columns()
    sources = [_read_one(path, columns) for path in paths]
    for name, source in zip(_names(paths), sources, strict=True):
        source.frame[ORIGIN] = name
    frames = [source.frame for source in sources]
    if len(frames) > 1 and not shared_ids and _collide(frames):
        frames = [_qualify(frame, frame["site"]) for frame in frames]
    frame = pd.concat(frames, ignore_index=True)
    frame["key"] = [scan_key(*pair) for pair in zip(frame["subject"], frame["session"], strict=True)]
    _refuse_duplicates(frame)
    origin = [str(name) for name in frame.pop(ORIGIN)]
    unmatched = [item for source in sources for item in source.unmatched]
    return ScanSource(frame, unmatched, [note for source in sources for note in source.notes], origin)


def _names(paths: Sequence[Path]) -> list[str]:
    """What each source is called: the name of its folder or table, or its path where two have one name."""
    names = [path.name if path.is_dir() else path.stem for path in paths]
    return [str(path) if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]


def _read_one(path: Path, columns: Columns) -> ScanSource:
    if path.is_dir():
        source = _read_folder(path, columns)
    elif path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        source = _read_scan_table(path, columns)
    elif path.is_file():
        raise UserError(f"{path}: a source is a BIDS or CAPS folder or a table ({', '.join(TABLE_SUFFIXES)}).")
    else:
        raise UserError(f"{path}: no such folder or table; check source=.")
    frame = source.frame
    frame["site"] = frame["site"].where(frame["site"] != "", label(path.name if path.is_dir() else path.parent.name))
    pairs = frame.groupby(["subject", "session"])["site"].nunique()
    if (pairs > 1).any():  # the ids are unique within a site only
        frame = _qualify(frame, frame["site"])
    return ScanSource(frame, source.unmatched, source.notes)


# ---------------------------------------------------------------------------------------------- folders of scans


def _read_folder(folder: Path, columns: Columns) -> ScanSource:
    scans, unmatched = _find_scans(folder, columns.space)
    if not scans:
        raise UserError(
            f"{folder}: no *_T1w.nii or *_T1w.nii.gz in it; give a BIDS or CAPS folder, or a table of paths."
        )
    people = join_people(folder, pd.DataFrame(scans, columns=["subject", "session", "source"]), columns)
    return ScanSource(_complete(people.frame), [*unmatched, *people.unmatched], people.notes)


@dataclass(frozen=True)
class _Image:
    """One T1w file and the entities (`sub`, `ses`, `space`, ...) in its name."""

    path: Path
    entities: dict[str, str]

    @property
    def space(self) -> str | None:
        return self.entities.get("space")


_ByScan = dict[tuple[str, str], list[_Image]]
"""(subject, session) -> every T1w file of that visit."""


def _find_scans(folder: Path, space: str | None) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """(subject, session, file) of one image per visit, and (subject, remark) of what is not used."""
    by_scan = _images_by_scan(folder)
    _check_space(folder, [image for images in by_scan.values() for image in images], space)
    chosen, unmatched = [], []
    for (subject, session), images in sorted(by_scan.items()):
        candidates = _in_space(images, space)
        if not candidates:
            unmatched.append((subject, f"no scan in space-{space} at session {session}"))
            continue
        # The fewest entities: the plain scan goes before a second run, another acquisition or a reconstruction.
        first, *others = sorted(candidates, key=lambda image: (len(image.entities), image.path.name))
        chosen.append((subject, session, str(first.path)))
        unmatched += [(subject, f"further image not used: {other.path.name}") for other in others]
    return chosen, unmatched


def _images_by_scan(folder: Path) -> _ByScan:
    by_scan: _ByScan = {}
    for path in sorted([*folder.rglob("*_T1w.nii.gz"), *folder.rglob("*_T1w.nii")]):
        entities = dict(re.findall(r"(?:^|_)([a-zA-Z0-9]+)-([a-zA-Z0-9+]+)", path.name.split(".")[0]))
        if "sub" in entities:
            by_scan.setdefault((entities["sub"], entities.get("ses", "1")), []).append(_Image(path, entities))
    return by_scan


def _check_space(folder: Path, images: list[_Image], space: str | None) -> None:
    """Refuse a space that no image is in, and a folder of several spaces from which none was chosen."""
    spaces = sorted({image.space for image in images if image.space is not None})
    if space is not None and space not in spaces:
        raise UserError(f"{folder}: no scan in space-{space}; the spaces there are {', '.join(spaces) or 'none'}.")
    if space is None and len(spaces) > 1 and all(image.space is not None for image in images):
        raise UserError(f"{folder}: scans in several spaces ({', '.join(spaces)}); choose one with columns.space=.")


def _in_space(images: list[_Image], space: str | None) -> list[_Image]:
    """The images in the space; without one the native images, or all where there is none."""
    return [image for image in images if image.space == space] or ([] if space else images)


# ------------------------------------------------------------------------------------------------------- tables


def _read_scan_table(path: Path, columns: Columns) -> ScanSource:
    table, sidecar = read_user_table(path), sidecar_of(path)
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
    return ScanSource(_complete(frame), unmatched, notes)


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


def _collide(frames: list[pd.DataFrame]) -> bool:
    seen: set[str] = set()
    for frame in frames:
        subjects = set(frame["subject"])
        if seen & subjects:
            return True
        seen |= subjects
    return False


def _qualify(frame: pd.DataFrame, site: pd.Series) -> pd.DataFrame:
    return frame.assign(subject=[f"{label(s)}{subject}" for s, subject in zip(site, frame["subject"], strict=True)])


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
        raise UserError(f"{subject} is M in one row and F in another; correct the rows, or give two people two ids.")
