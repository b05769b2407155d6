"""What `gen3d reconstruct` writes: the model's expectation of every scan, and how far the scan is from it.

Folders of latents, which several verbs write and read, are `gen3d.cohort.latents_folder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import TableFile
from gen3d.imaging.volume import read_map

METRICS = TableFile("metrics.tsv", ("key", "role", "diagnosis", "channel", "seen", "mse", "psnr", "ssim"))


def volume_path(folder: Path, key: str, channel: str) -> Path:
    """Where the expectation of a scan lies."""
    return folder / "volumes" / f"{key}_{channel}.nii"


@dataclass(frozen=True)
class ReconstructedFolder(ResultFolder):
    """What a model expects of every scan."""

    named_by: ClassVar = "model"

    @cached_property
    def errors(self) -> pd.DataFrame:
        """A row per scan and channel: MSE, PSNR and SSIM inside the brain, and whether the model saw the person."""
        return METRICS.read_if_there(self.folder)

    def volume(self, key: str, channel: str) -> NDArray[np.float32] | None:
        """The expectation [X, Y, Z], or None where the person has none."""
        path = volume_path(self.folder, key, channel)
        for stored in (path, path.with_name(f"{path.name}.gz")):
            if stored.is_file():
                return read_map(stored)
        return None
