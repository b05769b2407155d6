"""Only regular files are opened: a pipe, device or socket would be waited for, or read, without end."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from gen3d.core.errors import UserError

KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class UnusableFile(UserError, OSError):
    """A path at which there is no regular file; an `OSError` too, so that who copes with a missing file copes with a pipe."""


def require_regular(path: Path) -> os.stat_result:
    """The status of a regular file (links are followed); nothing is opened.

    Raises:
        UnusableFile: no such file, a folder, pipe, socket or device, or a name that no file can have. The name is shown with
            its control characters escaped.
    """
    try:
        status = os.stat(path)
    except ValueError:  # a NUL byte
        raise UnusableFile(f"{shown(path)}: holds a NUL byte, which no file name can; mend the path.") from None
    except FileNotFoundError:
        raise UnusableFile(f"{shown(path)}: no such file.") from None
    except OSError as error:  # a name that is too long, a circle of links, a folder that may not be entered
        raise UnusableFile(f"{shown(path)}: cannot be opened ({error.strerror}); mend the path.") from None
    _refuse_special(path, status)
    return status


def is_regular(path: Path) -> bool:
    """Whether there is a regular file; also for a name that no file can have."""
    try:
        require_regular(path)
    except UnusableFile:
        return False
    return True


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading bytes; what is exchanged for a pipe meanwhile is noticed, not waited for.

    Raises:
        UnusableFile: see `require_regular`.
        OSError: it may not be read.
    """
    require_regular(path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse_special(path, os.fstat(handle))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def shown(path: Path) -> str:
    """A path as one short line of a sentence."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(path))
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"


def _refuse_special(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        raise UnusableFile(f"{shown(path)}: is a {kind}, not a file; only regular files are read.")
