"""A zip unpacked as if its maker were hostile: its names lead nowhere, and it cannot fill the disk."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.core.files import is_regular, shown
from gen3d.core.plain_files import GIB, LIMIT_VARIABLE, most_bytes
from gen3d.imaging.streams import GZIP, ZIP

MOST_FILES = 200_000
MOST_GIB = 32.0
"""Of all files together; one file has the limit of every unpacked file, `most_bytes`."""
MOST_RATIO = 200.0
"""Unpacked over packed bytes, of the whole archive: noise of MRI packs to a third, empty slices to a hundredth."""
SMALL_BYTES = 1 << 20
"""Below which no ratio is asked of a file."""
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".iso")
ARCHIVE_MARKS = (ZIP, GZIP, b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
CHUNK = 1 << 20


def is_zip(path: Path) -> bool:
    """Whether a file is a zip by what it holds."""
    return is_regular(path) and zipfile.is_zipfile(path)


def unpack(path: Path, into: Path) -> list[Path]:
    """Unpack every file of a zip under a number of its own, whatever it is called in there; returns the files in their order.

    Raises:
        UserError: a damaged or encrypted archive, a name that leads out of it, a link, an archive within it, or more than
            the limits.
    """
    written: list[Path] = []
    with _opened(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > MOST_FILES:
            raise UserError(f"{shown(path)}: holds {len(members)} files, and {MOST_FILES} are allowed; divide it.")
        for member in members:
            _check_name(path, member)
        packed = max(1, sum(member.compress_size for member in members))
        _check_sizes(path, members, packed)
        left = int(MOST_GIB * GIB)
        for number, member in enumerate(members):
            target = into / f"{number:06d}"
            with writing(into, member.file_size):
                left -= _copied(path, archive, member, target, min(left, most_bytes()))
            written.append(target)
    return written


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zipfile.LargeZipFile) as error:
        raise UserError(
            f"{shown(path)}: not a zip that can be unpacked ({' '.join(str(error).split())[:120]}); send it again, or unpack it "
            "yourself and give the folder."
        ) from None


def _check_name(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or (len(name) > 1 and name[1] == ":") or "\0" in name:
        raise UserError(
            f"{shown(path)}: a name in it leads out of it ({shown(Path(name))}); such an archive is not unpacked."
        )
    mode = member.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise UserError(f"{shown(path)}: holds a link or a device ({shown(Path(name))}); pack the files themselves.")
    if place.suffix.lower() in ARCHIVES:
        raise UserError(f"{shown(path)}: holds another archive ({shown(Path(name))}); unpack that, and pack its files.")
    if member.flag_bits & 1:
        raise UserError(f"{shown(path)}: is encrypted; unpack it with its password and give the folder.")


def _check_sizes(path: Path, members: list[zipfile.ZipInfo], packed: int) -> None:
    total = sum(member.file_size for member in members)
    if total > MOST_GIB * GIB:
        raise UserError(f"{shown(path)}: unpacks to {total / GIB:.3g} GiB, and {MOST_GIB:g} are allowed; divide it.")
    if total > SMALL_BYTES and total / packed > MOST_RATIO:
        raise UserError(
            f"{shown(path)}: unpacks to {total / packed:.0f} times its size, which scans do not; it is not unpacked."
        )


def _copied(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, limit: int) -> int:
    """Copy one member and return its bytes, as they are and not as its header claims."""
    num_bytes = 0
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as output, archive.open(member) as stream:
        while chunk := stream.read(CHUNK):
            if num_bytes == 0 and chunk.startswith(ARCHIVE_MARKS):
                raise UserError(
                    f"{shown(path)}: holds another archive ({shown(Path(member.filename))}); unpack that, and pack its files."
                )
            num_bytes += len(chunk)
            if num_bytes > limit:
                raise UserError(
                    f"{shown(path)}: {shown(Path(member.filename))} unpacks to more than {limit / GIB:.3g} GiB; set "
                    f"{LIMIT_VARIABLE} if it is sound."
                )
            output.write(chunk)
    return num_bytes
