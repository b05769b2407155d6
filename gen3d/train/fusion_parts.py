"""Columns of people as batches, and what scores them by a fusion network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gen3d.cohort.fusion_folder import Subset
from gen3d.models.supervised.fusion import Fusion
from gen3d.train.modalities import Columns


@dataclass(frozen=True)
class FusionSource:
    """Rows of columns [n, G + R] in their own units, NaN where not known, with labels."""

    values: Columns
    subjects: tuple[str, ...]
    codes: NDArray[np.float64]
    channels: tuple[str, ...] = ()

    def load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.values[rows]

    def conditions(self, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return None

    def labels(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.codes[rows].astype(np.float32)


@dataclass(frozen=True)
class FusionScorer:
    """Scores people by what they have, or by one side of it alone."""

    values: Columns
    subset: Subset = "both"

    at_once: ClassVar[int] = 256

    @torch.no_grad()
    def scores(self, model: Fusion, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Raw scores [n, num_scores] in float32 arithmetic."""
        was_training = model.training
        model.eval()
        device = model.column_mean.device
        parts = [
            model(torch.from_numpy(self.values[rows[start : start + self.at_once]]).to(device), self.subset)
            for start in range(0, len(rows), self.at_once)
        ]
        model.train(was_training)
        return np.asarray(torch.cat(parts).float().cpu().numpy(), dtype=np.float64)

    @torch.no_grad()
    def settle(self, model: Fusion, rows: NDArray[np.int64]) -> None:
        """Give batch normalisations mean and variance of all training people under the weights as they are."""
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        if not norms:
            return
        model.eval()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches, of which there is one
            norm.train()
        model(torch.from_numpy(self.values[rows]).to(model.column_mean.device))
        for norm, usual in zip(norms, momenta, strict=True):
            norm.momentum = usual
        model.train()
