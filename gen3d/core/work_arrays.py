"""Float arrays on disk while a verb works, so that an interrupted one goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PREFIX = ".values-"


class WorkingArrays:
    """Float arrays with one row per scan, on disk while a verb works, and which rows are done: what makes it resume."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        self._folder, self._num_rows = folder, num_rows
        self._done = self.open("done", (1,))

    def open(self, name: str, row_shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The memory-mapped array `name` [rows, ...]: the one that is there, or a new one of zeros."""
        path, shape = self._folder / f"{PREFIX}{name}.npy", (self._num_rows, *row_shape)
        if path.is_file():
            existing: NDArray[np.float32] = np.load(path, mmap_mode="r+")
            if existing.shape == shape:
                return existing
        created: NDArray[np.float32] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        return created

    def missing(self) -> list[int]:
        """Rows not done yet."""
        return [int(row) for row in np.flatnonzero(self._done[:, 0] == 0)]

    def mark(self, row: int) -> None:
        """Remember that a row is complete in every array."""
        self._done[row] = 1

    def discard(self) -> None:
        """Remove the files."""
        for path in self._folder.glob(f"{PREFIX}*.npy"):
            path.unlink()
