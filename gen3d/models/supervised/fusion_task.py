"""What a network on genetics and images optimises: the loss of both together, and of each alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gen3d.models.supervised.classifier import EXACT_ON_CPU
from gen3d.models.supervised.classifier_task import settled_random_numbers
from gen3d.models.supervised.fusion import Fusion, FusionConfig
from gen3d.models.supervised.losses import label_loss, people_weights
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.precision import without_autocast

MODALITY_NOISE = 14
"""Stream number of the modalities that are taken away (see `Batch.noise`)."""


class FusionTask(Task):
    """loss = L(both) + auxiliary (L(genetics) + L(images)), each L weighted by people as of a classifier.

    `batch.volumes` [B, G + R] are columns in their own units. Of `modality_dropout` of the people who have both modalities one is
    taken away, either with the same chance (modality dropout: Neverova et al. 2016). Separate encoders are trained for their own
    losses alone in the first share of the steps, and stay as they are in the rest.
    """

    exact_on_cpu = EXACT_ON_CPU

    def __init__(self, model: Fusion, config: FusionConfig, num_steps: int) -> None:
        super().__init__()
        self.model, self.config, self.target = model, config, model.target
        self.fused_from = fused_from(config, num_steps)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.model.num_columns,)

    def weights(self, player: str) -> nn.Module:
        return self.model

    def slow_weights(self) -> list[nn.Parameter]:
        if self.config.encoders == "joint":
            return []
        return [weights for encoder in self.model.network.encoders for weights in encoder.parameters()]

    def slow_share(self, step: int) -> float:
        return 1.0 if step < self.fused_from else 0.0

    def forward(self, batch: Batch, player: str) -> Losses:
        separate = self.config.encoders == "separate"
        fused = not separate or batch.step >= self.fused_from
        if separate and fused:
            for encoder in self.model.network.encoders:
                encoder.eval()
        with settled_random_numbers(batch):
            sides = self.model.sides(batch.volumes, self._taken(batch))
            scores = self.model.network(*sides, frozen=separate and fused)
        labels = batch.labels if batch.labels is not None else torch.zeros(len(batch.volumes)).to(batch.volumes)
        with without_autocast(batch.volumes.device):
            both, genetic, image = (
                self._loss(part.float(), labels) for part in (scores.both, scores.genetic, scores.image)
            )
            # What does not count is multiplied by 0, so that every weight has a gradient in every process.
            joint, alone = float(fused), self.config.auxiliary * (not separate) + float(not fused)
            return {
                "loss": joint * both + alone * (genetic + image),
                "both": both,
                "genetics": genetic,
                "images": image,
            }

    def _taken(self, batch: Batch) -> Tensor | None:
        """Whether genetics or images are taken from a person, [B, 2]."""
        share = self.config.modality_dropout
        if share == 0 or batch.volumes.is_meta:
            return None
        chance = 0.5 * (1 + torch.erf(batch.noise((2,), MODALITY_NOISE) / math.sqrt(2)))
        taken, first = chance[:, 0] < share, chance[:, 1] < 0.5
        return torch.stack([taken & first, taken & ~first], dim=1)

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        model = self.model
        if self.target.task == "number":
            return label_loss(scores, (labels - model.centre) / model.spread, self.target, scores, 0.0)
        weights = people_weights(model.class_people)
        weights = weights if self.config.imbalance == "people" else torch.ones_like(weights)
        return label_loss(scores, labels, self.target, weights, 0.0)


def fused_from(config: FusionConfig, num_steps: int) -> int:
    """The step from which on the fusion is trained."""
    return 0 if config.encoders == "joint" else math.ceil(config.encoder_share * num_steps)
