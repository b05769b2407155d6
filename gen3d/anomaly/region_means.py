"""Means over the regions of a label map."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class RegionMeans:
    """Means of masked values over the regions of a label map; 0 where a region has no voxel."""

    def __init__(self, labels: NDArray[np.int16], mask: NDArray[np.bool_], table: pd.DataFrame) -> None:
        position = {int(label): i for i, label in enumerate(table["label"])}
        inside = labels[mask]
        self._index = np.array([position.get(int(label), -1) for label in inside])
        self._valid = self._index >= 0
        self._counts = np.bincount(self._index[self._valid], minlength=len(table)).astype(np.float64)

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[V] -> [R]; 0 for a region without voxels on this grid."""
        sums = np.bincount(self._index[self._valid], weights=values[self._valid], minlength=len(self._counts))
        return np.asarray(sums / np.maximum(self._counts, 1), dtype=np.float32)
