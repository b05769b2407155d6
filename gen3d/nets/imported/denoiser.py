"""A DiffusionModelUNet trained elsewhere as the denoiser of a latent diffusion model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.nets.imported.monai_networks import UNetArguments
from gen3d.nets.padding import Padding


class ImportedDenoiser(nn.Module):
    """Noisy latents [B, C, *shape] at positions [B], conditions [B, p] -> [B, C, *shape].

    The network takes the conditions as plain numbers: all of them as one token for cross-attention, as p more
    input channels that are constant over the volume, or both (Pinaya et al. 2022). There is no code for "unknown".
    """

    def __init__(self, shape: Sequence[int], arguments: UNetArguments, num_conditions: int) -> None:
        super().__init__()
        self.padding = Padding(shape, 2 ** (len(arguments.channels) - 1))
        self.cross_attention = arguments.cross_attention_dim is not None
        self.concatenated = arguments.in_channels > arguments.out_channels
        check_conditions(arguments, num_conditions, "the imported network")
        self.network = arguments.build()

    def blocks(self) -> list[nn.Module]:
        """The blocks worth compiling, first to last."""
        return [*self.network.down_blocks, self.network.middle_block, *self.network.up_blocks]

    def forward(self, latents: Tensor, position: Tensor, conditions: Tensor) -> Tensor:
        if not torch.isfinite(conditions).all():
            raise UserError(
                "the imported network was trained without unknown conditions; give a value for every condition, and guidance=1."
            )
        volumes = self.padding.pad(latents)
        if self.concatenated:
            maps = conditions[:, :, None, None, None].expand(-1, -1, *volumes.shape[2:])
            volumes = torch.cat([volumes, maps.to(volumes)], dim=1)
        context = conditions[:, None].to(volumes) if self.cross_attention else None
        return self.padding.crop(self.network(volumes, position, context=context)).float()


def check_conditions(arguments: UNetArguments, num_conditions: int, source: str) -> None:
    """Refuse a number of conditions that the network does not take.

    Raises:
        UserError: saying how many it takes.
    """
    concatenated = arguments.in_channels - arguments.out_channels
    taken = {concatenated} if concatenated else set()
    if arguments.cross_attention_dim is not None:
        taken.add(arguments.cross_attention_dim)
    if len(taken) > 1 or concatenated < 0:
        raise UserError(
            f"{source}: {arguments.in_channels} input and {arguments.out_channels} output channels with cross-attention to "
            f"{arguments.cross_attention_dim} numbers; gen3d can import networks that take the same conditions both ways."
        )
    wanted = taken.pop() if taken else 0
    if num_conditions != wanted:
        raise UserError(
            f"{source}: takes {wanted} conditions, but diffusion_options.conditions names {num_conditions}; name each of "
            "them, in the order of its training."
        )
