"""What `gen3d stages` writes: tables of a chain of transitions and of its floors, the scans that it made, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.core.result_folder import ResultFolder, write_result
from gen3d.core.tables import Row, TableFile

AGAIN = "run `gen3d stages` again"
CHAIN, COPY, SHIFT, HISTOGRAM, OTHER, DIRECT = "chain", "copy", "shift", "histogram", "other person", "direct"
"""What a scan at a later stage is predicted to be: by the generators; the scan itself; the scan plus the difference of the
stages' means; the scan with the later stage's intensities; a real scan of somebody else at that stage; by one generator at once."""

PUBLISHED, PAIRED = "published", "paired"
"""Compared with a scan of another person at the later stage, as in the literature; with the same person's own."""

MEASURES = (
    "mse_brain",
    "psnr_brain",
    "ssim_brain",
    "mse_frame",
    "psnr_frame",
    "ssim_frame",
    "feature_distance",
    "lpips",
)
COMPARED = TableFile(
    "compared.tsv",
    ("key", "subject", "start", "stage", "steps", "candidate", "protocol", "partner", *MEASURES[:6]),
    AGAIN,
)
"""A row per scan, later stage, candidate and protocol."""

READINGS = TableFile(
    "readings.tsv", ("key", "subject", "start", "stage", "candidate", "fluid", "tissue", "intensity"), AGAIN
)
"""A row per scan, stage and candidate: shares of the scan's brain that are fluid and tissue, and its mean intensity."""

TABLES = ("metrics", "differences", "directions", "identity", "sets", "consistency")
"""Further tables, `<name>.tsv`, and rows of metrics.json."""

TEXT = ("start", "stage")


def volume_path(folder: Path, key: str, stage: str) -> Path:
    """Where a scan lies as the chain makes it at a later stage."""
    return folder / "volumes" / f"{key}_{stage}_t1w.nii"


def write_stages(
    folder: Path,
    metrics: Mapping[str, Any],
    compared: pd.DataFrame,
    readings: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
) -> None:
    """Write every table, and metrics.json with the sentences and all tables but the two with a row per scan."""
    COMPARED.write(folder, compared)
    READINGS.write(folder, readings)
    write_result(folder, metrics, tables)


@dataclass(frozen=True)
class StagesFolder(ResultFolder):
    """A chain of stage transitions, measured."""

    @property
    def compared(self) -> pd.DataFrame:
        """Every comparison."""
        return COMPARED.read(self.folder)

    @property
    def readings(self) -> pd.DataFrame:
        """Fluid, tissue and intensity of every scan along the chain."""
        return READINGS.read(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        """The stages in order."""
        return tuple(str(name) for name in self.part("classes", list, []))

    @property
    def pictured(self) -> tuple[str, ...]:
        """Scans with a picture."""
        return tuple(str(key) for key in self.part("pictured", list, []))

    @property
    def metric_rows(self) -> list[Row]:
        """Means of every measure by step, protocol and candidate."""
        return self.rows("metrics", "start", "stage", "protocol", "candidate", "measure", "value", "low", "high", "n")
