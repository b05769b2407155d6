"""The 3D network of Liu et al. (2022, Scientific Reports 12:17106) for Alzheimer's disease, in two readings.

`LiuNetwork` is the network of the paper's table: 24,736,067 weights at width 8, one channel and three classes, whatever the
grid, as long as every side has 87 to 102 voxels. `executed=True` is the network that the released code runs: there both last
poolings are registered under one name, so that the pooling of 5 replaces the pooling of 3 after the third block and none
follows the fourth; the head then reads 512 x 5 x 5 x 5 features, and the network has 89,747,779 weights. With batch
normalisation the same slip of a name leaves that code's fourth block without a normalisation.

Two things follow from the architecture, and are as published:

- The first block is degenerate. A convolution of one voxel and one channel followed by instance normalisation gives plus or
  minus one and the same map: its 32 maps have rank 2 after the rectifier (the bright and the dark side of the scan). Batch
  normalisation, more channels or `stem="wide"`, whose first convolution is of 3 voxels, give more than that.
- A bias before an instance normalisation is subtracted again. All 1,312 biases of the convolutions have no gradient but
  rounding noise, which Adam turns into steps of its full rate; two trainings may not be compared by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gen3d.nets.classifiers.base import HEAD, HEAD_SD, StagedNetwork

FEATURES = (4, 32, 64, 64)
"""Of the four blocks, times the width factor."""

EMBEDDING, HIDDEN = 1024, 512
AGE_STEPS, AGE_FEATURES, AGE_DROPOUT = 240, 512, 0.1
"""Half years from 0 to 119.5, and features of each one's encoding."""

LARGEST_SIDE = 512
"""Beyond it no side is tried."""

Normalised = Literal["instance", "batch"]


class LiuNetwork(StagedNetwork):
    """Volumes [B, C, X, Y, Z] to scores [B, num_scores]; the stages are block1 to block4 and head.

    The output of block4 is the map before its pooling, [B, 64 x width, 6, 6, 6] from 96 voxels a side.

    Args:
        in_channels: C.
        shape: X, Y, Z; every side one of `valid_sides`.
        num_scores: numbers to give.
        width: features of a block as a multiple of 4, 32, 64, 64.
        executed: the network of the released code instead of the paper's.
        normalisation: after each convolution; only `batch` has weights.
        stem: first convolution of 1 voxel (`seed`, as published) or 3 (`wide`).
        age: add an encoding of age to the embedding; the network is then given ages in years.
    """

    def __init__(
        self,
        in_channels: int,
        shape: Sequence[int],
        num_scores: int,
        width: int = 8,
        executed: bool = False,
        normalisation: Normalised = "instance",
        stem: Literal["seed", "wide"] = "seed",
        age: bool = False,
    ) -> None:
        positions = [positions_of(side, executed) for side in shape]
        assert positions == [end_positions(executed)] * len(shape), (tuple(shape), executed)
        first, second, third, fourth = (width * features for features in FEATURES)
        opening = nn.Conv3d(in_channels, first, 1) if stem == "seed" else nn.Conv3d(in_channels, first, 3, padding=1)
        # With batch normalisation the released code registers that of the fourth block as the third's, in its place.
        last = None if executed and normalisation == "batch" else normalisation
        super().__init__(
            {
                "block1": _block(opening, normalisation, nn.MaxPool3d(3, 2)),
                "block2": _block(nn.Conv3d(first, second, 3, dilation=2), normalisation, nn.MaxPool3d(3, 2)),
                "block3": _block(
                    nn.Conv3d(second, third, 5, padding=2, dilation=2),
                    normalisation,
                    nn.MaxPool3d(5 if executed else 3, 2),
                ),
                "block4": _block(nn.Conv3d(third, fourth, 3, padding=1, dilation=2), last, None),
                HEAD: LiuHead(fourth * math.prod(positions), num_scores, executed, age),
            }
        )
        self._takes_age = age

    @property
    def takes_age(self) -> bool:
        return self._takes_age


