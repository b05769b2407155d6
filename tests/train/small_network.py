"""A staged network that trains in milliseconds, with all that makes training hard to repeat: batch statistics and dropout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gen3d.models.supervised.networks import NetworkSettings
from gen3d.nets.classifiers.base import StagedNetwork


def small_network(
    settings: NetworkSettings,
    in_channels: int,
    shape: Sequence[int],
    num_scores: int,
    pretrained: bool = True,
    z_scored: bool = False,
) -> StagedNetwork:
    """In place of `gen3d.models.supervised.building.build_network`: two convolutions with batch normalisation, and a head.

    With `layers` 18 each volume is normalised by itself and nothing is dropped, so that batches may be split.
    """
    split = getattr(settings, "layers", 10) == 18
    norm = nn.InstanceNorm3d if split else nn.BatchNorm3d
    first = nn.Sequential(nn.Conv3d(in_channels, 8, 3, stride=2, padding=1), norm(8), nn.ReLU())
    second = nn.Sequential(nn.Conv3d(8, 8, 3, stride=2, padding=1), norm(8), nn.ReLU())
    dropout = nn.Dropout(0.0 if split else 0.2)
    head = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), dropout, nn.Linear(64, num_scores))
    return StagedNetwork({"stem": first, "layer1": second, "head": head})
