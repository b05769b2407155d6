"""The T1w files that belong to a BIDS or CAPS folder itself, and the folders below it that do not, with the reason.

A dataset is its `sub-*` folders. Not read are hidden folders, `derivatives`, `sourcedata`, `code` and what file systems put
aside, what `.bidsignore` names, datasets within the dataset, and any other folder with copies of subjects. A folder that is
given itself is read whatever it is called. Links are followed, each folder once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gen3d.core.errors import UserError

SCAN_NAME = re.compile(r"(.+)_T1w\.nii(\.gz)?", re.IGNORECASE)
DESCRIPTION, IGNORED = "dataset_description.json", ".bidsignore"
NOT_RAW = ("derivatives", "sourcedata", "code", "stimuli", "lost+found", "trash", "@eadir", "__macosx", "$recycle.bin")
PUT_ASIDE = ("lost+found", "trash", "@eadir", "__macosx", "$recycle.bin", "code", "stimuli")
"""Folders that hold no dataset, so that nobody needs to be told that they were not read."""

MOST_NAMED = 4


@dataclass
class DatasetFiles:
    """T1w files by their path below the folder, and (path below the folder, remark) of what was not read."""

    folder: Path
    scans: list[PurePosixPath] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def dataset_files(folder: Path) -> DatasetFiles:
    """Find the T1w files of a dataset.

    Raises:
        UserError: none there but in folders that are not raw; several datasets; a person in two folders of one source.
    """
    found = _walked(folder)
    by_home: dict[PurePosixPath, list[PurePosixPath]] = {}
    for scan in found.scans:
        by_home.setdefault(_home(scan, folder.resolve().name), []).append(scan)
    own = PurePosixPath()
    if own in by_home:
        others = sorted(str(home) for home in by_home if home != own)
        found.left_out += [(home, "not read: holds T1w images outside the dataset's sub- folders") for home in others]
        found.scans = by_home[own]
    elif len(by_home) > 1:
        _refuse_several(folder, by_home)
    if not found.scans:
        raise UserError(_nothing(found))
    return found


def _nothing(found: DatasetFiles) -> str:
    """The sentence about a folder without scans."""
    where = [path for path, _ in found.left_out if _holds_scans(found.folder / path)]
    if where:
        shown = ", ".join(str(found.folder / path) for path in where[:MOST_NAMED])
        only = f"{found.folder}: its only *_T1w.nii or *_T1w.nii.gz are in {shown}"
        return f"{only}; give that folder itself if they are the scans you mean."
    return f"{found.folder}: no *_T1w.nii or *_T1w.nii.gz in it; give a BIDS or CAPS folder, or a table of paths."


def _holds_scans(path: Path) -> bool:
    return any(SCAN_NAME.fullmatch(name) for _, _, names in os.walk(path) for name in names)


def _refuse_several(folder: Path, by_home: dict[PurePosixPath, list[PurePosixPath]]) -> None:
    """Several trees of subjects are one source only if none is a dataset of its own and nobody is in two of them."""
    homes = sorted(by_home)
    declared = [home for home in homes if (folder / home / DESCRIPTION).is_file()]
    if len(declared) > 1:
        shown = ", ".join(f"{home.name}: {folder / home}" for home in declared[:MOST_NAMED])
        raise UserError(
            f"{folder}: holds {len(declared)} datasets ({', '.join(map(str, declared[:MOST_NAMED]))}); give the one "
            f"you mean, or all of them by name, for instance source='{{{shown}}}'."
        )
    where: dict[str, PurePosixPath] = {}
    for home in homes:
        for subject in sorted({subject_folder(scan.parts) or scan.name.split("_")[0] for scan in by_home[home]}):
            first = where.setdefault(subject, home)
            if first != home:
                raise UserError(
                    f"{folder}: {subject} is in {first} and in {home}, which are copies or other people; give one "
                    f"of these folders, or both by name, source='{{{first.name}: {folder / first}, {home.name}: {folder / home}}}'."
                )


def subject_folder(parts: tuple[str, ...]) -> str | None:
    """The first part of a path that is a subject's folder, `sub-X`."""
    return next((part for part in parts if part.startswith("sub-") and not SCAN_NAME.fullmatch(part)), None)


