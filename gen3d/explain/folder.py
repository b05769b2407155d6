"""What `gen3d explain` writes: maps per person, method and group, tables, pictures, animations, and the judges' verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import Row, TableFile
from gen3d.imaging.volume import read_map, read_map_and_affine

AGAIN = "run `gen3d explain` again"
MAPS, NATIVE, GROUPS, ANIMATIONS = "maps", "native", "groups", "animations"
EXPLAINED = TableFile(
    "explained.tsv", ("key", "subject", "session", "label", "members", "answer", "answer_controls"), AGAIN
)
"""A row per scan: what the members that never saw the person say of it, and of the mean of the controls."""

LONG = ("regions", "slices")
"""Tables with a row per scan, method and region or slice; they are files only."""

TABLES = (
    "regions",
    "enrichment",
    "truth",
    "randomised",
    "faithfulness",
    "retest",
    "thresholds",
    "slices",
    "group_enrichment",
    "judges",
)
"""Further tables, `<name>.tsv`."""


def map_path(folder: Path, key: str, method: str) -> Path:
    """The map of a scan by a method, on the plan's grid: signed, summed over channels, in units of the answer or its gradient."""
    return folder / MAPS / f"{key}_{method}.nii.gz"


def native_path(folder: Path, key: str, method: str) -> Path:
    """The same on the voxels of the scan."""
    return folder / NATIVE / f"{key}_{method}.nii.gz"


def group_path(folder: Path, group: str, method: str) -> Path:
    """Mean strength of a group's maps on the plan's grid, each as a multiple of its mean over the brain."""
    return folder / GROUPS / f"{group}_{method}.nii.gz"


def animation_path(folder: Path, name: str, method: str, kind: str) -> Path:
    """The animation of a scan (by its key) or of a group."""
    return folder / ANIMATIONS / f"{name}_{method}.{'png' if kind == 'apng' else kind}"


@dataclass(frozen=True)
class ExplainedFolder(ResultFolder):
    """Explanations of a classifier, judged."""

    @property
    def cohort_rows(self) -> pd.DataFrame | None:
        return None

    @property
    def example_map(self) -> Path | None:
        """The first map."""
        return next(iter(sorted((self.folder / MAPS).glob("*.nii.gz"))), None)

    @cached_property
    def explained(self) -> pd.DataFrame:
        """A row per scan."""
        return EXPLAINED.read(self.folder)

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods in the order of the settings."""
        return tuple(str(name) for name in self.part("methods", list, []))

    @property
    def groups(self) -> tuple[str, ...]:
        """Classes that have group maps, in the order of the target."""
        return tuple(str(name) for name in self.part("groups", list, []))

    @property
    def judges(self) -> list[Row]:
        """A row per method and judge: value, low, high, floor, num, passed (None: not asked), why."""
        return self.rows("judges", "method", "judge", "passed")

    @property
    def question(self) -> str:
        """What the maps explain, in words."""
        return str(self.part("question", str, ""))

    @property
    def resolution(self) -> dict[str, str]:
        """What can be told apart in the maps of a method, in words, by method."""
        return {str(name): str(text) for name, text in self.part("resolution", dict, {}).items()}

    @property
    def rule(self) -> str:
        """The rule of the threshold that pictures use."""
        return str(self.part("threshold", dict, {}).get("rule", ""))

    @property
    def shown(self) -> tuple[str, ...]:
        """Keys of the scans with pictures and animations."""
        return tuple(str(key) for key in self.part("shown", list, []))

    def group_map(self, group: str, method: str) -> NDArray[np.float32]:
        """Mean strength of a group [X, Y, Z]."""
        return read_map(group_path(self.folder, self.file_names.get(group, group), method))

    @property
    def file_names(self) -> dict[str, str]:
        """Group -> its name in files."""
        return {str(group): str(name) for group, name in self.part("file_names", dict, {}).items()}

    def animations(self) -> list[Path]:
        """All animations."""
        return sorted((self.folder / ANIMATIONS).glob("*"))

    @cached_property
    def affine(self) -> NDArray[np.float64] | None:
        """Voxel -> MNI152 mm of the maps [4, 4]; None without a map."""
        return None if self.example_map is None else read_map_and_affine(self.example_map)[1]

    def numbers_of(self) -> dict[str, Any]:
        """What the page keeps in its own metrics."""
        return {"judges": self.judges, "question": self.question, "resolution": self.resolution}
