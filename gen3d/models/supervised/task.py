"""What a supervised network optimises: the loss of the labels that it predicts."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from gen3d.cohort.target import Target
from gen3d.models.supervised.losses import label_loss, label_weights
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.precision import without_autocast


class SupervisedTask(Task):
    """loss = class-weighted focal loss of categories or ordered grades, or smooth L1 of a standardised number.

    The network maps `batch.volumes` [B, ...] to scores [B, num_scores(target)]; `batch.labels` [B] are what it learns.
    """

    class_weights: Tensor

    def __init__(self, network: nn.Module, target: Target, labels: Tensor, focal_gamma: float = 0.0) -> None:
        """`labels` are those of all training scans [n]: every class weighs the same among them."""
        super().__init__()
        self.network = network
        self.target = target
        self.focal_gamma = focal_gamma
        self.register_buffer("class_weights", label_weights(target, labels))

    def weights(self, player: str) -> nn.Module:
        return self.network

    def forward(self, batch: Batch, player: str) -> Losses:
        scores, labels = self.network(batch.volumes), cast(Tensor, batch.labels)
        with without_autocast(scores.device):
            return {"loss": label_loss(scores.float(), labels, self.target, self.class_weights, self.focal_gamma)}
