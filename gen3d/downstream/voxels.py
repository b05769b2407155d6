"""Voxels of the same scans, for the baseline that every network has to beat: a linear machine on voxels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.core.progress import track
from gen3d.downstream.baselines import gram_factor

CHANNELS = ("t1w", "log_jacobian")
NAMES = {"t1w": "T1w", "log_jacobian": "local volume"}

VOXELS_AT_ONCE = 50_000
"""Of everybody, in memory together: 200 MB per thousand scans."""


@dataclass(frozen=True)
class Voxels:
    """The voxels of the brain in one channel, as an isometric image [n, at most n]: inner products are those of the voxels."""

    channel: str
    values: NDArray[np.float64]
    num_voxels: int

    @property
    def name(self) -> str:
        """As tables call the baseline."""
        return f"voxels ({NAMES.get(self.channel, self.channel)})"


def read_voxels(prepared: Prepared, keys: Sequence[str]) -> tuple[Voxels, ...]:
    """The voxels of these scans, one entry per channel that was prepared."""
    inside = np.flatnonzero(prepared.mask)
    found = []
    for channel in (name for name in CHANNELS if name in prepared.plan.channels):
        factor = gram_factor(_blocks(prepared, keys, channel, inside), len(keys))
        found.append(Voxels(channel, factor, len(inside)))
    return tuple(found)


def _blocks(
    prepared: Prepared, keys: Sequence[str], channel: str, inside: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """[n, some voxels] at a time, so that a thousand scans need not fit into memory at once."""
    starts = range(0, len(inside), VOXELS_AT_ONCE)
    for start in track(starts, f"reading voxels ({NAMES.get(channel, channel)})"):
        places = inside[start : start + VOXELS_AT_ONCE]
        block = np.empty((len(keys), len(places)), dtype=np.float32)
        for row, key in enumerate(keys):
            block[row] = prepared.volume(key, channel).reshape(-1)[places]
        yield block
