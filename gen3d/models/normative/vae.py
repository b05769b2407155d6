"""`kind: vae`: a normative variational autoencoder with a dense or a spatial latent."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Statistics
from gen3d.models.normative.variational import VariationalModel
from gen3d.nets.autoencoder import (
    LOG_VARIANCE_RANGE,
    Architecture,
    Autoencoder,
    DenseAutoencoder,
    SpatialAutoencoder,
)
from gen3d.nets.padding import Padding
from gen3d.nets.perceptual import ResNetName, check_weights

NUM_GROUPS = 8
SMALLEST_LATENT_SIDE = 3
SMALLEST_CRITIC_SIDE = 4
# A 3D convolution whose input is one voxel narrower than its kernel gives wrong bfloat16 weight gradients on CPUs
# (torch 2.13, oneDNN: it reads memory that was never written), so no 3-voxel kernel may meet 2 voxels, and none of the
# critic's 4-voxel kernels 3.


class VAEConfig(BaseModelConfig):
    """Variational autoencoder: reconstruction + beta x KL, with optional SSIM, perceptual and adversarial terms."""

    kind: Literal["vae"] = Field("vae", description="variational autoencoder")
    latent: Literal["dense", "spatial"] = Field("dense", description="one vector per volume, or a small volume")
    latent_size: int = Field(96, gt=0, description="numbers per volume (dense)")
    latent_channels: int = Field(4, gt=0, description="channels of the latent volume (spatial)")
    bottleneck_channels: int = Field(8, gt=0, description="channels of the map before the vector (dense)")
    base_channels: int = Field(
        32, gt=0, multiple_of=NUM_GROUPS, description="width of the first level; a multiple of 8"
    )
    max_channels: int = Field(64, gt=0, multiple_of=NUM_GROUPS, description="widths double per level up to this")
    levels: int = Field(3, ge=1, le=6, description="resolutions; each is half the one before")
    res_blocks: int = Field(1, ge=1, le=64, description="residual blocks per level")
    stem: Literal[1, 2] = Field(
        2, description="2: fold 2 x 2 x 2 voxels into channels first (fast); 1: full resolution"
    )
    upsampling: Literal["nearest", "transposed"] = Field(
        "nearest", description="decoder: repeat voxels and convolve, or transposed convolution (a third faster)"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory")
    reconstruction: Literal["l1", "l2"] = Field(
        "l1", description="Laplace (l1) or Gaussian (l2) likelihood, unit scale"
    )
    beta: float = Field(1.0, ge=0, description="weight of the KL term; 1 with unit scale is the evidence lower bound")
    beta_warmup: float = Field(0.33, ge=0, le=1, description="share of the steps over which beta rises from 0")
    free_bits: float = Field(0.0, ge=0, description="nats per latent element below which KL costs nothing more")
    ssim_weight: float = Field(0.0, ge=0, description="weight of 1 - SSIM")
    perceptual_weight: float = Field(0.0, ge=0, description="weight of the perceptual distance")
    perceptual_network: ResNetName = Field("resnet10", description="MedicalNet network of the perceptual distance")
    perceptual_weights: Path | None = Field(None, description="file with that network's weights; never downloaded")
    adversarial_weight: float = Field(0.0, ge=0, description="weight of the patch-adversarial term; 0: no critic")
    adversarial_start: float = Field(0.3, ge=0, lt=1, description="share of the steps before the critic joins")
    critic_channels: int = Field(32, gt=0, description="width of the critic's first layer")
    critic_layers: int = Field(2, ge=1, le=8, description="layers of the critic after the first")

    @model_validator(mode="after")
    def _complete(self) -> VAEConfig:
        if self.perceptual_weight > 0 and self.perceptual_weights is None:
            raise ValueError("perceptual_weight > 0 needs perceptual_weights=FILE (weights are never downloaded)")
        if self.max_channels < self.base_channels:
            raise ValueError("max_channels must be at least base_channels")
        return self

    @property
    def form(self) -> str:
        if self.latent == "dense":
            return f"dense latent, {self.latent_size} numbers"
        return f"spatial latent, {self.latent_channels} latent channels"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(min(self.base_channels * 2**level, self.max_channels) for level in range(self.levels))

    def architecture(self, num_channels: int) -> Architecture:
        """The sizes that the network is built from."""
        return Architecture(
            num_channels=num_channels,
            widths=self.widths,
            num_res_blocks=self.res_blocks,
            num_groups=NUM_GROUPS,
            stem=self.stem,
            gradient_checkpointing=self.gradient_checkpointing,
            transposed=self.upsampling == "transposed",
        )

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Refuse a grid that the network or its critic would shrink too far, and perceptual weights not there."""
        reduction = self.architecture(1).reduction
        if -(-min(plan.shape) // reduction) < SMALLEST_LATENT_SIDE:
            raise UserError(
                f"model.levels={self.levels} with stem={self.stem} shrinks every side {reduction} times, too much for "
                f"a grid of {plan.shape}; lower model.levels or prepare with a smaller spacing_mm."
            )
        if self.adversarial_weight > 0 and min(plan.shape) // 2**self.critic_layers - 1 < SMALLEST_CRITIC_SIDE:
            raise UserError(
                f"model.critic_layers={self.critic_layers} is too many for a grid of {plan.shape}; lower it."
            )
        if self.perceptual_weight > 0:
            check_weights(cast(Path, self.perceptual_weights))

    def build(self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int) -> VAE:
        """The untrained VAE for this grid and these channels."""
        return VAE(self, plan.shape, len(channels), statistics)


class VAE(VariationalModel):
    """An autoencoder of deviations from the mean training volume: padding, network, cropping and units in one module.

    The network sees and returns standardised volumes minus the standardised mean volume, and its last convolution
    starts at zero: an untrained VAE expects the mean volume, and training improves on that.
    """

    mean_volume: Tensor

    def __init__(self, config: VAEConfig, shape: tuple[int, ...], num_channels: int, statistics: Statistics) -> None:
        super().__init__(statistics)
        architecture = config.architecture(num_channels)
        self.padding = Padding(shape, architecture.reduction)
        self.network: Autoencoder
        if config.latent == "dense":
            self.network = DenseAutoencoder(
                architecture, self.padding.padded_shape, config.latent_size, config.bottleneck_channels
            )
        else:
            self.network = SpatialAutoencoder(architecture, config.latent_channels)
        self.network.start_at_zero()
        self.register_buffer("mean_volume", torch.zeros(self.volume_shape))
        if statistics.mean_volume is not None:
            self.mean_volume.copy_(self.normalise(torch.as_tensor(statistics.mean_volume)[None])[0])

    def posterior(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clamped log variance [B, *latent], float32, of standardised volumes [B, C, X, Y, Z]."""
        mean, log_variance = self.network.encode(self.padding.pad(normalised - self.mean_volume))
        return mean.float(), log_variance.float().clamp(*LOG_VARIANCE_RANGE)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, *latent] -> standardised volumes [B, C, X, Y, Z]."""
        return self.padding.crop(self.network.decode(latents)).float() + self.mean_volume
