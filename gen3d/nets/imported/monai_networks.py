"""MONAI's AutoencoderKL and DiffusionModelUNet with the arguments of a saved one, and layers that only the old package had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import Tensor, nn

Upsampling = Literal["nearest", "transposed", "transposed_old"]


@dataclass(frozen=True)
class AutoencoderArguments:
    """Arguments of MONAI's AutoencoderKL, one entry of a tuple per level, finest first.

    `upsampling`: `nearest` repeats voxels and convolves, `transposed` is MONAI's transposed convolution of 2 voxels, and
    `transposed_old` that of monai-generative, of 3 voxels, which MONAI's own class cannot express.
    """

    num_channels: int
    channels: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    latent_channels: int
    with_encoder_nonlocal_attn: bool
    with_decoder_nonlocal_attn: bool
    include_fc: bool
    use_combined_linear: bool
    upsampling: Upsampling
    norm_num_groups: int
    norm_eps: float

    def build(self) -> AutoencoderKL:
        """The network with random weights; sides of its input are multiples of 2^(levels - 1)."""
        network = AutoencoderKL(
            spatial_dims=3,
            in_channels=self.num_channels,
            out_channels=self.num_channels,
            num_res_blocks=self.num_res_blocks,
            channels=self.channels,
            attention_levels=self.attention_levels,
            latent_channels=self.latent_channels,
            norm_num_groups=self.norm_num_groups,
            norm_eps=self.norm_eps,
            with_encoder_nonlocal_attn=self.with_encoder_nonlocal_attn,
            with_decoder_nonlocal_attn=self.with_decoder_nonlocal_attn,
            use_convtranspose=self.upsampling != "nearest",
            include_fc=self.include_fc,
            use_combined_linear=self.use_combined_linear,
        )
        if self.upsampling == "transposed_old":
            blocks = cast(nn.ModuleList, network.decoder.blocks)
            for place, block in enumerate(blocks):
                if hasattr(block, "deconv"):
                    blocks[place] = TransposedOfThree(cast(nn.ConvTranspose3d, block.deconv).in_channels)
        return network


class TransposedOfThree(nn.Module):
    """Doubling of every side by a transposed convolution of 3 voxels, as in monai-generative's AutoencoderKL."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.conv = Convolution(
            spatial_dims=3,
            in_channels=num_channels,
            out_channels=num_channels,
            strides=2,
            kernel_size=3,
            padding=1,
            conv_only=True,
            is_transposed=True,
        )

    def forward(self, volumes: Tensor) -> Tensor:
        doubled: Tensor = self.conv(volumes)
        return doubled


@dataclass(frozen=True)
class UNetArguments:
    """Arguments of MONAI's DiffusionModelUNet, one entry of a tuple per level, finest first."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    num_head_channels: tuple[int, ...]
    resblock_updown: bool
    cross_attention_dim: int | None
    transformer_num_layers: int
    include_fc: bool
    use_combined_linear: bool
    upcast_attention: bool
    norm_num_groups: int
    norm_eps: float

    def build(self) -> DiffusionModelUNet:
        """The network with random weights."""
        return DiffusionModelUNet(
            spatial_dims=3,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            num_res_blocks=self.num_res_blocks,
            channels=self.channels,
            attention_levels=self.attention_levels,
            norm_num_groups=self.norm_num_groups,
            norm_eps=self.norm_eps,
            resblock_updown=self.resblock_updown,
            num_head_channels=self.num_head_channels,
            with_conditioning=self.cross_attention_dim is not None,
            transformer_num_layers=self.transformer_num_layers,
            cross_attention_dim=self.cross_attention_dim,
            upcast_attention=self.upcast_attention,
            include_fc=self.include_fc,
            use_combined_linear=self.use_combined_linear,
        )


def expected_tensors(arguments: AutoencoderArguments | UNetArguments) -> dict[str, torch.Size]:
    """Name and shape of every tensor of the network, without allocating it."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in arguments.build().state_dict().items()}
