"""`kind: autoencoder_kl`: MONAI's AutoencoderKL with weights from elsewhere, opened by `gen3d import-weights`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Statistics
from gen3d.models.normative.variational import VariationalModel
from gen3d.nets.imported.monai_networks import AutoencoderArguments, Upsampling
from gen3d.nets.padding import Padding

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""MONAI's own clamp."""


class AutoencoderKLConfig(BaseModelConfig):
    """MONAI's AutoencoderKL (Rombach et al. 2022; Pinaya et al. 2022), trained elsewhere. Levels are named finest first."""

    kind: Literal["autoencoder_kl"] = Field("autoencoder_kl", description="MONAI's AutoencoderKL, imported weights")
    channels: tuple[int, ...] = Field((32, 64, 64, 64), min_length=1, description="width of each level")
    num_res_blocks: tuple[Annotated[int, Field(ge=0, le=64)], ...] = Field(
        (2, 2, 2, 2), description="residual blocks of each level"
    )
    attention_levels: tuple[bool, ...] = Field((False, False, True, True), description="levels with attention")
    latent_channels: int = Field(3, gt=0, description="channels of the latent volume")
    norm_num_groups: int = Field(32, gt=0, description="groups of the group normalisation")
    norm_eps: float = Field(1e-6, gt=0, description="epsilon of the group normalisation")
    with_encoder_nonlocal_attn: bool = Field(True, description="attention at the end of the encoder")
    with_decoder_nonlocal_attn: bool = Field(True, description="attention at the start of the decoder")
    include_fc: bool = Field(True, description="attention ends with a linear layer; false for monai-generative")
    use_combined_linear: bool = Field(False, description="query, key and value in one linear layer")
    upsampling: Upsampling = Field(
        "nearest", description="decoder: repeat and convolve, or transposed convolution of 2 or (old) 3 voxels"
    )
    latent_divisible_by: int = Field(
        1, gt=0, description="latents are padded with zeros to sides that are multiples of this, as their U-Net needs"
    )

    @model_validator(mode="after")
    def _consistent(self) -> AutoencoderKLConfig:
        if not len(self.channels) == len(self.num_res_blocks) == len(self.attention_levels):
            raise ValueError(
                f"channels, num_res_blocks and attention_levels describe {len(self.channels)}, "
                f"{len(self.num_res_blocks)} and {len(self.attention_levels)} levels"
            )
        unfit = [width for width in self.channels if width % self.norm_num_groups]
        if unfit:
            raise ValueError(f"norm_num_groups={self.norm_num_groups} does not divide a level of {unfit[0]} channels")
        return self

    @property
    def reduction(self) -> int:
        """How many times smaller every side of a latent is."""
        return 2 ** (len(self.channels) - 1)

    def arguments(self, num_channels: int) -> AutoencoderArguments:
        """The network's arguments for volumes of so many channels."""
        return AutoencoderArguments(
            num_channels=num_channels, **self.model_dump(exclude={"kind", "latent_divisible_by"})
        )

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Refuse training."""
        raise _not_trained()

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> MonaiAutoencoder:
        """The network with random weights."""
        return MonaiAutoencoder(self, plan.shape, statistics)


class MonaiAutoencoder(VariationalModel):
    """MONAI's AutoencoderKL on any grid: volumes are padded before it, latents after it, and both are cropped on the way back.

    `channel_mean` and `channel_std` are the stored values that the network calls 0 and 1 more than 0.
    """

    def __init__(self, config: AutoencoderKLConfig, shape: tuple[int, ...], statistics: Statistics) -> None:
        super().__init__(statistics)
        self.config = config
        self.padding = Padding(shape, config.reduction)
        self.network = config.arguments(len(statistics.channel_mean)).build()
        sides = [side // config.reduction for side in self.padding.padded_shape]
        self.latent_padding = Padding(sides, config.latent_divisible_by)
        self.latent_shape = (config.latent_channels, *self.latent_padding.padded_shape)

    def posterior(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clamped log variance [B, *latent_shape], float32, of standardised volumes [B, C, X, Y, Z]."""
        features = self.network.encoder(self.padding.pad(normalised))
        mean, log_variance = self.network.quant_conv_mu(features), self.network.quant_conv_log_sigma(features)
        clamped = log_variance.float().clamp(*LOG_VARIANCE_RANGE)
        return self.latent_padding.pad(mean.float()), self.latent_padding.pad(clamped)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, *latent_shape] -> standardised volumes [B, C, X, Y, Z]."""
        return self.padding.crop(self.network.decode(self.latent_padding.crop(latents))).float()


def _not_trained() -> UserError:
    return UserError(
        "model.kind=autoencoder_kl holds weights from elsewhere and is not trained by gen3d; open them with "
        "`gen3d import-weights`, or train with model.kind=vae."
    )
