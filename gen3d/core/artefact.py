"""The record of an output folder: its verb, its settings, its inputs and their hashes, and the seal of its files.

`read` opens a finished folder whose files are as they were when it was finished; `core.output_folder` writes one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3d.core.disk import PARTIAL
from gen3d.core.errors import UserError
from gen3d.core.files import open_regular
from gen3d.core.plain_files import load_object
from gen3d.core.progress import warn
from gen3d.core.seal import RECORD, check

FILES, CHECKSUM, PLACE = "files", "checksum", "folder"
"""Of a record: the seal of the finished folder (null where it may grow), the hash of all else in the record, and
where the folder was when it was begun, from which inputs that moved along with it are found."""


@dataclass(frozen=True)
class Artefact:
    """A finished folder as its record describes it."""

    folder: Path
    verb: str
    key: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    summary: dict[str, Any]
    version: str
    finished_at: str
    waivers: tuple[str, ...] = ()
    """Safeguards that the user waived, as `key=value`."""
    place: Path | None = None
    """Where the folder was when it was written; None where that is not known."""


def read(folder: Path, verbs: tuple[str, ...] | None = None) -> Artefact:
    """Open a finished folder written by one of `verbs` (any verb if None).

    Raises:
        UserError: no such folder, not gen3d's, never finished, or written by another verb.
    """
    wanted = f" of `gen3d {'` or `gen3d '.join(verbs)}`" if verbs else ""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; an output folder{wanted} is needed here.")
    record = record_of(folder)
    if record is None:
        raise UserError(f"{folder}: holds no {RECORD}, so it is not an output folder{wanted}.")
    if verbs and record.get("verb") not in verbs:
        raise UserError(f"{folder}: was written by `gen3d {record.get('verb')}`; an output folder{wanted} is needed.")
    if record.get("status") != "finished":
        raise UserError(
            f"{folder}: `gen3d {record.get('verb')}` never finished there; run the same command again, it goes on."
        )
    check_seal(folder, record)
    return _artefact(folder, record)


def _artefact(folder: Path, record: Mapping[str, Any]) -> Artefact:
    """A record as its readers have it.

    Raises:
        UserError: it lacks something, or something in it is of another kind.
    """
    groups = {name: record.get(name, {}) for name in ("config", "inputs", "summary")}
    waivers = record.get("waivers", ())
    texts = [record.get("verb"), record.get("key"), record.get("gen3d", ""), record.get("finished_at", "")]
    listed = [item for items in groups["inputs"].values() for item in items] if _are_inputs(groups["inputs"]) else None
    if (
        not all(isinstance(group, dict) for group in groups.values())
        or not all(isinstance(text, str) for text in texts)
        or not isinstance(waivers, list | tuple)
        or listed is None
        or not all(isinstance(item.get(name), str) for item in listed for name in ("path", "key"))
    ):
        raise UserError(f"{folder / RECORD}: damaged (not a record of a finished folder); copy the folder again.")
    place = record.get(PLACE)
    return Artefact(
        folder=folder,
        verb=record["verb"],
        key=record["key"],
        version=record.get("gen3d", ""),
        finished_at=record.get("finished_at", ""),
        waivers=tuple(str(waiver) for waiver in waivers),
        place=Path(place) if isinstance(place, str) else None,
        **groups,
    )


def _are_inputs(inputs: Any) -> bool:
    return isinstance(inputs, dict) and all(
        isinstance(items, list) and all(isinstance(item, dict) for item in items) for items in inputs.values()
    )


def check_seal(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse a finished folder whose files are not those that its verb left.

    Raises:
        UserError: naming the file.
    """
    files = record.get(FILES)
    if isinstance(files, dict):
        check(folder, files, str(record.get("verb")))
    elif FILES not in record:
        if folder not in _without_seal:
            warn(f"{folder}: was written before gen3d kept hashes of its files, so changes to them cannot be noticed.")
        _without_seal.append(folder)


_without_seal: list[Path] = []
"""Folders that this process opened of which that was said."""


@contextmanager
def changes_explained() -> Iterator[None]:
    """Within this context, a failure that a changed file can cause is a sentence if a folder without hashes was opened.

    Behind a seal such a failure is a mistake of gen3d, and stays what it is.

    Raises:
        UserError: naming the folders without hashes.
    """
    known = len(_without_seal)
    try:
        yield
    except UserError:
        raise
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        RecursionError,
        AssertionError,
    ) as error:
        opened = dict.fromkeys(map(str, _without_seal[known:]))
        if not opened:
            raise
        folders = ", ".join(opened)
        raise UserError(
            f"{folders}: something in there is not as gen3d writes it ({type(error).__name__}: {error}), and without hashes of "
            "its files nobody can say which; run the verb that wrote it again."
        ) from error


def discard(folder: Path, below: str) -> None:
    """Delete a part of a finished folder that is needed no more, so that the folder is still what its record says.

    Args:
        folder: finished by a verb.
        below: a file or folder in it.
    """
    path, record = folder / below, record_of(folder)
    if record is not None and isinstance(record.get(FILES), dict):
        gone = f"{os.path.normpath(below)}/"
        kept = {name: text for name, text in record[FILES].items() if not f"{name}/".startswith(gone)}
        write_record(folder, record | {FILES: kept})
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a folder's record with a hash of its content, by which a later edit is noticed."""
    plain = json.loads(json.dumps({name: value for name, value in record.items() if name != CHECKSUM}, default=str))
    write_json(folder / RECORD, plain | {CHECKSUM: digest(plain)})


def digest(value: Any) -> str:
    """A 16-digit hash of anything JSON can hold, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """A 16-digit SHA-256 of a regular file's bytes.

    Raises:
        UnusableFile: there is none, see `require_regular`.
        OSError: it cannot be read.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_atomic(path, json.dumps(value, indent=1, default=str) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Write text through a temporary file and a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def record_of(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, finished or not; None where it has none.

    Raises:
        UserError: damaged, or changed after it was written.
    """
    path = folder / RECORD
    if not os.path.lexists(path):
        return None
    try:
        record = load_object(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); delete the folder and run its verb again.") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); delete the folder and run its verb again.") from None
    written = record.pop(CHECKSUM, None)
    if written != digest(record) and (written is not None or FILES in record or PLACE in record):
        raise UserError(
            f"{path}: was changed after gen3d wrote it, so what it says of settings and inputs is not to be relied on; copy "
            "the folder again from where it is whole, or delete it and run its verb again."
        )
    return record
