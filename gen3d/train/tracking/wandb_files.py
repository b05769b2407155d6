"""The files of Weights & Biases, read without its library: each is a log of LevelDB behind a header of 7 bytes.

A log is a row of blocks of 32 KiB. An entry lies in one part or in several, each behind a checksum (4 bytes), a length (2) and a
kind (1): the whole of an entry, its first part, one between, or the last. No part crosses the end of a block.
Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from gen3d.core.plain_files import read_bytes

FILE_HEADER, PART_HEADER, BLOCK = 7, 7, 32768
WHOLE, LAST = 1, 4


def files_of(home: Path, run: str) -> list[Path]:
    """The files of a run below `wandb` in a folder: one per start of its training, offline or not, the oldest first."""
    return sorted((home / "wandb").glob(f"*run-*-{run}/run-{run}.wandb"), key=lambda path: path.stat().st_mtime)


def entries_of(path: Path) -> Iterator[bytes]:
    """The whole entries of a file; what a killed process left of the last one is passed over."""
    data, place, entry = read_bytes(path), FILE_HEADER, b""
    while place + PART_HEADER <= len(data):
        if BLOCK - place % BLOCK < PART_HEADER:  # what is left of a block is too short for a header
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        place += PART_HEADER + length
        if place > len(data):
            return
        entry += data[place - length : place]
        if kind in (WHOLE, LAST):
            yield entry
            entry = b""
