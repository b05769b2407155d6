"""What a computation that keeps much of many scans in memory needs, said before it begins."""

from __future__ import annotations

import math
import os
from pathlib import Path

from gen3d.core.errors import UserError
from gen3d.core.progress import say

MEMORY_VARIABLE = "GEN3D_MEMORY_GIB"
BYTES_OF_GIB = 1 << 30
SAID_FROM = BYTES_OF_GIB
"""Less is not worth a sentence."""

WITH_SQUARE, WITH_SCANS = "they grow with the square of the number of scans", "they grow with the number of scans"

GROUP = Path("/sys/fs/cgroup")


def allowed_memory() -> int | None:
    """Bytes that one computation may take: GEN3D_MEMORY_GIB, else what is free now; None where the system does not say.

    Raises:
        UserError: GEN3D_MEMORY_GIB is no number above 0.
    """
    given = os.environ.get(MEMORY_VARIABLE, "").strip()
    if given:
        try:
            gib = float(given)
        except ValueError:
            gib = math.nan
        if not 0 < gib < math.inf:
            raise UserError(f"{MEMORY_VARIABLE}={given!r}: not a number of GiB above 0; correct it or unset it.")
        return int(gib * BYTES_OF_GIB)
    found = [size for size in (_free(), _free_in_group()) if size is not None]
    return min(found, default=None)


def announce_memory(what: str, num_bytes: int, remedy: str, growth: str = WITH_SQUARE) -> None:
    """Say what a computation needs where that is much, and refuse it before it begins where it is more than there is.

    Args:
        what: subject of the sentence: `the inner products of 12000 scans`.
        num_bytes: it takes at its peak.
        remedy: what to set or give instead.
        growth: how they grow, WITH_SQUARE or WITH_SCANS.

    Raises:
        UserError: more than `allowed_memory`.
    """
    allowed = allowed_memory()
    needed = f"{what} need {num_bytes / BYTES_OF_GIB:.1f} GiB of memory ({growth})"
    if allowed is not None and num_bytes > allowed:
        raise UserError(
            f"{needed}, and {allowed / BYTES_OF_GIB:.1f} GiB may be used; {remedy}, or set {MEMORY_VARIABLE} on a machine "
            "that has more."
        )
    if num_bytes >= SAID_FROM:
        say(needed)


def _free() -> int | None:
    """Memory that can be had without swapping, from the kernel."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _free_in_group() -> int | None:
    """What a control group leaves; None without a limit."""
    try:
        limit, used = ((GROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used)) if limit.isdigit() else None
    except (OSError, ValueError):
        return None
