"""Features of a frozen trunk, computed once per scan and kept on disk while a run is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gen3d.core.progress import say, track
from gen3d.core.work_arrays import WorkingArrays
from gen3d.models.supervised.classifier import Classifier
from gen3d.train.batches import BatchSource

FEATURES = "features"


@dataclass(frozen=True)
class FeatureSource:
    """Features [n, F, ...] of scans after the last frozen stage, in place of their volumes; float16 on disk."""

    features: NDArray[np.float16]
    scans: BatchSource

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(self.scans.subjects)

    @property
    def channels(self) -> tuple[str, ...]:
        return ()

    def load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.features[rows].astype(np.float32)

    def conditions(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return self.scans.conditions(rows)

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return self.scans.labels(rows)


def open_features(folder: Path, num_scans: int, shape: tuple[int, ...]) -> tuple[WorkingArrays, NDArray[np.float16]]:
    """The features of a trunk on disk, new or as far as they were computed."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = WorkingArrays(folder, num_scans)
    return arrays, arrays.open(FEATURES, shape, "<f2")


@torch.no_grad()
def feature_shape(model: Classifier, last: str) -> tuple[int, ...]:
    """Shape of one scan's features after a stage."""
    assert not model.training, "normalisations would take statistics of nothing"
    device = model.brain_mask.device
    view = torch.zeros((1, len(model.channels), *model.window.size), device=device)
    return tuple(model.network.features(view, last).shape[1:])


@torch.no_grad()
def compute_features(
    model: Classifier, last: str, source: BatchSource, folder: Path, precision: torch.dtype, what: str
) -> None:
    """Compute what is missing; a scan at a time, each written before it is marked as done.

    Args:
        model: its stages up to `last` are the trunk.
        last: the last frozen stage.
        source: the scans.
        folder: where the features are kept.
        precision: in which to compute.
        what: whose features, for the progress.
    """
    model.eval()
    arrays, features = open_features(folder, len(source.subjects), feature_shape(model, last))
    missing = arrays.missing()
    if not missing:
        return
    device = model.brain_mask.device
    say(f"{what}: features after the stage {last} are computed once, {features.nbytes / 2**20:.0f} MiB.")
    for row in track(missing, what):
        volume = torch.from_numpy(source.load(np.array([row]))).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
            found = model.network.features(model.view(volume), last)
        features[row] = found[0].float().clamp(-65504, 65504).cpu().numpy().astype(np.float16)
        arrays.mark(row)
