"""A small residual network that reads a spatial latent and gives a few numbers about its person."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

SMALLEST_HALVED = 4
"""An axis with fewer positions than this is not halved again."""

WIDEST = 2
"""Features of the last stage, at most, as a multiple of those of the first; wider ones only learn people by heart."""

FEATURES_PER_GROUP = 4
"""Of a group normalisation: one feature alone at one position would be normalised to nothing."""


class ResidualHead(nn.Module):
    """Latent [B, C, X, Y, Z] to numbers [B, outputs]; sides may be odd, and differ, from 1 up.

    A 3-voxel convolution, then stages that halve every axis of 4 positions or more and go through pre-activation residual
    blocks (He et al. 2016) with group normalisation (Wu and He 2018); the first halving doubles the features. The full
    grid is left at once, because there a block costs as much as all the rest. Then the mean over positions, dropout, and a
    linear layer. Nothing is normalised after the last block: how strong a pattern is must reach the linear layer.

    Args:
        in_channels: C of the latent.
        sides: X, Y, Z of the latent; they settle where is halved.
        outputs: numbers to give.
        channels: features of the first stage.
        blocks: residual blocks of each stage.
        dropout: share of pooled features left out while training.
    """

    def __init__(
        self,
        in_channels: int,
        sides: Sequence[int],
        outputs: int,
        channels: int = 16,
        blocks: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv3d(in_channels, channels, 3, padding=1)
        strides = halvings(sides)
        stages: list[nn.Module] = [] if strides else [ResidualBlock(channels) for _ in range(blocks)]
        width = channels
        for stride in strides:
            wider = min(2 * width, WIDEST * channels)
            stages += [nn.ReLU(), nn.Conv3d(width, wider, 3, stride=stride, padding=1)]
            stages += [ResidualBlock(wider) for _ in range(blocks)]
            width = wider
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.outputs = nn.Linear(width, outputs)
        nn.init.normal_(self.outputs.weight, std=0.01)
        nn.init.zeros_(self.outputs.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, C, X, Y, Z] -> [B, outputs]."""
        features = torch.relu(self.stages(self.stem(latents)))
        numbers: Tensor = self.outputs(self.dropout(features.mean(dim=(2, 3, 4))))
        return numbers


class GradedHead(nn.Module):
    """One score per person against limits that only rise: logits of being above each grade but the last, [B, limits].

    The shared score makes the outputs consistent (Cao et al. 2020): the probability of exceeding a grade never rises with it.

    Args:
        score: gives [B, 1].
        limits: grades less one.
    """

    def __init__(self, score: nn.Module, limits: int) -> None:
        super().__init__()
        self.score = score
        self.first = nn.Parameter(torch.zeros(1))
        self.rises = nn.Parameter(torch.full((limits - 1,), 0.5))

    def forward(self, latents: Tensor) -> Tensor:
        """[B, C, X, Y, Z] -> [B, limits]."""
        above_first = torch.zeros_like(self.first)
        limits = self.first + torch.cat([above_first, functional.softplus(self.rises)]).cumsum(0)
        answers: Tensor = self.score(latents) - limits
        return answers


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))); starts as the identity, because its last convolution starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _normalisation(width),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, padding=1),
            _normalisation(width),
            nn.ReLU(),
            last := nn.Conv3d(width, width, 3, padding=1),
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """[B, width, X, Y, Z] -> the same shape."""
        change: Tensor = self.inner(features)
        return features + change


def halvings(sides: Sequence[int]) -> list[tuple[int, int, int]]:
    """Strides of the convolutions between stages: 2 along every axis that is still long enough, until none is."""
    strides: list[tuple[int, int, int]] = []
    left = list(sides)
    while max(left) >= SMALLEST_HALVED:
        along_x, along_y, along_z = (2 if side >= SMALLEST_HALVED else 1 for side in left)
        strides.append((along_x, along_y, along_z))
        left = [-(-side // step) for side, step in zip(left, strides[-1], strict=True)]
    return strides


def _normalisation(width: int) -> nn.GroupNorm:
    groups = width // FEATURES_PER_GROUP if width % FEATURES_PER_GROUP == 0 else 1
    return nn.GroupNorm(groups, width)
