"""Local volume against its surroundings: a region's mean log-Jacobian minus that of a shell around it.

A registration that makes a whole lobe a little too large enlarges every region of the lobe; subtracting the surroundings
removes that error. It also removes a loss that the surroundings share. Measured on hippocampi in real brains
(`analysis/02_registration_settings.py`).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.anomaly.region_means import RegionMeans
from gen3d.cohort.channels import LOG_JACOBIAN, SIZE
from gen3d.cohort.folder import Prepared
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.progress import say

SHELL_MM = 7.5
LEFT, RIGHT = "left ", "right "


class ShellMeans:
    """Means of masked values within `SHELL_MM` around each region, without the same structure of either side."""

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
        bounds = ndimage.find_objects(region.astype(np.int8))[0]
        box = tuple(slice(max(0, axis.start - reach), axis.stop + reach) for axis in bounds)
        near = ndimage.distance_transform_edt(~region[box], spacing_mm) <= SHELL_MM
        return np.asarray(place[box][near & ~same[box] & (place[box] >= 0)])

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[V] -> [R]; 0 for a region without surroundings."""
        return np.array([values[of].mean() if len(of) else 0.0 for of in self._voxels], dtype=np.float32)


class ContrastReading:
    """Log volume of every region of a scan relative to its surroundings; the cohort has a log-Jacobian."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, self.names = prepared, prepared.region_table
        self._inside = RegionMeans(prepared.regions, prepared.mask, prepared.region_table)
        self._around = ShellMeans(prepared.regions, prepared.mask, prepared.region_table, prepared.plan.spacing_mm)

    def __call__(self, row: pd.Series) -> NDArray[np.float32]:
        """[R] of the scan of a row of the cohort table."""
        log_jacobian = self._prepared.volume(str(row["key"]), LOG_JACOBIAN)[self._prepared.mask]
        return self._inside(log_jacobian) - self._around(log_jacobian)


WHOLE_BRAIN = "whole brain (global size)"
RIGID = 6


def log_scale(affine: NDArray[np.float64]) -> float:
    """Log volume of the person relative to the template: log |det| of the 3 x 3 part of template -> scan."""
    return math.log(abs(float(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))))


def read_log_scale(path: Path) -> float:
    """`log_scale` of a file transforms/<key>.json.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return log_scale(load_object(path, finite=True)["affine_template_to_scan"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the scan again.") from None


class SizeReading:
    """Log volumes of a scan relative to the template: the whole brain, then every region."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self.names = pd.DataFrame({"name": [WHOLE_BRAIN, *prepared.region_table["name"]]})
        self._means = RegionMeans(prepared.regions, prepared.mask, prepared.region_table)

    def __call__(self, row: pd.Series) -> NDArray[np.float32]:
        """[1 + R] of the scan of a row of the cohort table."""
        whole = read_log_scale(transform_path(row["folder"], row["key"]))
        regions = whole + self._means(self._prepared.volume(str(row["key"]), LOG_JACOBIAN)[self._prepared.mask])
        return np.concatenate([[whole], regions]).astype(np.float32)


def transform_path(folder: str, key: str) -> Path:
    """Where `prepare` keeps the alignment of a scan."""
    return Path(folder) / "transforms" / f"{key}.json"


def has_sizes(prepared: Prepared) -> bool:
    """Whether `SizeReading` can read every scan of a cohort.

    Not if it was aligned rigidly (its deformation channel holds the size already), has no deformation channel, or lacks a
    transform of a scan (which is printed).
    """
    if LOG_JACOBIAN not in prepared.plan.channels or prepared.plan.degrees_of_freedom == RIGID:
        return False
    used = prepared.manifest[prepared.manifest["role"] != "excluded"]
    paths = [transform_path(folder, key) for folder, key in used[["folder", "key"]].to_numpy()]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        say(f"no rows of channel {SIZE}: {absent[0]} and {len(absent) - 1} more transforms are missing.")
    return not absent
