"""From the voxels of a mask to a volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unmask(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Values [V] of the voxels of a mask as a volume [X, Y, Z], 0 outside."""
    volume = np.zeros(mask.shape, dtype=np.float32)
    volume[mask] = values
    return volume
