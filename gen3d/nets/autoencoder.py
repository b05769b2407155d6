"""Variational autoencoders of 3D volumes, built from the blocks of MONAI's AutoencoderKL.

`SpatialAutoencoder` keeps the latent as a small volume (Rombach et al. 2022; Pinaya et al. 2022);
`DenseAutoencoder` ends in one vector per volume (Kingma and Welling 2014). Both map
[B, C, X, Y, Z] -> mean and log variance -> [B, C, X, Y, Z] on a grid divisible by `Architecture.reduction`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from monai.networks.nets import AutoencoderKL
from monai.networks.nets.autoencoderkl import Decoder, Encoder
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gen3d.nets.doubling import convolution_of_doubling, double_and_convolve
from gen3d.nets.precision import without_autocast

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Bounds of the posterior's log variance (the convention of latent diffusion models)."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of an autoencoder.

    `stem` = 2 rearranges each 2 x 2 x 2 block of voxels into channels before the first convolution, which makes a
    training step several times cheaper than convolving at full resolution; 1 leaves the volume as it is.
    `transposed` doubles the decoder's maps by a transposed convolution instead of repeating voxels and convolving,
    which is about a third of a training step's arithmetic.
    """

    num_channels: int
    widths: tuple[int, ...]
    num_res_blocks: int
    num_groups: int
    stem: int
    gradient_checkpointing: bool
    transposed: bool = False

    @property
    def reduction(self) -> int:
        """Input voxels per latent voxel along a side."""
        return int(self.stem * 2 ** (len(self.widths) - 1))


def _monai_sizes(architecture: Architecture) -> dict[str, Any]:
    num_levels = len(architecture.widths)
    return {
        "spatial_dims": 3,
        "channels": architecture.widths,
        "num_res_blocks": (architecture.num_res_blocks,) * num_levels,
        "norm_num_groups": architecture.num_groups,
        "norm_eps": 1e-6,
        "attention_levels": (False,) * num_levels,
    }


class Autoencoder(nn.Module, ABC):
    """What both kinds share: the stem, checkpointed blocks, and posterior parameters in float32."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture

    @abstractmethod
    def encode(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, X, Y, Z] -> posterior mean and log variance, float32, each [B, *latent]; unclamped."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """[B, *latent] -> [B, C, X, Y, Z]."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The convolutional blocks of encoder and decoder, in order."""

    def start_at_zero(self) -> None:
        """Set the last convolution to zero, so that the untrained network decodes everything to zero."""
        last = self.blocks()[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def _into_stem(self, volumes: Tensor) -> Tensor:
        return pixelunshuffle(volumes, 3, self.architecture.stem) if self.architecture.stem > 1 else volumes

    def _out_of_stem(self, features: Tensor) -> Tensor:
        return pixelshuffle(features, 3, self.architecture.stem) if self.architecture.stem > 1 else features

    def _run(self, blocks: Iterable[nn.Module], features: Tensor) -> Tensor:
        """Apply blocks in turn; with checkpointing, only the borders between blocks are kept for the backward pass."""
        for block in blocks:
            convolution = convolution_of_doubling(block)
            if convolution is not None:
                # The doubled map is four times the arithmetic; nothing but the input is kept for the backward pass anyway.
                features = double_and_convolve(features, convolution.weight, convolution.bias)
            elif self.architecture.gradient_checkpointing and torch.is_grad_enabled():
                features = cast(Tensor, checkpoint(block, features, use_reentrant=False))
            else:
                features = block(features)
        return features


class SpatialAutoencoder(Autoencoder):
    """Latent [B, latent_channels, X/r, Y/r, Z/r]; the weights have the layout of MONAI's AutoencoderKL."""

    def __init__(self, architecture: Architecture, latent_channels: int) -> None:
        super().__init__(architecture)
        channels = architecture.num_channels * architecture.stem**3
        self.network = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            latent_channels=latent_channels,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
            use_convtranspose=architecture.transposed,
            **_monai_sizes(architecture),
        )

    def blocks(self) -> list[nn.Module]:
        return [*cast(Encoder, self.network.encoder).blocks, *cast(Decoder, self.network.decoder).blocks]

    def encode(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        encoder = cast(Encoder, self.network.encoder)
        features = self._run(encoder.blocks, self._into_stem(volumes))
        with without_autocast(features.device):
            features = features.float()
            return self.network.quant_conv_mu(features), self.network.quant_conv_log_sigma(features)

    def decode(self, latents: Tensor) -> Tensor:
        decoder = cast(Decoder, self.network.decoder)
        return self._out_of_stem(self._run(decoder.blocks, self.network.post_quant_conv(latents)))


class DenseAutoencoder(Autoencoder):
    """Latent [B, latent_size]: a linear layer between the smallest feature map and the vector, both ways."""

    def __init__(
        self, architecture: Architecture, padded_shape: tuple[int, ...], latent_size: int, bottleneck_channels: int
    ) -> None:
        super().__init__(architecture)
        channels = architecture.num_channels * architecture.stem**3
        sizes = {**_monai_sizes(architecture), "with_nonlocal_attn": False}
        self.encoder = Encoder(in_channels=channels, out_channels=bottleneck_channels, **sizes)
        self.decoder = Decoder(
            in_channels=bottleneck_channels, out_channels=channels, use_convtranspose=architecture.transposed, **sizes
        )
        self._map_shape = (bottleneck_channels, *(side // architecture.reduction for side in padded_shape))
        num_features = int(torch.Size(self._map_shape).numel())
        self.to_mean = nn.Linear(num_features, latent_size)
        self.to_log_variance = nn.Linear(num_features, latent_size)
        self.from_latent = nn.Linear(latent_size, num_features)

    def blocks(self) -> list[nn.Module]:
        return [*self.encoder.blocks, *self.decoder.blocks]

    def encode(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        features = self._run(self.encoder.blocks, self._into_stem(volumes))
        with without_autocast(features.device):
            flat = features.float().flatten(1)
            return self.to_mean(flat), self.to_log_variance(flat)

    def decode(self, latents: Tensor) -> Tensor:
        features = self.from_latent(latents).unflatten(1, self._map_shape)
        return self._out_of_stem(self._run(self.decoder.blocks, features))