class LiuHead(nn.Module):
    """The last pooling, three linear layers of 1024, 512 and `num_scores`, and on request an encoding of age.

    In the paper's reading a rectifier follows each of the first two; in the released code none does, so that its three layers are
    one linear map.
    """

    def __init__(self, num_features: int, num_scores: int, executed: bool, age: bool) -> None:
        super().__init__()
        self.pool = nn.Identity() if executed else nn.MaxPool3d(5, 2)
        self.embedding = nn.Linear(num_features, EMBEDDING)
        self.age = AgeEncoding(EMBEDDING) if age else None
        between: tuple[nn.Module, ...] = () if executed else (nn.ReLU(),)
        self.scores = nn.Sequential(*between, nn.Linear(EMBEDDING, HIDDEN), *between, nn.Linear(HIDDEN, num_scores))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=HEAD_SD)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, age_years: Tensor | None = None) -> Tensor:
        """The fourth block's map [B, F, x, y, z] and ages [B], or None -> [B, num_scores]."""
        embedded: Tensor = self.embedding(self.pool(features).flatten(1))
        if self.age is not None:
            embedded = self.age(embedded, age_years)
        scores: Tensor = self.scores(embedded)
        return scores


class AgeEncoding(nn.Module):
    """Adds what is known of a person's age to features: sines and cosines of its half years through a small network.

    The table is that of Vaswani et al. (2017) with 240 positions and 512 features: ages from 0 to 119.5 years. A person of
    unknown age (NaN, or no ages at all) keeps the features as they are.
    """

    table: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("table", _sinusoids(AGE_STEPS, AGE_FEATURES))
        self.layers = nn.Sequential(
            nn.Linear(AGE_FEATURES, AGE_FEATURES), nn.LayerNorm(AGE_FEATURES), nn.Linear(AGE_FEATURES, num_features)
        )
        self.dropout = nn.Dropout(AGE_DROPOUT)

    def forward(self, features: Tensor, age_years: Tensor | None) -> Tensor:
        """Features [B, F] and ages in years [B] -> [B, F]."""
        if age_years is not None:
            known = torch.isfinite(age_years)
            half_years = torch.where(known, age_years, 0.0).mul(2).round().long().clamp(0, AGE_STEPS - 1)
            features = features + self.layers(self.table[half_years]) * known.to(features.dtype)[:, None]
        dropped: Tensor = self.dropout(features)
        return dropped


def positions_of(side: int, executed: bool = False) -> int:
    """Positions along an axis of `side` voxels that reach the first linear layer; 0 if a kernel does not fit."""
    steps = [(3, 2, 1, 0), (3, 1, 2, 0), (3, 2, 1, 0), (5, 1, 2, 2)]
    steps += [(5, 2, 1, 0), (3, 1, 2, 1)] if executed else [(3, 2, 1, 0), (3, 1, 2, 1), (5, 2, 1, 0)]
    for kernel, stride, dilation, padding in steps:
        side = max(0, (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    return side


def end_positions(executed: bool = False) -> int:
    """Positions per axis that the published head reads: 1, or 5 in the released code."""
    return 5 if executed else 1


def valid_sides(executed: bool = False) -> range:
    """Voxels per axis with which the network has its published size: 87 to 102, or 95 to 102 in the released code."""
    fitting = [side for side in range(1, LARGEST_SIDE) if positions_of(side, executed) == end_positions(executed)]
    return range(fitting[0], fitting[-1] + 1)


def _block(convolution: nn.Conv3d, normalisation: Normalised | None, pooling: nn.Module | None) -> nn.Sequential:
    kinds = {"instance": nn.InstanceNorm3d, "batch": nn.BatchNorm3d}
    norms = [kinds[normalisation](convolution.out_channels)] if normalisation else []
    return nn.Sequential(convolution, *norms, nn.ReLU(inplace=True), *([pooling] if pooling else []))


def _sinusoids(num_positions: int, num_features: int) -> Tensor:
    positions = torch.arange(num_positions, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, num_features, 2, dtype=torch.float32) * (-math.log(10000.0) / num_features))
    table = torch.empty(num_positions, num_features)
    table[:, 0::2], table[:, 1::2] = torch.sin(positions * rates), torch.cos(positions * rates)
    return table
