"""What models in the latent space of a frozen autoencoder share: the network's size, the scale of latents, decoding."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from gen3d.cohort.coding import Categorical, Coding
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.registry import read_config
from gen3d.nets.denoiser import Denoiser

NUM_GROUPS = 8
SMALLEST_SIDE = 3
"""Of the coarsest level: see gen3d.models.normative.vae on narrow grids and bfloat16."""

AutoencoderConfig = Annotated[SerializeAsAny[BaseModelConfig], BeforeValidator(read_config)]
"""Settings of any kind of model: which of them has latents to learn in is for its run to say."""

WRITTEN_BY_TRAIN = ("autoencoder", "coding", "latent_shape")


class InLatentsConfig(BaseModelConfig):
    """The network of a model in latents, and what `train` finds out about them."""

    condition_dropout: float = Field(
        0.1, ge=0, le=1, description="share of training volumes that forget all conditions, and of single conditions"
    )
    around_mean: bool = Field(
        True,
        description="learn deviations from the mean latent, so that the network need not learn where in the brain it is",
    )
    base_channels: int = Field(64, gt=0, multiple_of=NUM_GROUPS, description="width of the first level")
    max_channels: int = Field(128, gt=0, multiple_of=NUM_GROUPS, description="widths double per level up to this")
    levels: int = Field(2, ge=1, le=5, description="resolutions of the U-Net; each is half the one before")
    res_blocks: int = Field(1, ge=1, le=64, description="residual blocks per level")
    attention_levels: int = Field(1, ge=0, description="coarsest levels with attention")
    head_channels: int = Field(32, gt=0, description="channels per attention head")
    cross_attention: bool = Field(False, description="let attention look at the conditions too")
    gradient_checkpointing: Literal[False] = Field(False, description="not offered: latents are small")
    autoencoder: AutoencoderConfig | None = Field(
        None, description="the autoencoder's settings; written by train, never given"
    )
    coding: dict[str, Any] | None = Field(None, description="the conditions' coding; written by train, never given")
    latent_shape: tuple[int, int, int, int] | None = Field(
        None, description="channels and sides of a latent; written by train, never given"
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(min(self.base_channels * 2**level, self.max_channels) for level in range(self.levels))

    @property
    def coded(self) -> Coding:
        """The conditions' coding, once train has fitted it."""
        return Coding.from_dict(self.coding or {})

    def check_network(self, conditions: tuple[str, ...]) -> None:
        """Raise a ValueError where sizes do not go together, or a condition is named twice."""
        if self.max_channels < self.base_channels:
            raise ValueError("max_channels must be at least base_channels")
        if self.base_channels < 2 * NUM_GROUPS:
            # Times and conditions shift whole channels; a group of one channel takes every shift out again.
            raise ValueError(
                f"base_channels={self.base_channels} would normalise every channel on its own, and with it times and conditions "
                f"away; use {2 * NUM_GROUPS} or more"
            )
        if len(set(conditions)) < len(conditions):
            raise ValueError(f"a condition is named twice in {list(conditions)}")
        for width in self.widths:
            if self.attention_levels and width % self.head_channels:
                raise ValueError(f"head_channels={self.head_channels} does not divide a width of {width}")

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Refuse latents that the network would shrink too far."""
        smallest = min(cast(tuple[int, ...], self.latent_shape)[1:])
        if -(-smallest // 2 ** (self.levels - 1)) < SMALLEST_SIDE:
            raise UserError(
                f"model.levels={self.levels} is too many for latents of {self.latent_shape}; lower it, or train the "
                "autoencoder with fewer levels."
            )

    def built_denoiser(self, num_codes: list[int], further_channels: int = 0) -> Denoiser:
        """The network, with an entry of `num_codes` per condition and `further_channels` next to those of a latent."""
        num_channels, *shape = cast(tuple[int, ...], self.latent_shape)
        return Denoiser(
            shape,
            num_channels,
            num_codes,
            self.widths,
            [self.levels - level <= self.attention_levels for level in range(self.levels)],
            self.res_blocks,
            self.head_channels,
            NUM_GROUPS,
            self.cross_attention,
            further_channels,
        )

    def built_autoencoder(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> Model:
        """The autoencoder without its weights."""
        return cast(BaseModelConfig, self.autoencoder).build(plan, channels, statistics, num_covariates)


def num_codes(coding: Coding) -> list[int]:
    """How many codes each condition has, 0 for a number: what the network embeds them by."""
    return [len(c.codes) if isinstance(c, Categorical) else 0 for c in coding.covariates]


class InLatents(Model):
    """A frozen autoencoder, and the scale of its latents.

    The latents' mean and standard deviation per channel over all training scans are buffers, `latent_mean` and `latent_std`,
    and with `around_mean` also what the mean latent adds to that in every place, `mean_latent`.
    """

    uses_covariates = True
    latent_mean: Tensor
    latent_std: Tensor
    mean_latent: Tensor

    def __init__(self, config: InLatentsConfig, autoencoder: Model, statistics: Statistics) -> None:
        super().__init__(statistics)
        self.coding, self.around_mean = config.coded, config.around_mean
        self.latent_shape = cast(tuple[int, int, int, int], config.latent_shape)
        self.autoencoder = autoencoder.requires_grad_(False)
        self.register_buffer("latent_mean", torch.zeros(self.latent_shape[0]))
        self.register_buffer("latent_std", torch.ones(self.latent_shape[0]))
        self.register_buffer("mean_latent", torch.zeros(self.latent_shape))

    def standardise(self, latents: Tensor) -> Tensor:
        """Latents [B, C, ...] -> zero mean and unit variance per channel over the training scans."""
        return (latents - self._centre) / self.latent_std.view(-1, 1, 1, 1)

    def unstandardise(self, latents: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return latents * self.latent_std.view(-1, 1, 1, 1) + self._centre

    @property
    def _centre(self) -> Tensor:
        return self.latent_mean.view(-1, 1, 1, 1) + self.mean_latent

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, *latent_shape] -> volumes [B, C, X, Y, Z] in stored units, zero outside the mask."""
        decoded: Tensor = self.autoencoder.denormalise(cast(Any, self.autoencoder).decode(latents))
        return decoded

    def _encode(self, volumes: Tensor, covariates: Tensor | None) -> Tensor:
        return self.autoencoder.encode(volumes)
