"""Adversarial training: the patch critic, and how one player looks through the weights of another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from monai.networks.nets import PatchDiscriminator
from torch import nn


def patch_critic(num_channels: int, width: int, num_layers: int) -> nn.Module:
    """MONAI's 3D patch discriminator (Wang et al. 2018) with instance normalisation.

    Batch normalisation, MONAI's default, ties the score of a volume to the others in its batch and has running
    statistics that differ between processes; at one to four volumes per batch it is unstable.

    Returns:
        A module [B, C, X, Y, Z] -> list of feature maps, the last being the patch scores.
    """
    return PatchDiscriminator(
        spatial_dims=3, channels=width, in_channels=num_channels, num_layers_d=num_layers, norm="INSTANCE"
    )


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Build a graph through a module without gradients for its weights: they belong to the other player."""
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
