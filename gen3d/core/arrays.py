"""Arrays from .npy and .npz files: nothing is unpickled, and nothing is allocated that the file does not hold."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.core.files import require_regular
from gen3d.core.plain_files import most_bytes, too_large

MOST_EXPANSION = 50
"""How many times its size a compressed file may unfold; measured numbers shrink to a half or a third, labels to a tenth."""
SMALL = 64 << 20
"""Bytes up to which that is not looked at."""


def read_array(path: Path, mapped: bool = False) -> NDArray[Any]:
    """The array of a .npy file, read from disk as needed where `mapped`.

    Raises:
        OSError: missing or no regular file.
        ValueError: damaged, of objects, or of a shape that the file does not hold; with the reason.
    """
    size = require_regular(path).st_size
    with path.open("rb") as stream:
        needed = _needed(stream)
        if stream.tell() + needed > size:
            raise ValueError(f"its header promises {needed:,} bytes, and it holds {size:,}")
    array: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    return array


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name.

    Raises:
        OSError: missing or no regular file.
        ValueError: damaged, of objects, or larger than what the file can hold; with the reason.
    """
    size = require_regular(path).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(item.file_size for item in archive.infolist())
            if total > max(SMALL, MOST_EXPANSION * size):
                raise ValueError(f"{total:,} bytes when unpacked, in a file of {size:,}")
            if total > max(size, most_bytes()):
                raise too_large(total, most_bytes())
            for item in archive.infolist():
                with archive.open(item) as stream:
                    needed = _needed(stream)
                if needed > item.file_size:
                    raise ValueError(f"{item.filename} promises {needed:,} bytes, and holds {item.file_size:,}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"not a file of arrays: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged stream of a zip archive may raise anything (zlib.error, KeyError, ...)
        raise error if isinstance(error, ValueError) else ValueError(f"damaged: {error}") from None


def require_finite(array: NDArray[Any], what: str) -> NDArray[Any]:
    """The array, if all its numbers are finite.

    Raises:
        ValueError: NaN or infinity in `what`.
    """
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise ValueError(f"{what} holds NaN or infinity")
    return array


def _needed(stream: Any) -> int:
    """Bytes of the array whose header is next in a stream."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version} of the format is not known")
    reader: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError("it holds objects, not numbers")
    return math.prod(shape) * int(dtype.itemsize)
