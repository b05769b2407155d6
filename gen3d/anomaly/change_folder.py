"""The folder of `gen3d change`: a row per pair of scans and region, and the agreement of the two scans of controls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pandas as pd

from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import TableFile

AGAIN = "run `gen3d change` again"
CHANGE = TableFile(
    "change.tsv",
    (
        "subject", "session_1", "session_2", "years", "channel", "region", "effect_1", "effect_2", "change", "change_percent",
        "change_per_year", "expected", "z_change", "p", "q",
    ),
    AGAIN,
)  # fmt: skip
RETEST = TableFile(
    "retest.tsv",
    (
        "channel", "region", "num_pairs", "median_years", "sd_within", "sd_within_percent", "sd_between", "icc", "icc_low",
        "icc_high", "smallest_reliable_change",
    ),
    AGAIN,
)  # fmt: skip


def write_change(folder: Path, changes: pd.DataFrame, retest: pd.DataFrame) -> None:
    """Write both tables."""
    CHANGE.write(folder, changes)
    RETEST.write(folder, retest)


@dataclass(frozen=True)
class ChangeFolder(ResultFolder):
    """Changes between two scans of one person, and the agreement of the two scans of controls."""

    named_by: ClassVar = "input"

    @cached_property
    def changes(self) -> pd.DataFrame:
        """A row per pair of scans, channel and region."""
        return CHANGE.read(self.folder)

    @cached_property
    def retest(self) -> pd.DataFrame:
        """A row per channel and region; empty if too few controls were scanned twice."""
        return RETEST.read(self.folder)

    @property
    def q(self) -> float:
        """The requested false discovery rate."""
        return float(self.artefact.config.get("q", 0.05))
