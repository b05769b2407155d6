"""How fast this machine is at the moment, so that the times that are announced are those of the machine at hand."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

REFERENCE_S = 0.116
"""Of `_work` on the core on which the times per scan were measured."""
REPEATS = 2
SIDE = 96


def slowness() -> float:
    """Time that work on volumes takes here and now, over the time where the announced times were measured; takes 0.3 s there."""
    data = np.random.default_rng(0).standard_normal((SIDE,) * 3).astype(np.float32)
    return min(_timed(data) for _ in range(REPEATS)) / REFERENCE_S


def _timed(data: NDArray[np.float32]) -> float:
    start = time.perf_counter()
    for _ in range(4):
        ndimage.gaussian_filter(data, 3.0)
    ndimage.map_coordinates(data, np.indices(data.shape, dtype=np.float32) * 0.98, order=1)
    return time.perf_counter() - start
