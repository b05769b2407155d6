"""What `gen3d evaluate` writes: metrics.json with the headline and every table but the longest, and all tables as files.

Of maps: calibration, voxels, voxels_by_scan, differences, detection, regions, region_differences, profiles. Of forecasts: skill,
skill_by_region, coverage, direction, skill_differences, people, images, changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.cohort.manifest import HEALTHY, NULL
from gen3d.core.result_folder import ResultFolder, write_result
from gen3d.core.tables import Row, records

BY_SCAN = "voxels_by_scan"
IMAGES, CHANGES = "images", "changes"
"""Tables of forecasts with a row per scan, and per scan and region."""
SHARE_P_CONFORMAL = "share_p_conformal_5_percent"
"""Column of the regions table: people whose conformal p is at most 5 %."""


def write_evaluation(
    folder: Path,
    truth: Path,
    maps: Mapping[str, Row],
    conditions: Mapping[str, int],
    headline: list[Row],
    tables: Mapping[str, pd.DataFrame],
) -> None:
    """Write the folder.

    Args:
        folder: the folder to write.
        truth: the cohort with the planted truth.
        maps: name -> folder, key and numbers of scans of each maps folder.
        conditions: scans per planted condition.
        headline: rows of the most important figures.
        tables: calibration, voxels, voxels_by_scan, differences, detection, regions, region_differences, profiles.
    """
    metrics = {"truth": str(truth), "maps": dict(maps), "conditions": dict(conditions), "headline": headline}
    write_result(folder, metrics, tables, files_only=(BY_SCAN,))


def write_forecast_evaluation(
    folder: Path,
    truth: Path,
    forecasts: Mapping[str, Mapping[str, Any]],
    headline: list[Row],
    summary: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
) -> None:
    """Write the folder of forecasts that were measured.

    Args:
        folder: the folder to write.
        truth: the cohort with the later visits.
        forecasts: name -> folder, key, models (name -> name in words), forecaster and numbers of each folder of forecasts.
        headline: rows of the most important figures.
        summary: sentences, the verdict first.
        tables: skill, skill_by_region, coverage, direction, skill_differences, people, images, changes.
    """
    plain = records(pd.DataFrame(headline))
    metrics = {"truth": str(truth), "forecasts": dict(forecasts), "summary": list(summary), "headline": plain}
    write_result(folder, metrics, tables, files_only=(IMAGES, CHANGES))


@dataclass(frozen=True)
class EvaluationFolder(ResultFolder):
    """Maps measured against planted truth, or forecasts measured against later visits."""

    @property
    def of_forecasts(self) -> bool:
        """Whether forecasts were measured, and not maps."""
        return bool(self.forecasts)

    @property
    def forecasts(self) -> dict[str, Row]:
        """Name of each folder of forecasts in the tables -> its description: key, models, forecaster, numbers."""
        described = self.part("forecasts", dict, {})
        if not all(
            isinstance(record, dict) and isinstance(record.get("models"), dict) for record in described.values()
        ):
            raise self.damaged("forecasts", "a folder without a description")
        return {str(name): dict(record) for name, record in described.items()}

    @property
    def conditions(self) -> dict[str, int]:
        """Scans per planted condition."""
        counts = self.part("conditions", dict, {})
        if not all(isinstance(num, int) for num in counts.values()):
            raise self.damaged("conditions", "a count that is no whole number")
        return {str(name): num for name, num in counts.items()}

    @property
    def planted(self) -> tuple[str, ...]:
        """Conditions in which something is planted."""
        return tuple(name for name in self.conditions if name not in (NULL, HEALTHY))

    @property
    def headline(self) -> list[Row]:
        """The most important figures: maps, channel, condition, measure, value, low, high, num."""
        return list(self.part("headline", list, []))

    @property
    def maps(self) -> dict[str, str]:
        """Name of each maps folder in the tables -> its key."""
        described = self.part("maps", dict, {})
        if not all(isinstance(record, dict) for record in described.values()):
            raise self.damaged("maps", "a folder without a description")
        return {str(name): str(record.get("key")) for name, record in described.items()}

    def table(self, name: str) -> pd.DataFrame:
        """One of the tables of metrics.json, empty where it has none."""
        return pd.DataFrame(self.part("tables", dict, {}).get(name) or [])
