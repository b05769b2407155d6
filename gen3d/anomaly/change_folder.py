"""The folder of `gen3d change`: changes between two scans, the agreement of two scans of controls, and rates over all visits.

Tables of all visits are measured within each person, and are there only where the prepared scans were.
"""

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

RATES = TableFile(
    "rates.tsv",
    (
        "subject", "diagnosis", "region", "num_visits", "years", "percent_per_year", "low", "high", "own_percent_per_year", "z",
        "p", "q",
    ),
    AGAIN,
)  # fmt: skip
"""A person's rate of change of a region's volume per year, in the model of all people; z is against the other controls."""

GROUP_RATES = TableFile(
    "group_rates.tsv",
    (
        "diagnosis", "region", "num_people", "percent_per_year", "low", "high", "sd_people_percent", "sd_visit_percent",
    ),
    AGAIN,
)  # fmt: skip
"""The rate of a diagnosis; the SD of people's own rates around it, and of one visit's error, where these can be told apart."""

VISIT_PAIRS = TableFile(
    "visit_pairs.tsv",
    (
        "subject", "session_1", "session_2", "years", "region", "change", "change_percent", "z_change", "p", "q",
    ),
    AGAIN,
)  # fmt: skip
TRAJECTORIES = TableFile("trajectories.tsv", ("subject", "session", "years", "region", "change_percent"), AGAIN)
"""Volume of a region at every visit, in percent of that at the first."""


def change_map_path(folder: Path, key_1: str, key_2: str) -> Path:
    """The map of log volume of a visit relative to the first one, on the voxels of the first aligned scan."""
    return folder / "maps" / f"{key_1}_{key_2}_log_change.nii"


def write_rates(
    folder: Path, rates: pd.DataFrame, groups: pd.DataFrame, pairs: pd.DataFrame, trajectories: pd.DataFrame
) -> None:
    """Write the four tables of all visits."""
    RATES.write(folder, rates)
    GROUP_RATES.write(folder, groups)
    VISIT_PAIRS.write(folder, pairs)
    TRAJECTORIES.write(folder, trajectories)


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

    @cached_property
    def rates(self) -> pd.DataFrame:
        """A row per person and region; empty where visits were not measured within people."""
        return RATES.read_if_there(self.folder)

    @cached_property
    def group_rates(self) -> pd.DataFrame:
        """A row per diagnosis and region; empty where there are too few people."""
        return GROUP_RATES.read_if_there(self.folder)

    @cached_property
    def visit_pairs(self) -> pd.DataFrame:
        """A row per two visits of a person and region, measured within the person."""
        return VISIT_PAIRS.read_if_there(self.folder)

    @cached_property
    def trajectories(self) -> pd.DataFrame:
        """A row per visit and region."""
        return TRAJECTORIES.read_if_there(self.folder)

    @property
    def q(self) -> float:
        """The requested false discovery rate."""
        return float(self.artefact.config.get("q", 0.05))
