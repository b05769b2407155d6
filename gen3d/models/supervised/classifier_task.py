"""What a classifier optimises: the loss of the labels, in one phase or two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.models.supervised.classifier import EXACT_ON_CPU, Classifier, ClassifierConfig
from gen3d.models.supervised.losses import effective_weights, label_loss, people_weights
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.precision import without_autocast

VIEW_NOISE, DROPOUT = 11, 12
"""Stream numbers of the random displacement of views, and of a network's own random numbers (see `Batch.noise`)."""

WARM_UP = 0.05
"""Share of the steps over which the rate of the frozen stages rises once they are trained."""


class ClassifierTask(Task):
    """loss = focal loss of categories or ordered grades, weighted by people, or smooth L1 of a standardised number.

    Stages up to `frozen` keep their weights, and their normalisations stay in evaluation mode; after `unfreeze_after` they
    are trained too, at `trunk_rate` of the rate of the rest, and everything at `open_rate` of the rate before. `batch.labels`
    [B] are class numbers or values; `batch.conditions` [B, 1] are ages in years where the network takes them. Where the
    model's trunk is cached, `batch.volumes` are the features of the last frozen stage.
    """

    exact_on_cpu = EXACT_ON_CPU

    def __init__(self, model: Classifier, config: ClassifierConfig, num_steps: int) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.target = model.target
        frozen, share = config.frozen, config.unfreeze_after
        self.first_open = num_steps + 1 if share is None else math.ceil(share * num_steps)
        """The step from which on the frozen stages are trained."""
        self.num_rising = max(1, round(WARM_UP * num_steps))
        model.network.freeze(frozen)
        if share is not None:  # they belong to the optimiser from the beginning, with a rate of 0
            for weights in self.slow_weights():
                weights.requires_grad_(True)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.model.cached_shape or self.model.volume_shape

    def weights(self, player: str) -> nn.Module:
        return self.model

    def slow_weights(self) -> list[nn.Parameter]:
        if self.config.unfreeze_after is None:
            return []
        network = self.model.network
        return [weights for name in network.upto(self.config.frozen) for weights in network.stages[name].parameters()]

    def rate_share(self, step: int) -> float:
        return self.config.open_rate if step >= self.first_open else 1.0

    @torch.no_grad()
    def compute_once(self) -> None:
        model = self.model
        if model.cached_shape is not None:
            model.eval()
            model.network.features(model.view(torch.empty((1, *model.volume_shape), device="meta")), self.config.frozen)

    def slow_share(self, step: int) -> float:
        if step < self.first_open:
            return 0.0
        return self.config.trunk_rate * min(1.0, (step - self.first_open + 1) / self.num_rising)

    def forward(self, batch: Batch, player: str) -> Losses:
        with settled_random_numbers(batch):
            scores = self._scores(batch)
        labels = batch.labels if batch.labels is not None else torch.zeros(len(scores), device=scores.device)
        with without_autocast(scores.device):
            return {"loss": self._loss(scores.float(), labels)}

    def _scores(self, batch: Batch) -> Tensor:
        """Scores of a batch as they are trained: numbers standardised."""
        network, frozen, volumes = self.model.network, self.config.frozen, batch.volumes
        ages = self._ages(batch)
        if self.model.cached_shape is not None:
            return network.from_features(volumes, frozen, ages)
        view = self.model.view(volumes, self._offsets(batch))
        if not frozen:
            return network(view, ages)
        if batch.step >= self.first_open:
            network.freeze("")
            return network(view, ages)
        with torch.no_grad():
            features = network.features(view, frozen)
        return network.from_features(features, frozen, ages)

    def _ages(self, batch: Batch) -> Tensor | None:
        if not self.model.network.takes_age:
            return None
        return (
            batch.conditions[:, 0]
            if batch.conditions is not None
            else torch.zeros(len(batch.volumes)).to(batch.volumes)
        )

    def _offsets(self, batch: Batch) -> Tensor | None:
        """Whole voxels by which each view is moved, uniform from -shift to shift, [B, 3]."""
        shift = self.config.shift
        if shift == 0 or batch.volumes.is_meta:
            return None
        uniform = 0.5 * (1 + torch.erf(batch.noise((3,), VIEW_NOISE) / math.sqrt(2)))
        return torch.floor(uniform * (2 * shift + 1)).clamp(0, 2 * shift).long() - shift

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        model, config = self.model, self.config
        if self.target.task == "number":
            return label_loss(scores, (labels - model.centre) / model.spread, self.target, scores, 0.0)
        people, weights = model.class_people, torch.ones_like(model.class_people)
        if config.imbalance == "people":
            weights = people_weights(people)
        elif config.imbalance == "effective":
            weights = effective_weights(people, config.beta)
        elif config.imbalance == "adjusted":
            scores = scores + config.tau * torch.log(people.clamp(min=1.0) / people.sum())
        return label_loss(scores, labels, self.target, weights, config.focal_gamma)


@contextmanager
def settled_random_numbers(batch: Batch) -> Iterator[None]:
    """Within this context dropout draws what seed and step settle, so that a resumed training repeats it."""
    if batch.volumes.is_meta:
        yield
        return
    with torch.random.fork_rng(devices=[batch.volumes.device] if batch.volumes.is_cuda else []):
        torch.manual_seed(int(np.random.SeedSequence([*batch.seeds, DROPOUT]).generate_state(1, np.uint32)[0]))
        yield
