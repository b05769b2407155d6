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

from gen3d.anomaly.compare import RegionMeans
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


def size_names(prepared: Prepared) -> pd.DataFrame:
    """The columns of `size_values`: the whole brain, then every region."""
    return pd.DataFrame({"name": [WHOLE_BRAIN, *prepared.region_table["name"]]})


def size_values(prepared: Prepared, table: pd.DataFrame) -> NDArray[np.float32] | None:
    """Log volumes relative to the template of every scan: the whole brain, then every region, [n, 1 + R].

    None if the cohort was aligned rigidly (its deformation channel holds the size already), has no deformation channel, or
    lacks a transform of a scan (which is printed).
    """
    if LOG_JACOBIAN not in prepared.plan.channels or prepared.plan.degrees_of_freedom == RIGID:
        return None
    paths = [Path(folder) / "transforms" / f"{key}.json" for folder, key in table[["folder", "key"]].to_numpy()]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        say(f"no rows of channel {SIZE}: {absent[0]} and {len(absent) - 1} more transforms are missing.")
        return None
    region_means = RegionMeans(prepared.regions, prepared.mask, prepared.region_table)
    values = np.empty((len(table), 1 + len(prepared.region_table)), dtype=np.float32)
    for i, (key, path) in enumerate(zip(table["key"], paths, strict=True)):
        whole = read_log_scale(path)
        values[i, 0] = whole
        values[i, 1:] = whole + region_means(prepared.volume(str(key), LOG_JACOBIAN)[prepared.mask])
    return values
