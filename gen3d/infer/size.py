"""Size, once globally and once regionally: what the linear alignment took out, and what it would show left in.

With 9 or 12 degrees of freedom the deformation channel is regional: a brain that is small everywhere has a log-Jacobian
near 0, and its size is in the affine. The channel `size` says it: log |det| of the affine is the person's log volume
relative to the template, and with a region's mean log-Jacobian added it is the region's, as a rigid alignment (6 degrees
of freedom) would show it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.core.errors import UserError
from gen3d.core.progress import say
from gen3d.infer.channels import LOG_JACOBIAN
from gen3d.infer.compare import RegionMeans

SIZE = "size"
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
        return log_scale(json.loads(path.read_text(encoding="utf-8"))["affine_template_to_scan"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: damaged ({error}); prepare the scan again.") from None


def size_names(prepared: Prepared) -> pd.DataFrame:
    """What the columns of `size_values` are: the whole brain, then every region."""
    return pd.DataFrame({"name": [WHOLE_BRAIN, *prepared.region_table["name"]]})


def size_values(prepared: Prepared, table: pd.DataFrame) -> NDArray[np.float32] | None:
    """Log volumes relative to the template of every scan: the whole brain, then every region, [n, 1 + R].

    None where the cohort was aligned rigidly (its deformation channel holds the size already), has no deformation
    channel, or lacks a scan's transform; the last is said.
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
