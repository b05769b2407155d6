"""A model that gen3d does not know: all that one needs, in one file, to show that it takes no more than that."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Expectation, Model, Statistics
from gen3d.models.task import Batch, Losses, Task


class SmootherConfig(BaseModelConfig):
    """A linear autoencoder whose latent has half the resolution."""

    kind: Literal["smoother"] = Field("smoother", description="linear autoencoder of half the resolution")
    width: int = Field(2, gt=0, description="channels of the latent")

    @property
    def form(self) -> str:
        return f"{self.width} channels"

    def build(self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int) -> Smoother:
        return Smoother(self.width, statistics)


class Smoother(Model):
    """Two convolutions of stride 2."""

    def __init__(self, width: int, statistics: Statistics) -> None:
        super().__init__(statistics)
        num_channels = len(statistics.channel_mean)
        self.encoder = nn.Conv3d(num_channels, width, 2, stride=2)
        self.decoder = nn.ConvTranspose3d(width, num_channels, 2, stride=2)

    def decode(self, latents: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(latents)
        return decoded

    def _encode(self, volumes: Tensor, covariates: Tensor | None) -> Tensor:
        latents: Tensor = self.encoder(self.normalise(volumes))
        return latents

    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        return Expectation(self.denormalise(self.decode(self._encode(volumes, covariates))), None)


class SmootherTask(Task):
    """loss = squared error of the standardised volume."""

    def __init__(self, model: Smoother, config: SmootherConfig, num_steps: int) -> None:
        super().__init__()
        self.model = model

    def weights(self, player: str) -> nn.Module:
        return self.model

    def forward(self, batch: Batch, player: str) -> Losses:
        target = self.model.normalise(batch.volumes)
        return {"loss": (self.model.decode(self.model.encoder(target)) - target).float().square().mean()}
