"""What `gen3d explore` writes: metrics.json with every table, mean images, difference maps, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.labels import label as file_label
from gen3d.core.result_folder import ResultFolder, write_result
from gen3d.core.tables import Row
from gen3d.imaging.volume import write_nifti

TABLES = ("levels", "comparisons", "regions", "intensity", "intensity_trend", "similarity", "excess")
"""levels: people of each. comparisons: a row per difference map. regions: a row per region of each. intensity, intensity_trend:
measures of grey values by level, and what they do along the levels. similarity, excess: how alike scans are."""

PICTURES = ("means", "differences", "profiles", "similarity")


def write_explored(folder: Path, metrics: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the tables and metrics.json."""
    write_result(folder, metrics, {name: tables[name] for name in TABLES})


def write_mean(folder: Path, level: str, channel: str, mean: NDArray[Any], affine: NDArray[Any]) -> None:
    """Write the mean image [X, Y, Z] of a level on the plan's grid."""
    write_nifti(folder / "means" / f"level-{file_label(level)}_desc-{channel}_mean.nii.gz", mean, affine)


def write_difference(
    folder: Path, levels: tuple[str, str], channel: str, maps: Mapping[str, NDArray[Any]], affine: NDArray[Any]
) -> None:
    """Write maps [x, y, z] of one comparison, by what they hold: difference, t, pfwe."""
    first, second = (file_label(level) for level in levels)
    for kind, values in maps.items():
        write_nifti(folder / "maps" / f"from-{first}_to-{second}_desc-{channel}_{kind}.nii.gz", values, affine)


@dataclass(frozen=True)
class ExploredFolder(ResultFolder):
    """A cohort described by the levels of a column."""

    @property
    def column(self) -> str:
        """The column whose levels are compared."""
        return str(self.part("by", str, ""))

    @property
    def notes(self) -> tuple[str, ...]:
        """Who was left out, and what could not be tested."""
        return tuple(str(note) for note in self.part("notes", list, []))

    @property
    def levels(self) -> list[Row]:
        """level and num_people."""
        return self.rows("levels", "level", "num_people")

    @property
    def comparisons(self) -> list[Row]:
        """A row per pair of levels and channel."""
        return self.rows("comparisons", "level_a", "level_b", "channel", "smallest_p", "num_regions_differ", "p_all")

    @property
    def region_rows(self) -> list[Row]:
        """A row per region of each comparison."""
        return self.rows(
            "regions", "level_a", "level_b", "channel", "region", "difference_sd", "percent", "p_fwe", "p_all"
        )

    @property
    def intensity(self) -> list[Row]:
        """Measures of grey values by level."""
        return self.rows("intensity", "measure", "level", "value", "low", "high", "num_people")

    @property
    def trend(self) -> list[Row]:
        """What the measures do along the levels."""
        return self.rows("intensity_trend", "measure", "comparison", "per_level", "p_fwe")

    @property
    def similarity(self) -> list[Row]:
        """How alike two scans are."""
        return self.rows(
            "similarity", "kind", "level_a", "level_b", "measure", "value", "low", "high", "num_people", "num_pairs"
        )

    @property
    def excess(self) -> list[Row]:
        """What a comparison adds to how unlike people of one level are."""
        return self.rows("excess", "level_a", "level_b", "measure", "share", "share_low", "share_high")
