"""Volumes of brain structures in a prepared scan, read off its deformation channel."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.channels import LOG_JACOBIAN
from gen3d.cohort.folder import Prepared
from gen3d.imaging.plan import GridPlan

SUFFIX = "_ml"


def structure_names(region_table: pd.DataFrame) -> list[str]:
    """Column names of the structures, in the order of the table: `hippocampus_ml`, `lateral_ventricle_ml`."""
    return [column_of(str(name)) for name in dict.fromkeys(region_table["structure"])]


def column_of(structure: str) -> str:
    """The column that holds a structure's volume."""
    return structure.replace(" ", "_").replace("-", "_") + SUFFIX


def structure_volumes(
    log_jacobian: NDArray[np.float32], regions: NDArray[np.int16], region_table: pd.DataFrame, plan: GridPlan
) -> dict[str, float]:
    """Volume of every structure, both hemispheres together, ml.

    A structure's volume is the integral of det J over its template region. It is measured after the linear alignment, so
    that head size is taken out where that has 9 or 12 degrees of freedom.

    Args:
        log_jacobian: [X, Y, Z] natural logarithm of det J of the deformation template -> scan.
        regions: [X, Y, Z] labels of the template's regions.
        region_table: their `label` and `structure`.
        plan: the grid of both.
    """
    voxel_ml = plan.spacing_mm**3 / 1000
    sums = np.bincount(
        regions.ravel(), weights=np.exp(log_jacobian).ravel(), minlength=int(region_table["label"].max()) + 1
    )
    volumes = dict.fromkeys(structure_names(region_table), 0.0)
    for label, structure in region_table[["label", "structure"]].itertuples(index=False):
        volumes[column_of(str(structure))] += float(sums[int(label)]) * voxel_ml
    return volumes


def with_structures(prepared: Prepared, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a cohort with a column per structure, ml; columns that are there already stay as they are.

    Without a deformation channel, or regions with a structure, the table is returned as it is.
    """
    if LOG_JACOBIAN not in prepared.plan.channels or "structure" not in prepared.region_table.columns:
        return table
    rows = [
        structure_volumes(
            prepared.volume(str(key), LOG_JACOBIAN), prepared.regions, prepared.region_table, prepared.plan
        )
        for key in table["key"]
    ]
    measured = pd.DataFrame(rows, index=table.index, columns=structure_names(prepared.region_table))
    return table.join(measured.drop(columns=[name for name in measured.columns if name in table.columns]))
