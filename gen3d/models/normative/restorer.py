"""`kind: restorer`: a U-Net that takes synthetic anomalies out of healthy volumes; the expectation is what it restores."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Expectation, Model, Statistics
from gen3d.models.normative import losses
from gen3d.models.normative.corruption import CorruptionConfig, corrupt
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.padding import Padding
from gen3d.nets.precision import without_autocast
from gen3d.nets.unet import UNet

NUM_GROUPS = 8
SMALLEST_SIDE = 3
"""Of the coarsest level: see gen3d.models.normative.vae on narrow grids and bfloat16."""


class RestorerConfig(BaseModelConfig):
    """Restoration network: healthy volumes with synthetic anomalies in, the healthy volumes out. No latent space."""

    kind: Literal["restorer"] = Field("restorer", description="restoration network")
    base_channels: int = Field(
        32, gt=0, multiple_of=NUM_GROUPS, description="width of the first level; a multiple of 8"
    )
    max_channels: int = Field(64, gt=0, multiple_of=NUM_GROUPS, description="widths double per level up to this")
    levels: int = Field(3, ge=2, le=6, description="resolutions; each is half the one before")
    stem: Literal[1, 2] = Field(
        2, description="2: fold 2 x 2 x 2 voxels into channels first (fast); 1: full resolution"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory")
    reconstruction: Literal["l1", "l2"] = Field(
        "l2",
        description="l2: the mean of what could be there, so that doubt shows in part; l1: the median, all or nothing",
    )
    corruption: CorruptionConfig = Field(default_factory=CorruptionConfig, description="the synthetic anomalies")

    @model_validator(mode="after")
    def _consistent(self) -> RestorerConfig:
        if self.max_channels < self.base_channels:
            raise ValueError("max_channels must be at least base_channels")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(min(self.base_channels * 2**level, self.max_channels) for level in range(self.levels))

    @property
    def variance_floor(self) -> float:
        """The network changes little in most healthy voxels and much in few: an SD per voxel, from tens of controls, would
        turn every small change into a large z."""
        return 2.0

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Refuse a grid that the network would shrink too far."""
        reduction = self.stem * 2 ** (self.levels - 1)
        if -(-min(plan.shape) // reduction) < SMALLEST_SIDE:
            raise UserError(
                f"model.levels={self.levels} with stem={self.stem} shrinks every side {reduction} times, too much for "
                f"a grid of {plan.shape}; lower model.levels or prepare with a smaller spacing_mm."
            )

    def build(self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int) -> Restorer:
        """The untrained network for this grid and these channels."""
        return Restorer(self, plan, channels, statistics)


class Restorer(Model):
    """expectation = x + network(x, mean volume): what the network would change.

    The mean training volume is a second input, so that the network knows where in the brain it is. Its last
    convolution starts at zero: an untrained network expects the scan itself.
    """

    has_latent = False
    mean_volume: Tensor

    def __init__(
        self, config: RestorerConfig, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics
    ) -> None:
        super().__init__(statistics)
        self.channels = channels
        self.voxel_ml = plan.spacing_mm**3 / 1000
        num_channels = len(channels)
        self.network = UNet(
            2 * num_channels, num_channels, config.widths, NUM_GROUPS, config.stem, config.gradient_checkpointing
        )
        self.network.start_at_zero()
        self.padding = Padding(plan.shape, self.network.reduction)
        self.register_buffer("mean_volume", torch.zeros(self.volume_shape))
        if statistics.mean_volume is not None:
            self.mean_volume.copy_(self.normalise(torch.as_tensor(statistics.mean_volume)[None])[0])

    def restore(self, normalised: Tensor) -> Tensor:
        """Standardised volumes [B, C, X, Y, Z] -> what they would be if healthy."""
        mean = self.mean_volume.expand_as(normalised)
        change = self.network(self.padding.pad(torch.cat([normalised - mean, mean], dim=1)))
        return normalised + self.padding.crop(change).float()

    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        return Expectation(self.denormalise(self.restore(self.normalise(volumes))), None)


class RestorerTask(Task):
    """loss = error of the restored volume over the brain + weight x the same inside the anomalies."""

    def __init__(self, model: Restorer, config: RestorerConfig, num_steps: int) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def repeated_blocks(self) -> list[nn.Module]:
        return self.model.network.blocks()

    def weights(self, player: str) -> nn.Module:
        return self.model

    def forward(self, batch: Batch, player: str) -> Losses:
        model, corruption = self.model, self.config.corruption
        corrupted, opacity = corrupt(batch, model.brain_mask, model.channels, model.voxel_ml, corruption)
        target, damaged = model.normalise(batch.volumes), model.normalise(corrupted)
        restored = model.restore(damaged)
        batch.shared["reconstruction"] = restored.detach()
        with without_autocast(target.device):
            kind = self.config.reconstruction
            error = losses.reconstruction_loss(restored, target, model.brain_mask, kind)
            inside, damage = (_inside(values, target, opacity, kind) for values in (restored, damaged))
            loss = error + corruption.weight * inside
        return {"loss": loss, "reconstruction": error.detach(), "inside": inside.detach(), "damage": damage.detach()}


def _inside(values: Tensor, target: Tensor, opacity: Tensor, kind: str) -> Tensor:
    """Mean error weighted by the anomalies' opacity; 0 where a batch has none."""
    weight = opacity.expand_as(target)
    difference = values.float() - target
    error = difference.abs() if kind == "l1" else 0.5 * difference.square()
    return (error * weight).sum() / weight.sum().clamp(min=1.0)
