"""Maps folders whose numbers are known to a test, through the writer of `gen3d anomaly`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.anomaly.folder import CLUSTERS, REGIONS, write_maps_tables


def write_tables(
    folder: Path,
    subjects: pd.DataFrame,
    regions: pd.DataFrame,
    clusters: pd.DataFrame | None = None,
    calibration: dict[str, Any] | None = None,
) -> None:
    """Write the tables of a maps folder; columns that do not matter to the test are missing values."""
    clusters = pd.DataFrame() if clusters is None else clusters
    whole = [
        table.reindex(columns=[*schema.columns, *table.columns.difference(schema.columns)], fill_value=np.nan)
        for table, schema in ((regions, REGIONS), (clusters, CLUSTERS))
    ]
    write_maps_tables(folder, subjects, whole[0], whole[1], calibration or {})
