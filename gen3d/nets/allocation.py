"""Keep freed memory on CPUs, instead of returning it to the system and requesting it again in every layer."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER, TOP_PAD_BYTES = -1, 2**28


def keep_freed_memory() -> bool:
    """Set the C library (glibc) to keep what this process frees; false where there is no such library.

    Feature maps of tens of megabytes are above the size from which glibc maps every block afresh, so that each layer of
    each step waits for zeroed pages: a quarter to a third of a training step of a 3D network on a CPU. From here on the
    process keeps its largest size until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(*setting) == 1 for setting in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD_BYTES))
    )
