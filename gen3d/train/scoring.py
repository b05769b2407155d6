"""Scores of people that a classifier did not learn from, while it is trained and when it is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gen3d.models.supervised.classifier import Classifier
from gen3d.models.supervised.losses import label_loss, label_weights
from gen3d.train.batches import BatchSource


@dataclass(frozen=True)
class Scorer:
    """Scores scans by their row, in the middle of the grid and without augmentation, a few at a time.

    `last` is the stage whose features the source holds, "" where it holds volumes.
    """

    source: BatchSource
    last: str = ""
    at_once: int = 1

    @torch.no_grad()
    def scores(self, model: Classifier, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores of these rows, float32 arithmetic, [n, num_scores]."""
        was_training = model.training
        model.eval()
        parts = [self._scores(model, rows[i : i + self.at_once]) for i in range(0, len(rows), self.at_once)]
        model.train(was_training)
        return np.concatenate(parts) if parts else np.zeros((0, 1))

    def _scores(self, model: Classifier, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        device = model.brain_mask.device
        values = torch.from_numpy(self.source.load(rows)).to(device)
        conditions = self.source.conditions(rows)
        ages = None if conditions is None else torch.from_numpy(conditions)[:, 0].to(device)
        scores = model.from_features(values, self.last, ages) if self.last else model(values, ages)
        return np.asarray(scores.float().cpu().numpy(), dtype=np.float64)

    def loss(self, module: nn.Module, rows: NDArray[np.int64], labels: NDArray[np.float64]) -> float:
        """Log loss of these rows with every class weighing the same (a proper score, which focal loss is not), or smooth L1
        of a standardised number; `labels` [n] are those of the rows."""
        assert isinstance(module, Classifier)
        scores = torch.from_numpy(self.scores(module, rows))
        known = torch.from_numpy(labels)
        if module.target.task == "number":
            centre, spread = module.centre.double().cpu(), module.spread.double().cpu()
            scores, known = (scores - centre) / spread, (known - centre) / spread
        return float(label_loss(scores, known, module.target, _weights(module, known), gamma=0.0))


def _weights(module: Classifier, labels: Tensor) -> Tensor:
    return label_weights(module.target, labels)
