"""The network of a latent diffusion model: MONAI's U-Net on padded latents, with the time and a person's conditions as inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from gen3d.nets.padding import Padding

TOKEN_SIZE = 32
"""Numbers that stand for one condition."""


class ConditionTokens(nn.Module):
    """Conditions [B, p] -> tokens [B, p, TOKEN_SIZE]; NaN becomes a learned token for "unknown", one per condition.

    `num_codes` has an entry per condition: how many codes a categorical one has, 0 for a numeric one.
    """

    def __init__(self, num_codes: Sequence[int]) -> None:
        super().__init__()
        self.num_codes = tuple(num_codes)
        self.embed = nn.ModuleList(
            nn.Embedding(num, TOKEN_SIZE)
            if num
            else nn.Sequential(nn.Linear(1, TOKEN_SIZE), nn.SiLU(), nn.Linear(TOKEN_SIZE, TOKEN_SIZE))
            for num in self.num_codes
        )
        self.unknown = nn.Parameter(torch.randn(len(self.num_codes), TOKEN_SIZE))

    def forward(self, conditions: Tensor) -> Tensor:
        known = torch.isfinite(conditions)
        values = torch.where(known, conditions, torch.zeros_like(conditions))
        tokens = [
            embed(values[:, place].long() if num else values[:, place : place + 1])
            for place, (num, embed) in enumerate(zip(self.num_codes, self.embed, strict=True))
        ]
        return torch.where(known[..., None], torch.stack(tokens, dim=1), self.unknown)


class Denoiser(nn.Module):
    """Noisy latents [B, C + further, *shape] at positions [B], conditions [B, p] -> [B, C, *shape].

    The conditions' tokens are added to the embedding of the time, which reaches every residual block (as class labels
    do in Dhariwal and Nichol 2021), and with `cross_attention` the coarse levels attend to them too (Rombach et al. 2022).
    A shape that the network cannot halve is padded with zeros, the mean of standardised latents.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_channels: int,
        num_codes: Sequence[int],
        widths: Sequence[int],
        attention: Sequence[bool],
        num_res_blocks: int,
        head_channels: int,
        num_groups: int,
        cross_attention: bool,
        further_channels: int = 0,
    ) -> None:
        """`further_channels` are seen next to the latent's own (an earlier scan, for instance) and not put out."""
        super().__init__()
        self.padding = Padding(shape, 2 ** (len(widths) - 1))
        num_conditions = len(num_codes)
        self.cross_attention = cross_attention and num_conditions > 0
        self.tokens = ConditionTokens(num_codes) if num_conditions else None
        self.network = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=num_channels + further_channels,
            out_channels=num_channels,
            num_res_blocks=num_res_blocks,
            channels=tuple(widths),
            attention_levels=tuple(attention),
            norm_num_groups=num_groups,
            num_head_channels=head_channels,
            with_conditioning=self.cross_attention,
            cross_attention_dim=TOKEN_SIZE if self.cross_attention else None,
            num_class_embeds=1 if num_conditions else None,
        )
        if num_conditions:
            # MONAI adds what `class_embedding` makes of its labels to the time's embedding; ours are conditions.
            width = 4 * widths[0]
            self.network.add_module(
                "class_embedding",
                nn.Sequential(
                    nn.Flatten(), nn.Linear(num_conditions * TOKEN_SIZE, width), nn.SiLU(), nn.Linear(width, width)
                ),
            )

    def blocks(self) -> list[nn.Module]:
        """The blocks worth compiling, first to last."""
        return [*self.network.down_blocks, self.network.middle_block, *self.network.up_blocks]

    def forward(self, latents: Tensor, position: Tensor, conditions: Tensor) -> Tensor:
        tokens = self.tokens(conditions) if self.tokens is not None else None
        context = tokens if self.cross_attention else None
        output = self.network(self.padding.pad(latents), position, context=context, class_labels=tokens)
        return self.padding.crop(output).float()
