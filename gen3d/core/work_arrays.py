"""Float arrays on disk while a verb works, so that an interrupted one goes on."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gen3d.core.disk import whole_file, writing

PREFIX, DONE = ".values-", "done"
BLOCK_BYTES = 512
"""Unit in which the system counts what a file occupies."""


class WorkingArrays:
    """Float arrays with one row per scan, on disk while a verb works, and which rows are done: what makes it resume.

    A row is done in all arrays or in none: where an array is missing, damaged or of another shape, no row is. The room for
    an array is reserved when it is made, so that a full disk is told then and not when its pages are written.
    """

    def __init__(self, folder: Path, num_rows: int) -> None:
        self._folder, self._num_rows = folder, num_rows
        self._done = self.open(DONE, (1,))

    def open(self, name: str, row_shape: tuple[int, ...], dtype: str = "<f4") -> NDArray[Any]:
        """The memory-mapped array `name` [rows, ...]: the one that is there, or a new one of zeros.

        Raises:
            UserError: the disk has no room for it.
        """
        path, shape = self._folder / f"{PREFIX}{name}.npy", (self._num_rows, *row_shape)
        if (existing := _existing(path, shape, dtype)) is not None:
            return existing
        if name != DONE:
            self._done[:] = 0
            self._done.flush()  # type: ignore[attr-defined]  # a memory map
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        with writing(self._folder, num_bytes), whole_file(path) as partial, partial.open("wb") as stream:
            np.lib.format.write_array_header_1_0(
                stream, {"descr": dtype, "fortran_order": False, "shape": tuple(map(int, shape))}
            )
            start = stream.tell()
            stream.flush()
            _reserve(stream.fileno(), start, num_bytes)
        created = _existing(path, shape, dtype)
        assert created is not None, f"{path} was just written"
        return created

    def missing(self) -> list[int]:
        """Rows not done yet."""
        return [int(row) for row in np.flatnonzero(self._done[:, 0] == 0)]

    def mark(self, row: int) -> None:
        """Remember that a row is complete in every array."""
        self._done[row] = 1

    def discard(self) -> None:
        """Remove the files: first the one that says which rows are done, which without the others would be wrong."""
        (self._folder / f"{PREFIX}{DONE}.npy").unlink(missing_ok=True)
        for path in self._folder.glob(f"{PREFIX}*.npy"):
            path.unlink()


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write a .npy file so that a reader sees all of it or none.

    numpy hands a real file to C, where an error of the disk in the last few kilobytes is lost; so it is given no such file.
    """
    with whole_file(path) as partial, partial.open("wb") as stream:
        np.save(_PlainStream(stream), array)


class _PlainStream:
    """A stream that numpy can only write to through Python."""

    def __init__(self, stream: BinaryIO) -> None:
        self.write = stream.write


def _existing(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any] | None:
    """The array of an earlier, interrupted run; None if it is not there, is damaged or is another one."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)  # "r+" would fill up a file that was cut with zeros
        existing: NDArray[Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
        usable = existing.shape == shape and existing.dtype == np.dtype(dtype)
        if usable:
            with writing(path), path.open("r+b") as stream:  # one with holes ends the process when the disk is full
                _reserve(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
        return existing if usable else None
    except (ValueError, EOFError, FileNotFoundError):
        return None


def _reserve(handle: int, start: int, num_bytes: int) -> None:
    """Let the disk keep room for bytes of a file, zeros where nothing was written.

    Raises:
        OSError: there is no room.
    """
    there = os.fstat(handle)
    if there.st_size >= start + num_bytes and there.st_blocks * BLOCK_BYTES >= there.st_size:
        return
    try:
        os.posix_fallocate(handle, start, num_bytes)
    except (AttributeError, OSError) as error:  # macOS, and file systems that cannot: the zeros are written
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        zeros = bytes(2**20)
        for place in range(max(start, there.st_size), start + num_bytes, len(zeros)):
            os.pwrite(handle, zeros[: start + num_bytes - place], place)
