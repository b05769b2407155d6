"""The networks of a stage transition: a convolutional generator that halves three times and comes back, and its critic.

The form of DCGAN (Radford et al. 2016, ICLR) as image-to-image translation: kernels of 4, stride 2, padding 1, batch
normalisation, for pictures or for volumes. With one channel and widths 64, 128 and 256 the generator has 1,313,409 weights and
biases of convolutions and 1,280 of normalisations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

Dimensions = Literal[2, 3]
HALVINGS = 3
MULTIPLE = 2**HALVINGS
"""Sides of pictures are multiples of it."""

SLOPE = 0.2
"""Of the critic's leaky rectifiers below zero."""

CONVOLUTION: dict[int, tuple[Any, Any, Any]] = {
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
}
KERNEL: dict[str, int] = {"kernel_size": 4, "stride": 2, "padding": 1}


class Generator(nn.Module):
    """Pictures [B, 1, H, W] (or volumes [B, 1, X, Y, Z]) in -1 to 1 -> the same at the next stage, in -1 to 1."""

    def __init__(self, widths: Sequence[int] = (64, 128, 256), dimensions: Dimensions = 2) -> None:
        super().__init__()
        convolution, transposed, norm = CONVOLUTION[dimensions]
        layers: list[nn.Module] = []
        for before, after in pairwise((1, *widths)):
            layers += [convolution(before, after, **KERNEL), norm(after), nn.ReLU(inplace=True)]
        for before, after in pairwise(tuple(reversed(widths))):
            layers += [transposed(before, after, **KERNEL), norm(after), nn.ReLU(inplace=True)]
        layers += [transposed(widths[0], 1, **KERNEL), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, pictures: Tensor) -> Tensor:
        made: Tensor = self.layers(pictures)
        return made


class StageCritic(nn.Module):
    """Pictures [B, 1, ...] -> one logit each [B]: that of being real, whose sigmoid is the critic's answer.

    Four convolutions with leaky rectifiers, batch normalisation on the second and third. The map of the fourth is averaged, so
    that one number comes out whatever the size. The logit is returned because its cross-entropy is exact far from zero.
    """

    def __init__(self, widths: Sequence[int] = (64, 128, 256), dimensions: Dimensions = 2) -> None:
        super().__init__()
        convolution, _, norm = CONVOLUTION[dimensions]
        layers: list[nn.Module] = [convolution(1, widths[0], **KERNEL), nn.LeakyReLU(SLOPE)]
        for before, after in pairwise(widths):
            layers += [convolution(before, after, **KERNEL), norm(after), nn.LeakyReLU(SLOPE)]
        layers.append(convolution(widths[-1], 1, **KERNEL))
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.layers(pictures).flatten(1).mean(dim=1)
        return logits


def initialise(network: nn.Module) -> None:
    """DCGAN's initial weights: normal with SD 0.02, those of normalisations around 1."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            nn.init.zeros_(module.bias) if module.bias is not None else None
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
