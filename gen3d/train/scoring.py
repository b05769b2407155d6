"""Scores of people that a classifier did not learn from, while it is trained and when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gen3d.cohort.target import Target
from gen3d.models.supervised.classifier import Classifier
from gen3d.models.supervised.losses import label_loss, label_weights
from gen3d.nets.classifiers.base import StagedNetwork, recalibrate
from gen3d.train.batches import BatchSource

MOST_BATCHES = 32
"""Batches over which the statistics of batch normalisations are taken."""


def norms_of(network: StagedNetwork, stages: Sequence[str]) -> list[_BatchNorm]:
    """The batch normalisations of some stages."""
    modules = [module for name in stages for module in network.stages[name].modules()]
    return [module for module in modules if isinstance(module, _BatchNorm) and module.track_running_stats]


@dataclass(frozen=True)
class RowScorer:
    """Scores scans by their row, in the middle of the grid and without augmentation, a few at a time.

    `last` is the stage whose features the source holds, "" where it holds volumes. `batch_size` volumes are taken at once
    where batches are normalised, and one otherwise.
    """

    source: BatchSource
    last: str
    batch_size: int

    at_once: ClassVar[int] = 1

    @torch.no_grad()
    def scores(self, model: Classifier, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores of these rows, float32 arithmetic, [n, num_scores]."""
        was_training = model.training
        model.eval()
        parts = [self._scores(model, rows[i : i + 1]) for i in range(len(rows))]
        model.train(was_training)
        return np.concatenate(parts) if parts else np.zeros((0, 1))

    @torch.no_grad()
    def settle(self, module: nn.Module, rows: NDArray[np.int64]) -> None:
        """Give batch normalisations that are trained the mean and variance of training scans under the weights as they are.

        Those that running averages hold belong to other weights than the averaged ones, to a few recent batches, and to one
        process of several (Wu and Johnson 2021, "precise" statistics).
        """
        assert isinstance(module, Classifier)
        network = module.network
        norms = norms_of(network, [name for name in network.stage_names if name not in network.frozen])
        if not norms:
            return
        was_training, momentum = module.training, [norm.momentum for norm in norms]
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        for part in self._spaced(rows):
            self._scores(module, part)
        for norm, usual in zip(norms, momentum, strict=True):
            norm.momentum = usual
        module.train(was_training)

    @torch.no_grad()
    def settle_trunk(self, model: Classifier, last: str, rows: NDArray[np.int64]) -> None:
        """The same for stages up to `last` of random weights that are to be frozen; the source holds volumes."""
        network, device = model.network, model.brain_mask.device
        trunk = nn.Sequential(*[network.stages[name] for name in network.upto(last)])
        views = (model.view(torch.from_numpy(self.source.load(part)).to(device)) for part in self._spaced(rows))
        recalibrate(trunk, views)

    def _spaced(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Batches of rows from all over them, [batches, size], the same every time."""
        size = min(self.batch_size, len(rows))
        num = min(MOST_BATCHES, len(rows) // size)
        spaced = rows[np.linspace(0, len(rows) - 1, num * size).round().astype(np.int64)]
        return np.random.default_rng(0).permutation(spaced).reshape(num, size)

    def _scores(self, model: Classifier, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        device = model.brain_mask.device
        values = torch.from_numpy(self.source.load(rows)).to(device)
        conditions = self.source.conditions(rows)
        ages = None if conditions is None else torch.from_numpy(conditions)[:, 0].to(device)
        scores = model.from_features(values, self.last, ages) if self.last else model(values, ages)
        return np.asarray(scores.float().cpu().numpy(), dtype=np.float64)

    def loss(self, module: nn.Module, rows: NDArray[np.int64], labels: NDArray[np.float64]) -> float:
        """The `validation_loss` of these rows; `labels` [n] are those of the rows."""
        assert isinstance(module, Classifier)
        return validation_loss(self.scores(module, rows), labels, module)


class Labelling(Protocol):
    """What a loss of labels needs to know of a model."""

    target: Target
    centre: Tensor
    spread: Tensor


def validation_loss(found: NDArray[np.float64], labels: NDArray[np.float64], model: Labelling) -> float:
    """Log loss of scores [n, scores] with every class weighing the same (a proper score, which focal loss is not), or smooth L1
    of a standardised number; `labels` [n]."""
    scores, known = torch.from_numpy(found), torch.from_numpy(labels)
    if model.target.task == "number":
        centre, spread = model.centre.double().cpu(), model.spread.double().cpu()
        scores, known = (scores - centre) / spread, (known - centre) / spread
    return float(label_loss(scores, known, model.target, label_weights(model.target, known), gamma=0.0))
