"""Features of a 3D network whose weights were drawn once and never learned: what any network that learns has to beat."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
"""Channels of the four levels, each half as fine as the one before."""
GROUPS = 8
CORRELATED = 32
"""First channels of a level whose covariances over positions are features."""
CORNERS = 2
"""Means of a level are taken over halves of the volume along each axis."""
SHORTEST_SIDE = 2 ** len(WIDTHS) * CORNERS
NUM_FEATURES = sum(width * CORNERS**3 + CORRELATED * (CORRELATED - 1) // 2 for width in WIDTHS)
CLIPPED = (2.0, 98.0)
"""Percentiles of the brain at which its values end."""
TINY = 1e-8


class UntrainedNetwork(nn.Module):
    """Volumes in three views [B, 3, X, Y, Z] (`three_views`), every side of 32 voxels or more -> features [B, 9664].

    The network, views and features of un-CNN (bioRxiv 2026.06.07.730652; its program, version 1.0.0): two convolutions with group
    normalisation and ReLU per level, separable from the second level on, then means over the eight octants of the volume and the
    covariances of the first 32 channels. On BrainFMBench (bioRxiv 2026.05.15.725427) such features told sex with AUC .85, where
    two networks trained on tens of thousands of scans reached .84 and .81, and age within 10.0 years (5.9 and 14.0).
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            levels, channels = [], 3
            for width in WIDTHS:
                levels.append(_level(channels, width, separable=channels > 3))
                channels = width
        self.levels = nn.ModuleList(levels)
        self.requires_grad_(False)
        self.eval()

    def forward(self, views: Tensor) -> Tensor:
        maps, found = views, []
        for level in self.levels:
            maps = level(maps)
            found += [nn.functional.adaptive_avg_pool3d(maps, CORNERS).flatten(1), _covariances(maps[:, :CORRELATED])]
        return torch.cat(found, dim=1)


def _level(channels: int, width: int, separable: bool) -> nn.Module:
    """Two convolutions, then half as many voxels along each axis."""
    layers: list[nn.Module] = []
    for inputs in (channels, width):
        if separable:
            depthwise = nn.Conv3d(inputs, inputs, 3, padding=1, groups=inputs)
            layers += [depthwise, nn.Conv3d(inputs, width, 1)]
        else:
            layers.append(nn.Conv3d(inputs, width, 3, padding=1))
        layers += [nn.GroupNorm(GROUPS, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool3d(2))


def _covariances(maps: Tensor) -> Tensor:
    """Of every two channels over positions, [B, pairs]."""
    flat = maps.flatten(2)
    flat = flat - flat.mean(dim=2, keepdim=True)
    products = flat @ flat.transpose(1, 2) / (flat.shape[2] - 1)
    rows, columns = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1)
    return products[:, rows, columns]


def three_views(volume: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A T1w volume [X, Y, Z] as the network takes it, [3, X, Y, Z]: itself, smoothed, and its edges.

    Itself: clipped at the brain's percentiles 2 and 98, less its median and in interquartile ranges, 0 outside the brain.
    Smoothed: the median of 27 voxels of that; edges: the size of its gradient (Sobel). Both are brought to 0 to 1.
    """
    inside = np.asarray(volume, dtype=np.float32)[mask]
    brain = np.clip(inside, *np.percentile(inside, CLIPPED))
    low, high = np.percentile(brain, [25, 75])
    scaled = np.zeros(volume.shape, dtype=np.float32)
    scaled[mask] = (brain - np.median(brain)) / (float(high - low) + TINY)
    slopes = [ndimage.sobel(scaled, axis=axis) for axis in range(3)]
    edges = np.sqrt(sum(np.square(slope) for slope in slopes))
    return np.stack([scaled, _unit(ndimage.median_filter(scaled, size=3)), _unit(cast(NDArray[np.float32], edges))])


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high - low > TINY else np.zeros_like(values)
