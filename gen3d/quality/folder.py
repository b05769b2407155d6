"""What `gen3d quality` writes: metrics.json with every table, the people behind it, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.core.result_folder import ResultFolder, write_result
from gen3d.core.tables import Row, TableFile, rows_of

FIGURES = "figures"
REFERENCE = TableFile("reference.tsv", ("key", "subject"))
FIDELITY_PEOPLE = TableFile("fidelity_people.tsv")
SHUFFLED_KEY = TableFile("shuffled_key.tsv", ("number", "kind", "key"), "run `gen3d quality` again")


def write_quality(
    folder: Path,
    metrics: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    reference: pd.DataFrame,
    fidelity_people: pd.DataFrame,
) -> None:
    """Write the tables, the reference people, the people behind fidelity, and metrics.json."""
    REFERENCE.write(folder, reference)
    FIDELITY_PEOPLE.write(folder, fidelity_people)
    write_result(folder, metrics, tables)


REAL, SAME_N, SYNTHETIC, BOTH = "real", "real, as many as synthetic", "synthetic", "real and synthetic"
"""What predictors of the utility table were trained on."""

STANDARD = {"med3d": "Med3D ResNet-50", "radimagenet": "RadImageNet ResNet-50 2.5D"}
"""Extractors with published results, and their names; a distance by any other has its kind in its name: FID-random."""


@dataclass(frozen=True)
class QualityFolder(ResultFolder):
    """Synthetic scans compared with real people."""

    @property
    def shuffled_key(self) -> list[Row]:
        """number and kind of every scan in the picture of scans in random order."""
        return rows_of(SHUFFLED_KEY.read(self.folder / FIGURES))
