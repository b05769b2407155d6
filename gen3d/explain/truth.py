"""Maps against what was planted in simulated people, and against the plain edges of the scan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_gradient_magnitude

from gen3d.cohort.channels import DEFORMED
from gen3d.cohort.manifest import HEALTHY, NULL
from gen3d.core.artefact import read
from gen3d.core.tables import Row
from gen3d.explain.enrichment import RoundBrain, by_region, normalised
from gen3d.explain.judges import spearman
from gen3d.imaging.volume import read_map
from gen3d.maths.stats import auprc, auroc
from gen3d.simulate.folder import PERCENT_CHANGE, changed_path, log_jacobian_path, read_truth

TURNS = 20
"""Turned copies of a map behind its floor."""
EDGES = "edges"
"""Name of the map that needs no network: where the scan's intensity changes."""


@dataclass(frozen=True)
class PlantedTruth:
    """What was planted in the scans of prepared folders, those that were simulated."""

    folders: tuple[Path, ...]
    changed_log_jacobian: float

    @cached_property
    def _tables(self) -> dict[str, tuple[Path, str]]:
        """Key -> folder and condition, of scans in which something is planted."""
        found: dict[str, tuple[Path, str]] = {}
        for folder in self.folders:
            if read(folder).verb == "simulate":
                table, _ = read_truth(folder)
                for key, condition in table[["key", "condition"]].itertuples(index=False):
                    if condition not in (HEALTHY, NULL):
                        found[str(key)] = (folder, str(condition))
        return found

    def condition(self, key: str) -> str | None:
        """What was planted in a scan, None for nothing."""
        return self._tables[key][1] if key in self._tables else None

    def changed(self, key: str, channels: tuple[str, ...]) -> NDArray[np.bool_] | None:
        """Voxels [X, Y, Z] that truly differ, in the coordinates of the channels; None where nothing is planted.

        A network that sees the deformation: |log-Jacobian| of the planted change above the limit, on the template's voxels. One
        that sees intensities alone: the voxels that changed in the aligned scan.
        """
        if key not in self._tables:
            return None
        folder = self._tables[key][0]
        if set(DEFORMED) & set(channels):
            path = log_jacobian_path(folder, key)
            return np.abs(read_map(path)) > self.changed_log_jacobian if path.is_file() else None
        path = changed_path(folder, key)
        return read_map(path) > 0.5 if path.is_file() else None

    def percent_change(self, key: str, names: list[str]) -> NDArray[np.float64]:
        """Planted change of volume of regions, percent, [n]; 0 where nothing was planted."""
        if key not in self._tables:
            return np.zeros(len(names))
        _, regions = read_truth(self._tables[key][0])
        own = regions[regions["key"] == key].set_index("region")[PERCENT_CHANGE]
        return own.groupby(level=0).mean().reindex(names).fillna(0.0).to_numpy(dtype=np.float64)


def against_truth(
    volume: NDArray[np.floating], changed: NDArray[np.bool_], brain: RoundBrain, generator: np.random.Generator
) -> Row:
    """AUPRC and AUROC of a map's strength for the changed voxels; by chance the AUPRC is the prevalence.

    `auprc_turned` is the mean AUPRC of the map turned inside the brain: a floor that knows how smooth and how central it is.
    """
    inside = changed[brain.mask]
    strength = np.abs(volume)
    turned = [auprc(brain.turned_map(strength, generator), inside) for _ in range(TURNS)]
    return {
        "auprc": auprc(strength[brain.mask], inside),
        "auroc": auroc(strength[brain.mask], inside),
        "auprc_turned": float(np.mean(turned)),
        "prevalence": float(inside.mean()),
    }


def region_agreement(
    volume: NDArray[np.floating],
    mask: NDArray[np.bool_],
    regions: NDArray[np.integer],
    table: pd.DataFrame,
    percent: NDArray[np.float64],
) -> float:
    """Spearman over regions of a map's enrichment with the size of the planted change (Wu et al. 2024), rows of `table`."""
    values = by_region(volume, mask, regions, int(table["label"].max()))[table["label"].to_numpy(int)]
    known = np.isfinite(values)
    return spearman(values[known], np.abs(percent[known])) if known.sum() > 2 else float("nan")


def edges(volume: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How strongly each channel [C, X, Y, Z] changes from voxel to voxel, in units of its spread, summed over channels."""
    total = np.zeros(mask.shape, np.float32)
    for channel in volume:
        spread = float(channel[mask].std()) or 1.0
        total += gaussian_gradient_magnitude(channel.astype(np.float32), 1.0) / spread
    return normalised(total, mask)
