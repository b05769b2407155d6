"""Local volume against its surroundings: a region's mean log-Jacobian minus that of a shell around it.

A registration that places a whole lobe a little too large says so in every region of the lobe; the difference to the
surroundings takes that out. It is blind to a loss that the surroundings share. Measured on hippocampi in real brains
(`analysis/02_registration_settings.py`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.cohort.folder import Prepared
from gen3d.infer.channels import LOG_JACOBIAN
from gen3d.infer.compare import RegionMeans

CONTRAST = "contrast"
SHELL_MM = 7.5
LEFT, RIGHT = "left ", "right "


class ShellMeans:
    """Means of masked values over what lies within `SHELL_MM` of each region, the same structure of either side left out."""

    def __init__(
        self, labels: NDArray[np.int16], mask: NDArray[np.bool_], table: pd.DataFrame, spacing_mm: float
    ) -> None:
        place = np.full(mask.shape, -1, dtype=np.int64)
        place[mask] = np.arange(int(mask.sum()))
        names = [str(name).removeprefix(LEFT).removeprefix(RIGHT) for name in table["name"]]
        structure = dict(zip(table["label"].astype(int), names, strict=True))
        same = {name: np.isin(labels, [label for label, of in structure.items() if of == name]) for name in set(names)}
        self._voxels = [
            self._shell(labels == label, same[structure[int(label)]], place, spacing_mm) for label in table["label"]
        ]

    @staticmethod
    def _shell(
        region: NDArray[np.bool_], same: NDArray[np.bool_], place: NDArray[np.int64], spacing_mm: float
    ) -> NDArray[np.int64]:
        """Positions among the masked voxels."""
        if not region.any():
            return np.empty(0, dtype=np.int64)
        reach = int(np.ceil(SHELL_MM / spacing_mm)) + 1
        found = ndimage.find_objects(region.astype(np.int8))[0]
        box = tuple(slice(max(0, axis.start - reach), axis.stop + reach) for axis in found)
        near = ndimage.distance_transform_edt(~region[box], spacing_mm) <= SHELL_MM
        return np.asarray(place[box][near & ~same[box] & (place[box] >= 0)])

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[V] -> [R]; 0 for a region without surroundings."""
        return np.array([values[of].mean() if len(of) else 0.0 for of in self._voxels], dtype=np.float32)


def contrast_values(prepared: Prepared, table: pd.DataFrame) -> NDArray[np.float32] | None:
    """Log volume of every region relative to its surroundings, of every scan, [n, R]; None without a log-Jacobian."""
    if LOG_JACOBIAN not in prepared.plan.channels:
        return None
    inside = RegionMeans(prepared.regions, prepared.mask, prepared.region_table)
    around = ShellMeans(prepared.regions, prepared.mask, prepared.region_table, prepared.plan.spacing_mm)
    values = np.empty((len(table), len(prepared.region_table)), dtype=np.float32)
    for i, key in enumerate(table["key"]):
        log_jacobian = prepared.volume(str(key), LOG_JACOBIAN)[prepared.mask]
        values[i] = inside(log_jacobian) - around(log_jacobian)
    return values