def _home(scan: PurePosixPath, root: str) -> PurePosixPath:
    """The folder that holds the subject's folder, or the file where there is none; the root where that is a subject's."""
    subject = subject_folder(scan.parts)
    if subject is None:
        return PurePosixPath() if root.startswith("sub-") else scan.parent
    return PurePosixPath(*scan.parts[: scan.parts.index(subject)])


# ------------------------------------------------------------------------------------------------------- walking


def _walked(root: Path) -> DatasetFiles:
    """Every T1w file, and every folder that was not entered; real folders go before links to them."""
    found, ignored = DatasetFiles(root), _Ignored.read(root / IGNORED)
    declared = (root / DESCRIPTION).is_file() or any(root.glob("sub-*/"))
    visited: set[tuple[int, int]] = set()
    folders, links = [PurePosixPath()], list[PurePosixPath]()
    while folders or links:
        linked = not folders
        place = links.pop(0) if linked else folders.pop()
        try:
            status = (root / place).stat()
            entries = sorted(os.scandir(root / place), key=lambda entry: entry.name)
        except OSError as error:
            found.left_out.append((str(place), f"not read: {error.strerror or error}"))
            continue
        if (status.st_dev, status.st_ino) in visited:
            if linked and subject_folder(place.parts):
                found.left_out.append((str(place), "not read: a link to a folder that is read already"))
            continue
        visited.add((status.st_dev, status.st_ino))
        for entry in _entered(place, entries, ignored, declared, found):
            (links if entry.is_symlink() else folders).append(place / entry.name)
        links.sort()
    found.scans.sort()
    return found


def _entered(
    place: PurePosixPath, entries: list[os.DirEntry[str]], ignored: _Ignored, declared: bool, found: DatasetFiles
) -> Iterator[os.DirEntry[str]]:
    """The folders of a folder that belong to the dataset; its T1w files and the folders left out are noted."""
    for entry in entries:
        path = place / entry.name
        scan, is_folder = bool(SCAN_NAME.fullmatch(entry.name)), _is_folder(entry)
        if entry.name.startswith(".") or not (scan or is_folder):
            continue
        if not _is_utf8(entry.name):
            found.left_out.append((ascii(str(path))[1:-1], "not read: its name is not UTF-8; rename it"))
        elif ignored.matches(path, is_folder):
            found.left_out.append((str(path), f"not read: named in {IGNORED}"))
        elif scan and not is_folder:
            found.scans.append(path)
        elif scan:
            found.left_out.append((str(path), "not read: a folder, not a file"))
        elif entry.name.lower() in NOT_RAW or entry.name.startswith("$"):
            if entry.name.lower() not in PUT_ASIDE:
                found.left_out.append((str(path), "not read: not part of the raw dataset"))
        elif declared and Path(entry.path, DESCRIPTION).is_file():
            found.left_out.append((str(path), "not read: a dataset of its own"))
        else:
            yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Ignored:
    """The patterns of a .bidsignore, which are those of .gitignore; the last one that matches decides."""

    def __init__(self, lines: list[str]) -> None:
        patterns = [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]
        self._patterns = [(line.startswith("!"), line.endswith("/"), _regex(line)) for line in patterns]

    @classmethod
    def read(cls, path: Path) -> _Ignored:
        """From a file; nothing is ignored where there is none."""
        return cls(path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else [])

    def matches(self, path: PurePosixPath, is_folder: bool) -> bool:
        """Whether a file or folder is named."""
        ignored = False
        for negated, folders_only, pattern in self._patterns:
            if (is_folder or not folders_only) and pattern.fullmatch(str(path)):
                ignored = not negated
        return ignored


def _regex(line: str) -> re.Pattern[str]:
    """A pattern of .gitignore: one with a slash inside or in front begins at the dataset, any other at every folder."""
    glob = line.removeprefix("!").removesuffix("/")
    anchored = "/" in glob
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", glob.removeprefix("/"))
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(
        kinds.get(part)
        or (part.replace("[!", "[^") if part.startswith("[") and part.endswith("]") else re.escape(part))
        for part in parts
    )
    return re.compile(text if anchored else f"(?:.*/)?{text}")
