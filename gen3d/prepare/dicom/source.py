"""A source of DICOM files (folder, export of a PACS, zip) as the BIDS folder that it is converted to, once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gen3d.core import words
from gen3d.core.artefact import digest
from gen3d.core.config import json_ready
from gen3d.core.disk import PARTIAL, writing
from gen3d.core.errors import UserError
from gen3d.core.files import shown
from gen3d.core.plain_files import load_object
from gen3d.core.progress import say
from gen3d.prepare.columns import Columns
from gen3d.prepare.dataset_files import SCAN_NAME
from gen3d.prepare.dicom.archive import is_zip, unpack
from gen3d.prepare.dicom.cohort import write_cohort_folder
from gen3d.prepare.dicom.converting import dcm2niix_program
from gen3d.prepare.dicom.dataset import NOT_USED, RECORD, VERDICTS_OF_SERIES
from gen3d.prepare.dicom.headers import files_below, is_dicom, read_headers, require_pydicom
from gen3d.prepare.dicom.id_map import check_place
from gen3d.prepare.dicom.people import Person, people_of
from gen3d.prepare.dicom.series import gathered
from gen3d.prepare.dicom.settings import DicomSettings

SPREADSHEETS = (".xlsx", ".xlsm", ".ods")
"""Zips that are tables."""
Paths = tuple[Path, ...] | dict[str, Path]


def is_dicom_source(path: Path) -> bool:
    """Whether a source is DICOM: a zip, or a folder with DICOM files and no T1w image of BIDS."""
    if not path.is_dir():
        return path.suffix.lower() not in SPREADSHEETS and is_zip(path)
    if any(path.glob("sub-*/**/*_T1w.nii*")):  # where it usually is, before anything else is opened
        return False
    found = False
    for file in files_below(path):
        if SCAN_NAME.fullmatch(file.name):
            return False
        found = found or is_dicom(file)
    return found


@contextmanager
def as_bids(sources: Paths, settings: DicomSettings, columns: Columns, out: Path, keep: bool) -> Iterator[Paths]:
    """The sources with a BIDS folder in place of each of DICOM.

    Args:
        sources: of `gen3d prepare`.
        settings: where it is converted to.
        columns: the user's names of columns in `settings.people`.
        out: the folder that will be prepared.
        keep: the conversion stays in its place; otherwise it is gone when the context is left, as after a dry run.

    Raises:
        UserError: no T1w scan, two people where one was expected, a damaged archive, a missing program or package.
    """
    named = list(sources.items()) if isinstance(sources, dict) else [("", path) for path in sources]
    which = [number for number, (_, path) in enumerate(named) if is_dicom_source(path)]
    if not which:
        yield sources
        return
    if settings.subject is not None and len(which) > 1:
        raise UserError(
            f"dicom.subject={settings.subject} is the id of one person, and {len(which)} sources are of DICOM files; prepare them "
            "apart, or leave it out."
        )
    place = settings.place(out)
    check_place(settings.id_map, (out, place))
    with contextlib.ExitStack() as stack:
        root = place if keep else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gen3d-")))
        for number in which:
            name, path = named[number]
            target = root if len(named) == 1 and keep else root / (name or str(number + 1))
            _convert_once(path, target, settings, columns, keep)
            named[number] = (name, target)
        yield dict(named) if isinstance(sources, dict) else tuple(path for _, path in named)


def unused_series(folders: Sequence[Path]) -> list[tuple[str, str, Path]]:
    """(entry, remark, folder) of every series that was not used, of the folders that are conversions."""
    found = []
    for folder in folders:
        if not (folder / RECORD).is_file() or not (folder / VERDICTS_OF_SERIES.file).is_file():
            continue
        table = VERDICTS_OF_SERIES.read(folder)
        for _, row in table[table["verdict"] == NOT_USED].iterrows():
            remark = f"series not used: {row['reason']}"
            found.append((f"{row['subject']} session {row['session']} series {row['series']}", remark, folder))
    return found


def _convert_once(path: Path, target: Path, settings: DicomSettings, columns: Columns, keep: bool) -> None:
    """Convert a source, unless its conversion is there."""
    record = _record(path, settings)
    if os.path.lexists(target):
        _require_same(path, target, record)
        return
    require_pydicom()
    dcm2niix_program()
    with writing(target.parent), _scratch(target) as scratch:
        files = unpack(path, _made(scratch / "unpacked")) if path.is_file() else list(files_below(path))
        instances, num_damaged = read_headers(files)
        if not instances:
            damaged = f" ({words.count(num_damaged, 'file')} damaged)" if num_damaged else ""
            raise UserError(f"{shown(path)}: holds no DICOM image{damaged}; check source=.")
        people = people_of(gathered(instances))
        _check_people(path, people, settings)
        finished = _made(scratch / "bids")
        sentences = write_cohort_folder(finished, scratch, shown(path), people, settings, columns, record, keep)
        if num_damaged:
            sentences.append(f"{words.count(num_damaged, 'file')} could not be read as DICOM")
        os.replace(finished, target)
    for sentence in sentences:
        say(f"{shown(path)}: {sentence}")
    if keep:
        say(
            f"{target}: whole heads as BIDS with faces, for its owner alone; {VERDICTS_OF_SERIES.file} has a verdict per series"
        )


def _check_people(path: Path, people: Sequence[Person], settings: DicomSettings) -> None:
    """Refuse several people in a zip of one or under one id, and a path that would carry a name into every record.

    Raises:
        UserError: either.
    """
    if len(people) > 1 and path.is_file() and not settings.several_people:
        raise UserError(
            f"{shown(path)}: holds series of {len(people)} people (patient ids), and a zip is taken for one person's scan; send "
            "them apart, or say dicom.several_people=true if it is an export of a cohort."
        )
    if len(people) > 1 and settings.subject is not None:
        raise UserError(
            f"{shown(path)}: holds series of {len(people)} people (patient ids), and dicom.subject={settings.subject} is the id of "
            "one; leave it out, or send them apart."
        )
    parts = {part.lower() for part in re.split(r"[\W_]+", str(path.absolute()))}
    for person in people:
        names = {word for word in re.split(r"[\W_]+", person.first.text("PatientName").lower()) if len(word) > 2}
        if names and names <= parts:
            raise UserError(
                f"{shown(path)}: this path holds the person's name, and the record of every folder made from it would too; rename "
                "it."
            )


def _record(path: Path, settings: DicomSettings) -> dict[str, Any]:
    """What a conversion depends on, as hashes: nothing of a path or name can be read from it."""
    files = [path] if path.is_file() else list(files_below(path))
    status = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    kept = {
        name: json_ready(getattr(settings, name)) for name in ("subject", "people", "dates", "several_people", "id_map")
    }
    people = (
        digest(settings.people.read_text(errors="replace")) if settings.people and settings.people.is_file() else ""
    )
    return {"source": digest(status), "settings": digest({**kept, "people": people})}


def _require_same(path: Path, target: Path, record: Mapping[str, Any]) -> None:
    try:
        before = load_object(target / RECORD)
    except (OSError, ValueError):
        raise UserError(f"{target}: is no conversion of DICOM files; give dicom.bids= another folder.") from None
    what = {"source": "of other files, or these were changed", "settings": "with other settings of dicom."}
    wrong = [text for name, text in what.items() if before.get(name) != record[name]]
    if wrong:
        raise UserError(
            f"{target}: holds a conversion {wrong[0]} than {shown(path)} now; remove it to convert again (new ids, unless "
            "dicom.id_map has them), or give dicom.bids= another folder."
        )


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder for its owner alone beside the target, gone in the end; what a killed conversion left there goes too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{PARTIAL}{target.name}-"
    for left in target.parent.glob(f"{prefix}*"):
        with _locked(left) as mine:
            if mine:
                shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with _locked(scratch):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder; yields whether no living process held it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)
