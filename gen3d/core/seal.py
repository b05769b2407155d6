"""What a finished folder holds, bound to its record: the size, time and hash of every file.

A folder is sealed when its verb finishes, and checked whenever it is opened: that every file is there with its size; settings,
tables, arrays and weights by their hash; volumes and pictures by their time, and by their hash where the time is another (a
copy) or the rest has left room. Files that were added are not gen3d's and are not read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from gen3d.core.errors import UserError
from gen3d.core.files import open_regular, shown
from gen3d.core.progress import warn

RECORD = "artefact.json"
BY_TIME = (".nii", ".nii.gz", ".png", ".svg", ".html")
"""Many or large files: compared by hash only where their time differs."""
MOST_HASHED = 4 << 30
"""Bytes of other files that are compared by hash at each opening, the small ones first; beyond, as `BY_TIME`."""
WORTH_SAYING = 4 << 30
THREADS = 4


class Kept(NamedTuple):
    """A file when its folder was sealed: bytes, time of change in ns, and the 16-digit SHA-256 of its content."""

    size: int
    time_ns: int
    digest: str

    @classmethod
    def of(cls, text: str) -> Kept:
        """From `str()`.

        Raises:
            ValueError: other text.
        """
        size, time_ns, digest = text.split()
        return cls(int(size), int(time_ns), digest)

    def __str__(self) -> str:
        return f"{self.size} {self.time_ns} {self.digest}"


_compared: dict[str, tuple[tuple[int, ...], str]] = {}
"""Files that this process has hashed: path -> status and digest, so that a folder that is opened twice is read once."""


def seal(folder: Path) -> dict[str, str]:
    """The files of a folder as its record keeps them: path below the folder -> `Kept` as text.

    Left out are the record, hidden files (locks, working files), links, and folders that have a record of their own.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(pool.map(lambda name: (name, str(_keep(folder / name))), sorted(_files(folder))))


def check(folder: Path, files: Mapping[str, str], verb: str) -> None:
    """Compare a folder with its seal.

    Raises:
        UserError: naming the first file that is missing, was changed, or is no regular file.
    """
    kept = _readable(folder, files)
    suspects: list[str] = []
    hashed = 0
    for name in sorted(kept, key=lambda name: kept[name].size):
        then, path = kept[name], folder / name
        try:
            now = path.stat()
        except (OSError, ValueError):
            raise UserError(f"{shown(path)}: is missing, though `gen3d {verb}` wrote it; {_remedy(verb)}.") from None
        if not stat.S_ISREG(now.st_mode) or now.st_size != then.size:
            raise changed(path, verb)
        if not name.endswith(BY_TIME) and hashed + then.size <= MOST_HASHED:
            hashed += then.size
            suspects.append(name)
        elif now.st_mtime_ns != then.time_ns:
            suspects.append(name)
    _say_what_takes_long(folder, [kept[name].size for name in suspects if name.endswith(BY_TIME)])
    with ThreadPoolExecutor(THREADS) as pool:
        for name, digest in zip(suspects, pool.map(lambda name: _digest(folder / name), suspects), strict=True):
            if digest != kept[name].digest:
                raise changed(folder / name, verb)


def changed(path: Path, verb: str) -> UserError:
    """The sentence about a file that is not what it was."""
    return UserError(
        f"{shown(path)}: was changed after `gen3d {verb}` finished, so its result is not to be relied on; {_remedy(verb)}."
    )


def links_in(folder: Path) -> Iterator[Path]:
    """Links that lead out of a folder, and special files in it: what a verb that writes there would follow.

    Folders within that have a record of their own are not looked into; nor do links matter that stay in the folder.
    """
    home = os.path.realpath(folder)
    for entry in _entries(folder, hidden=True):
        if entry.is_symlink():
            if os.path.commonpath([home, os.path.realpath(entry.path)]) != home:
                yield Path(entry.path)
        elif not (entry.is_file() or entry.is_dir()):
            yield Path(entry.path)


def _remedy(verb: str) -> str:
    return f"copy the folder again from where it is whole, or delete it and run `gen3d {verb}` again"


def _files(folder: Path) -> Iterator[str]:
    for entry in _entries(folder):
        if entry.is_file(follow_symlinks=False) and not entry.name.startswith(".") and entry.name != RECORD:
            yield os.path.relpath(entry.path, folder)


def _entries(folder: Path, hidden: bool = False) -> Iterator[os.DirEntry[str]]:
    """Everything below a folder, but not in folders with a record of their own, nor in hidden ones unless asked for."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            inside = entry.is_dir(follow_symlinks=False) and (hidden or not entry.name.startswith("."))
            if inside and not os.path.lexists(os.path.join(entry.path, RECORD)):
                yield from _entries(Path(entry.path), hidden)


def _readable(folder: Path, files: Mapping[str, str]) -> dict[str, Kept]:
    """The seal of a record; a name that leads out of the folder is none."""
    try:
        kept = {name: Kept.of(text) for name, text in files.items()}
    except (ValueError, AttributeError):
        raise UserError(f"{folder / RECORD}: damaged (its list of files); copy the folder again.") from None
    for name in kept:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise UserError(f"{folder / RECORD}: damaged (it lists {name!r}); copy the folder again.")
    return kept


def _keep(path: Path) -> Kept:
    status = path.stat()
    return Kept(status.st_size, status.st_mtime_ns, _digest(path))


def _digest(path: Path) -> str:
    place, status = os.path.abspath(path), path.stat()
    # The time of the last change of the status cannot be set back, as that of the content can.
    mark = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known, digest = _compared.get(place, ((), ""))
    if known != mark:
        with open_regular(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        _compared[place] = (mark, digest)
    return digest


def _say_what_takes_long(folder: Path, sizes: list[int]) -> None:
    if sum(sizes) > WORTH_SAYING:
        warn(
            f"{folder}: {len(sizes)} files ({sum(sizes) / 1e9:.0f} GB) have another time than when they were written, so they "
            "are read whole and compared; copy folders with their times (cp -a, rsync -t) to spare that."
        )
