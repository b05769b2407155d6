"""The reading of every region that goes best with its labelled volume: the channel `volume` of region tables.

No single reading of a scan follows the volume of every structure (`analysis/01_what_region_readings_measure.py`). The
log-Jacobian of a nucleus beside the ventricles is drawn along by them, and a thin cavity is seen better by its fluid. Which
reading stands for a structure, and how much of the ventricles' is taken out, was fixed on people who report nothing.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.anomaly.region_channels import ShellMeans
from gen3d.anomaly.region_means import RegionMeans
from gen3d.cohort.channels import CONTRAST, LOG_JACOBIAN, T1W
from gen3d.cohort.folder import Prepared
from gen3d.cohort.region_validity import ML, chosen_reading
from gen3d.imaging.template import full_template

DEFORMATION, LESS_VENTRICLE, TISSUE = "deformation", "less_ventricle", "tissue"
VENTRICLES = ("left lateral ventricle", "right lateral ventricle")
COARSEST_MM = 2.5  # on coarser grids a thin cavity has no voxel of fluid at all
NEAR_MM = 2.0  # how far around a region its tissue is counted: people differ from the template by about this
SURE = 0.8  # share of a tissue in the template from which its voxels set the level of that tissue
SMALLEST = 0.01  # volume, in voxels or of the template's, below which no logarithm is taken: regions without a voxel

Floats = NDArray[np.float32]


class RegionReadings:
    """Readings of the log volume of every region of a prepared scan, relative to head size, [R] each."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        labels, table = prepared.regions, prepared.region_table
        spacing_mm = prepared.plan.spacing_mm
        self._means = RegionMeans(labels, prepared.mask, table)
        self._around = ShellMeans(labels, prepared.mask, table, spacing_mm)
        self._ventricles = np.flatnonzero(table["name"].isin(VENTRICLES))
        self._near = [_near(labels == label, spacing_mm) for label in table["label"]]
        self._tissues = table["tissue"].str.upper().tolist()
        template = full_template()
        self._levels = [float(np.median(template.t1w[share > SURE])) for share in (template.csf, template.gm)]

    def __call__(self, key: str) -> dict[str, Floats]:
        """Reading -> [R]; `ventricles` -> [1], the log-Jacobian of both lateral ventricles."""
        log_jacobian = self.prepared.volume(key, LOG_JACOBIAN)[self.prepared.mask]
        means = self._means(log_jacobian)
        return {
            DEFORMATION: means,
            CONTRAST: means - self._around(log_jacobian),
            ML: np.log(np.maximum(self._means(np.exp(log_jacobian)), SMALLEST)),
            TISSUE: self._tissue(self.prepared.volume(key, T1W)),
            "ventricles": means[self._ventricles].mean(keepdims=True),
        }

    def _tissue(self, t1w: Floats) -> Floats:
        """Log volume of the region's own tissue, told by intensity, in the region and `NEAR_MM` around it in the aligned scan."""
        fluid, grey = self._levels
        shares = {"CSF": np.clip((grey - t1w) / (grey - fluid), 0, 1), "WM": np.clip((t1w - grey) / (1 - grey), 0, 1)}
        shares["GM"] = 1 - shares["CSF"] - shares["WM"]
        flat = {tissue: share.ravel() for tissue, share in shares.items()}
        sums = [flat[tissue][near].sum() for tissue, near in zip(self._tissues, self._near, strict=True)]
        return np.log(np.maximum(sums, SMALLEST)).astype(np.float32)


def _near(region: NDArray[np.bool_], spacing_mm: float) -> NDArray[np.int64]:
    """Flat indices of the voxels of a region [X, Y, Z] and within `NEAR_MM` of it."""
    if not region.any():
        return np.empty(0, dtype=np.int64)
    reach = int(np.ceil(NEAR_MM / spacing_mm)) + 1
    bounds = ndimage.find_objects(region.astype(np.int8))[0]
    box = tuple(slice(max(0, axis.start - reach), axis.stop + reach) for axis in bounds)
    inside = np.zeros(region.shape, dtype=np.bool_)
    inside[box] = ndimage.distance_transform_edt(~region[box], spacing_mm) <= NEAR_MM
    return np.flatnonzero(inside)


class VolumeReading:
    """Log volume of every region of a scan by its chosen reading."""

    def __init__(self, prepared: Prepared) -> None:
        self.names = prepared.region_table
        self._readings = RegionReadings(prepared)
        self._chosen = [chosen_reading(str(name)) for name in self.names["name"]]
        self._slopes = np.array([choice.ventricle_slope for choice in self._chosen], dtype=np.float32)

    def __call__(self, row: pd.Series) -> Floats:
        """[R] of the scan of a row of the cohort table."""
        found = self._readings(str(row["key"]))
        found[LESS_VENTRICLE] = found[DEFORMATION] - self._slopes * found["ventricles"]
        return np.array([found[choice.reading][place] for place, choice in enumerate(self._chosen)], np.float32)


def has_volumes(prepared: Prepared) -> bool:
    """Whether `VolumeReading` can read the scans of a cohort.

    Not without a log-Jacobian or a T1w, for regions other than the package's own, nor on grids coarser than those on which
    readings were held against labels.
    """
    regions = prepared.region_table
    own = "tissue" in regions and set(VENTRICLES) <= set(regions["name"])
    return own and prepared.plan.spacing_mm <= COARSEST_MM and {LOG_JACOBIAN, T1W} <= set(prepared.plan.channels)
