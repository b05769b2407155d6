"""Writing to a disk that may be full, and a process that may be killed: files are whole or not there, errors are sentences."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gen3d.core.errors import UserError

PARTIAL = ".partial-"
"""How the name of every file and folder in the making begins: what a killed process left under it is removed, never read."""

OF_ITS_OWN = ("artefact.json", ".lock")
"""By either of these a folder below another one is known to be the output of another command, perhaps one at work."""

OF_THE_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)
)
"""Errors that say so about the disk or the system, whatever library they went through."""

NUMBERED = re.compile(r"\(os error (\d+)\)")  # safetensors, whose errors are no OSError
CUT_SHORT = re.compile(r"\d+ requested and \d+ written")  # numpy, whose OSError has no number
LONGEST_NAME = 255


def is_partial(path: Path) -> bool:
    """Whether a file or folder is in the making, or was when its process was killed."""
    return path.name.startswith(PARTIAL)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix  # by which some libraries choose a format
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(4)}{ending}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left in the making in an output folder; output folders below it are left alone."""
    for path in list(folder.iterdir()):
        if is_partial(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        elif path.is_dir() and not path.is_symlink() and not any((path / name).exists() for name in OF_ITS_OWN):
            remove_partial(path)


def remove_folder(folder: Path) -> None:
    """Remove a folder at once: a process that is killed meanwhile leaves it whole or as something in the making."""
    if folder.is_dir():
        doomed = folder.with_name(f"{PARTIAL}{secrets.token_hex(4)}")
        os.replace(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ errors


def disk_error(error: BaseException) -> OSError | None:
    """The error of the disk or the system behind an error of a library that wrote or read; None if there is none."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, OSError) and link.errno in OF_THE_DISK:
            return link
        if CUT_SHORT.search(str(link)):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        numbered = NUMBERED.search(str(link)) if type(link).__name__ == "SafetensorError" else None
        if numbered is not None:
            return OSError(int(numbered[1]), os.strerror(int(numbered[1])))
        link = link.__cause__ or link.__context__
    return error if isinstance(error, OSError) else None


def cannot_be_written(error: OSError, place: Path, needed: int = 0) -> UserError:
    """What to tell the user of an error of the disk.

    Args:
        error: what the system said.
        place: the file or folder that was being written, for an error that names none.
        needed: bytes that have to fit, where that is known.
    """
    where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else place
    where = where.parent if is_partial(where) else where
    return UserError(f"{where}: {_reason(error, where, needed)} What was finished is kept; the same command goes on.")


@contextmanager
def writing(place: Path, needed: int = 0) -> Iterator[None]:
    """Within this context an error of the disk is a sentence about `place`; `needed` are bytes that have to fit.

    Raises:
        UserError: instead of the disk's error.
    """
    try:
        yield
    except Exception as error:
        cause = disk_error(error)
        if cause is None:
            raise
        raise cannot_be_written(cause, place, needed) from error


def size_in_words(num_bytes: int) -> str:
    """Bytes as a person says them: 512 kB, 1.5 GB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} bytes"


def _reason(error: OSError, where: Path, needed: int) -> str:
    code = error.errno or 0
    if code == errno.ENOSPC:
        need = f"{size_in_words(needed)} are needed, {_free(where)}" if needed else _free(where)
        return f"the disk is full ({need}); free some space there."
    if code == errno.EMFILE:
        return f"this process has too many files open ({_most_files()}); raise the limit with `ulimit -n 4096`."
    if code == errno.ENAMETOOLONG:
        return f"the name is too long (a file system takes {LONGEST_NAME} bytes); give a shorter id or out=."
    sentences = {
        errno.EDQUOT: "the disk quota is used up; free some space there.",
        errno.EACCES: "permission denied; choose another folder or mend its permissions.",
        errno.EPERM: "permission denied; choose another folder or mend its permissions.",
        errno.EROFS: "the file system is read-only; choose another out=.",
        errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows; raise the limit or choose another out=.",
        errno.EIO: "the disk reports a fault; look after it, or choose another out=.",
        errno.ENFILE: "this machine has too many files open; end other programs.",
        errno.ESTALE: "the network file system lost the file; wait until it is back.",
    }
    return sentences.get(code, f"{error.strerror or error}.")


def _free(where: Path) -> str:
    folder = next((each for each in (where, *where.parents) if each.is_dir()), Path())
    try:
        return f"{size_in_words(shutil.disk_usage(folder).free)} are free"
    except OSError:
        return "nothing is free"


def _most_files() -> str:
    import resource  # not on every system

    return f"at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"
