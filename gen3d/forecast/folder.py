"""A folder of forecasts: who was forecast, to which horizon, and by how much each region is expected to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.core.artefact import Artefact, read, write_json
from gen3d.core.result_folder import METRICS, ResultFolder
from gen3d.core.tables import TableFile

AGAIN = "run `gen3d forecast` again"
VERB = "forecast"
LEVELS = (50, 80, 90)
"""Percent of people whose true change lies inside the interval, as promised."""

SCANS = TableFile("scans.tsv", ("key", "subject", "session", "age_years", "model", "years", "stem"), AGAIN)
"""One row per forecast: the scan it starts from, the model, years ahead, and the stem of its volumes (`volumes/STEM_t1w.nii`,
`STEM_difference.nii`, `STEM_sd.nii`, `STEM_log_change.nii`, stored levels on the plan's grid). `stem` is missing where no volumes
are written (floors), and there is no `sd` where nothing was drawn or no factor makes its spread an SD (`sd_factor` missing)."""

INTERVALS = tuple(f"{side}_{level}" for level in LEVELS for side in ("low", "high"))
REGIONS = TableFile("regions.tsv", ("key", "model", "years", "region", "log_change", "spread", *INTERVALS), AGAIN)
"""One row per forecast and region: log volume change, its spread, and the ends of the intervals in the same unit."""

MODELS = TableFile("models.tsv", ("model", "title", "floor"), AGAIN)
"""The forecaster and the floors that stand beside it: name in the tables, name in words, whether it is a floor."""

NORMATIVE = TableFile(
    "normative.tsv", ("key", "region", "years", "age_years", "percent", "low_90", "high_90", "centile"), AGAIN
)
"""With maps of a norm: the region's volume today (years 0) and later in percent of the median of the person's age and sex today,
with its 90 % interval, and its centile among healthy people of the later age: 0 below the 5th, 100 above the 95th, missing
beyond the ages of the norm's controls."""

COPY_FORWARD = "copy_forward"
"""The floor that says: nothing changes."""

ALL_REGIONS = "all regions"
SKILL = TableFile(
    "skill.tsv",
    ("model", "against", "region", "skill", "low", "high", "num_people", "error", "error_against"),
    AGAIN,
)
"""Of people whom the run never saw: 1 - error / error of another model, per region and for all of them, with a 95 % interval
over people; `error` is the mean absolute error of log volume change."""

COVERAGE = TableFile(
    "coverage.tsv",
    ("model", "years_low", "years_high", "years", "level", "num_people", "coverage", "low", "high", "width"),
    AGAIN,
)
"""Of the same people, per bin of horizons and level (percent): share of changes inside an interval made from the errors of all
others, with a 95 % interval over people, and the interval's mean width in log volume."""


def write_forecasts(
    folder: Path,
    scans: pd.DataFrame,
    regions: pd.DataFrame,
    models: pd.DataFrame,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write the tables of a forecast folder, and metrics.json: sentences and what the report says once."""
    for table, frame in ((SCANS, scans), (REGIONS, regions), (MODELS, models)):
        table.write(folder, frame)
    write_json(folder / METRICS, dict(metrics or {}))


def years_label(years: float) -> str:
    """A number of years in a file name: 3y, 1p5y."""
    return f"{years:g}y".replace(".", "p")


def stem_of(key: str, model: str, years: float) -> str:
    """Name of the volumes of a forecast: `sub-1_ses-2_deformation_rate_1p5y`."""
    return f"{key}_{model}_{years_label(years)}"


def curves_name(key: str) -> str:
    """Name of the picture of a scan's region curves; the scan's own key is that of its brains."""
    return f"{key}_regions"


def normative_name(key: str) -> str:
    """Name of the picture of a scan's regions on the curves of a norm."""
    return f"{key}_normative"


def volume_path(folder: Path, stem: str, what: str) -> Path:
    """Where a volume of a forecast lies; `what` is t1w, difference, sd or log_change."""
    return folder / "volumes" / f"{stem}_{what}.nii"


def open_forecasts(folder: Path) -> Artefact:
    """The description of a folder of forecasts.

    Raises:
        UserError: not a folder of `gen3d forecast`, unfinished or damaged.
    """
    return read(folder, (VERB,))


@dataclass(frozen=True)
class ForecastFolder(ResultFolder):
    """Forecasts of people's scans, with what they are worth."""

    @property
    def example_map(self) -> Path | None:
        """The first volume of changes."""
        return next(iter(sorted((self.folder / "volumes").glob("*_log_change.nii"))), None)

    @cached_property
    def forecasts(self) -> pd.DataFrame:
        """A row per scan, model and horizon."""
        return SCANS.read(self.folder)

    @cached_property
    def regions(self) -> pd.DataFrame:
        """A row per scan, model, horizon and region."""
        return REGIONS.read(self.folder)

    @cached_property
    def models(self) -> pd.DataFrame:
        """The model first, then the floors."""
        return MODELS.read(self.folder)

    @property
    def model(self) -> str:
        """Name of the forecaster."""
        return str(self.models["model"].iloc[0])

    @property
    def titles(self) -> dict[str, str]:
        """Name in words, by model."""
        return {str(name): str(title) for name, title in self.models[["model", "title"]].itertuples(index=False)}

    @cached_property
    def skill(self) -> pd.DataFrame:
        """Skill of every model against every other; without rows where the run kept no errors."""
        return SKILL.read_if_there(self.folder)

    @cached_property
    def normative(self) -> pd.DataFrame:
        """Regions on the curves of a norm; without rows where no maps were given."""
        return NORMATIVE.read_if_there(self.folder)

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """Coverage and width by horizon."""
        return COVERAGE.read_if_there(self.folder)
