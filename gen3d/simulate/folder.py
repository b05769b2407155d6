"""The truth of a simulated cohort: what was planted in which scan, where and how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.tables import TableFile
from gen3d.imaging.volume import write_nifti

AGAIN = "run `gen3d simulate` again"
FOLDER = "truth"
TRUTH = TableFile("truth.tsv", ("subject", "session", "key", "condition", "severity"), AGAIN)
PERCENT_CHANGE, VOLUME_ML = "percent_change", "volume_ml"
TRUTH_REGIONS = TableFile("truth_regions.tsv", ("key", "region", PERCENT_CHANGE), AGAIN)
TRUTH_VOLUMES = TableFile("truth_volumes.tsv", ("key", "region", VOLUME_ML), AGAIN)


def write_truth(folder: Path, truth: pd.DataFrame, regions: pd.DataFrame, volumes: pd.DataFrame) -> None:
    """Write what was planted: a row per scan, and per scan and region the change in percent and the volume."""
    TRUTH.write(folder / FOLDER, truth)
    TRUTH_REGIONS.write(folder / FOLDER, regions)
    TRUTH_VOLUMES.write(folder / FOLDER, volumes)


def read_truth(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per scan, and a row per scan and region.

    Raises:
        UserError: missing, damaged, or without a column.
    """
    return TRUTH.read(folder / FOLDER), TRUTH_REGIONS.read(folder / FOLDER)


def log_jacobian_path(folder: Path, key: str) -> Path:
    """Where the true log-Jacobian of a scan lies, in template coordinates."""
    return folder / FOLDER / f"{key}_log_jacobian.nii.gz"


def changed_path(folder: Path, key: str) -> Path:
    """Where the mask of changed voxels of a scan lies, in the aligned scan."""
    return folder / FOLDER / f"{key}_changed.nii.gz"


def write_truth_volumes(
    folder: Path, key: str, log_jacobian: NDArray[np.float32], changed: NDArray[np.generic], affine: NDArray[np.float64]
) -> None:
    """Write what truly changed in a scan: the log-Jacobian and the changed voxels [X, Y, Z]."""
    write_nifti(log_jacobian_path(folder, key), log_jacobian, affine)
    write_nifti(changed_path(folder, key), changed, affine)
