"""The channels that exist by region only: whole sizes, contrast against the surroundings, and chosen readings of volume."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.region_channels import ContrastReading, SizeReading, has_sizes
from gen3d.anomaly.region_readings import VolumeReading, has_volumes
from gen3d.cohort.channels import CONTRAST, LOG_JACOBIAN, SIZE, VOLUME
from gen3d.cohort.folder import Prepared

Reading = Callable[[pd.Series], NDArray[np.float32]]


class MeasuredRegions:
    """Reads the scans of a cohort in every such channel that it allows; `names` are the regions of each channel."""

    def __init__(self, prepared: Prepared) -> None:
        readings: dict[str, SizeReading | ContrastReading | VolumeReading] = {}
        if has_sizes(prepared):
            readings[SIZE] = SizeReading(prepared)
        if LOG_JACOBIAN in prepared.plan.channels:
            readings[CONTRAST] = ContrastReading(prepared)
        if has_volumes(prepared):
            readings[VOLUME] = VolumeReading(prepared)
        self.names: dict[str, pd.DataFrame] = {name: reading.names for name, reading in readings.items()}
        self._readings: dict[str, Reading] = dict(readings)

    def __call__(self, row: pd.Series) -> dict[str, NDArray[np.float32]]:
        """Channel -> values [R] of the scan of a row of the cohort table."""
        return {name: reading(row) for name, reading in self._readings.items()}
