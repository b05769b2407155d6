"""A network of pictures on slices of a volume, whose answers are pooled to one per person; and one inflated to volumes.

`SliceNetwork` is the usual transfer from ImageNet: EfficientNet-B4 (Tan and Le 2019; 17,555,788 weights with three channels
and four classes), EfficientNet-Lite0 or ResNet-18 (He et al. 2016) on evenly spaced slices. `InflatedNetwork` is
EfficientNet-Lite0 with kernels of three dimensions (Carreira and Zisserman 2017).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from gen3d.nets.classifiers.base import HEAD, StagedNetwork, new_head, recalibrate
from gen3d.nets.classifiers.lite0 import DROPOUT, Lite0, inflated, initialise
from gen3d.nets.classifiers.video import AXES, Frames
from gen3d.nets.grey import GreyStem, turn
from gen3d.nets.pretrained import PUBLISHED, fill
from gen3d.nets.torchvision_models import efficientnet_b4, resnet18

Backbone = Literal["efficientnet_b4", "efficientnet_lite0", "resnet18"]
Pooling = Literal["mean", "attention"]

BACKBONE = "backbone"
ATTENTION_FEATURES = 128
NOISE_PICTURES, NOISE_SIDE, NOISE_CELLS = 16, 64, (4, 8, 16, 64)
NOISE_SEED = 0


class SliceNetwork(StagedNetwork):
    """Volumes [B, C, X, Y, Z] to scores [B, num_scores]; the stages are backbone and head.

    The backbone's map is [B, F, ...] along the volume's axes: the cells of each slice along the two axes in it, and along the
    third the slices, which lie at `positions`. The scores are the mean of the slices' scores, or those of their features weighted
    by attention (Ilse et al. 2018, ICML, equation 9).

    Args:
        in_channels: C.
        shape: X, Y, Z.
        num_scores: numbers to give.
        backbone: the network of pictures.
        plane: direction of the slices.
        num_slices: slices, evenly spaced through the volume.
        pooling: mean or attention.
        weights: a file of weights learned on ImageNet; random weights without, with statistics of noise, as a network
            whose statistics nobody took would let its features vanish.
        z_scored: whether the volumes are z-scored instead of between 0 and 1, see `GreyStem`.
        side: pixels to which the longer side of every slice is brought first; 0: as it is.

    Raises:
        UserError: see `gen3d.nets.pretrained.fill`.
    """

    def __init__(
        self,
        in_channels: int,
        shape: Sequence[int],
        num_scores: int,
        backbone: Backbone = "efficientnet_lite0",
        plane: Frames = "axial",
        num_slices: int = 16,
        pooling: Pooling = "mean",
        weights: Path | None = None,
        z_scored: bool = False,
        side: int = 0,
    ) -> None:
        features, num_features, dropout = _BACKBONES[backbone](in_channels, weights, z_scored)
        axis = AXES[plane][0]
        turn(features, (1, 0), (1,))
        head = _PooledSlices(num_features, num_scores, axis, pooling, dropout)
        slices = _Slices(features, axis, positions_of_slices(shape[axis], num_slices), side)
        super().__init__({BACKBONE: slices, HEAD: head})
        self.axis, self.positions = axis, slices.positions


class InflatedNetwork(StagedNetwork):
    """Volumes [B, C, X, Y, Z] to scores [B, num_scores]; the stages are stem, layer1 to layer4 and head.

    EfficientNet-Lite0 inflated over the axis across the plane. Random weights are inflated in the same way.

    Args:
        in_channels: C.
        num_scores: numbers to give.
        plane: the pictures that the weights were learned on lie in this plane.
        weights: a file of weights learned on ImageNet; random weights without, as in `SliceNetwork`.
        z_scored: whether the volumes are z-scored instead of between 0 and 1, see `GreyStem`.

    Raises:
        UserError: see `gen3d.nets.pretrained.fill`.
    """

    def __init__(
        self,
        in_channels: int,
        num_scores: int,
        plane: Frames = "axial",
        weights: Path | None = None,
        z_scored: bool = False,
    ) -> None:
        network = inflated(_lite0_with(weights))
        parts = _grey_lite0(network, in_channels, z_scored)
        if weights is None:
            _take_statistics_of_noise(nn.Sequential(*parts.values()), in_channels, 3)
        turn(nn.Sequential(*parts.values()), [AXES[plane].index(axis) for axis in range(3)], [AXES[plane][1]])
        last = new_head(network.num_features, num_scores)
        head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(DROPOUT), last)
        super().__init__({**parts, HEAD: head})


class _Slices(nn.Module):
    """Volumes [B, C, X, Y, Z] to the maps of some slices, resized where a side is given, stacked along their axis."""

    def __init__(self, network: nn.Module, axis: int, positions: Sequence[int], side: int) -> None:
        super().__init__()
        self.network, self.axis, self.positions, self.side = network, axis, tuple(positions), side

    def forward(self, volumes: Tensor) -> Tensor:
        rows = torch.tensor(self.positions, device=volumes.device)
        slices = volumes.index_select(2 + self.axis, rows).movedim(2 + self.axis, 1)
        maps: Tensor = self.network(self._resized(slices.flatten(0, 1)))
        return maps.unflatten(0, (-1, len(self.positions))).movedim(1, 2 + self.axis)

    def _resized(self, slices: Tensor) -> Tensor:
        """Slices [n, C, H, W] with the longer side of `side` pixels."""
        factor = self.side / max(slices.shape[2:])
        if factor in (0, 1):
            return slices
        size = [max(1, round(pixels * factor)) for pixels in slices.shape[2:]]
        return functional.interpolate(slices, size=size, mode="bilinear", antialias=factor < 1)


class _PooledSlices(nn.Module):
    """Maps [B, F, ...] with the slices along `axis` to scores [B, num_scores]."""

    def __init__(self, num_features: int, num_scores: int, axis: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.axis, self.dropout = axis, nn.Dropout(dropout)
        self.attention = SliceAttention(num_features) if pooling == "attention" else None
        self.scores = new_head(num_features, num_scores)

    def forward(self, maps: Tensor) -> Tensor:
        features = self.dropout(maps.movedim(2 + self.axis, 1).flatten(3).mean(3))
        if self.attention is None:
            scores: Tensor = self.scores(features).mean(1)
        else:
            scores = self.scores((self.attention(features) * features).sum(1))
        return scores


class SliceAttention(nn.Module):
    """Features of slices [B, S, F] to weights [B, S, 1] that add up to one: gated attention of Ilse et al. (2018)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.content = nn.Linear(num_features, ATTENTION_FEATURES)
        self.gate = nn.Linear(num_features, ATTENTION_FEATURES)
        self.weight = nn.Linear(ATTENTION_FEATURES, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        seen = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))
        return torch.softmax(self.weight(seen), dim=1)


def positions_of_slices(side: int, num_slices: int) -> list[int]:
    """Slices in the middle of equal parts of an axis of `side` voxels."""
    assert 0 < num_slices <= side, (num_slices, side)
    return [((2 * number + 1) * side) // (2 * num_slices) for number in range(num_slices)]


def _b4(in_channels: int, weights: Path | None, z_scored: bool) -> tuple[nn.Module, int, float]:
    network = efficientnet_b4()
    if weights is None:
        initialise(network)
    else:
        fill(network, weights, "efficientnet_b4")
    stem = network.features[0]
    stem[0] = GreyStem(stem[0], in_channels, PUBLISHED["efficientnet_b4"].colours, z_scored)
    if weights is None:
        _take_statistics_of_noise(network.features, in_channels, 2)
    dropout, linear = network.classifier
    return network.features, linear.in_features, dropout.p


def _lite0(in_channels: int, weights: Path | None, z_scored: bool) -> tuple[nn.Module, int, float]:
    network = _lite0_with(weights)
    features = nn.Sequential(OrderedDict(_grey_lite0(network, in_channels, z_scored)))
    if weights is None:
        _take_statistics_of_noise(features, in_channels, 2)
    return features, network.num_features, DROPOUT


def _lite0_with(weights: Path | None) -> Lite0:
    network = Lite0()
    if weights is not None:
        fill(network, weights, "efficientnet_lite0")
    return network


def _grey_lite0(network: Lite0, in_channels: int, z_scored: bool) -> dict[str, nn.Module]:
    parts = network.parts()
    stem = parts["stem"]
    assert isinstance(stem, nn.Sequential)
    stem[0] = GreyStem(network.first_convolution, in_channels, PUBLISHED["efficientnet_lite0"].colours, z_scored)
    return parts


def _resnet18(in_channels: int, weights: Path | None, z_scored: bool) -> tuple[nn.Module, int, float]:
    network = resnet18()
    if weights is not None:
        fill(network, weights, "resnet18")
    stem = GreyStem(network.conv1, in_channels, PUBLISHED["resnet18"].colours, z_scored)
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    features = nn.Sequential(stem, network.bn1, network.relu, network.maxpool, *layers)
    return features, network.fc.in_features, 0.0


def _take_statistics_of_noise(network: nn.Module, in_channels: int, dimensions: int) -> None:
    """Normalise a network of random weights on `noise`."""
    device = next(network.parameters()).device
    if device.type != "meta":  # where a network is only measured
        recalibrate(network, [noise(in_channels, dimensions).to(device)])


def noise(in_channels: int, dimensions: int) -> Tensor:
    """Pictures or volumes of noise [16, C, *sides] between 0 and 1, the same every time.

    They differ in coarseness, contrast and brightness: where all inputs are alike, random features hardly differ, and a
    normalisation by how they differ would blow up anything else.
    """
    generator = torch.Generator().manual_seed(NOISE_SEED)
    side, mode = (NOISE_SIDE // 2, "trilinear") if dimensions == 3 else (NOISE_SIDE, "bilinear")
    pictures = []
    for number in range(NOISE_PICTURES):
        cells = min(side, NOISE_CELLS[number % len(NOISE_CELLS)])
        coarse = torch.rand((1, in_channels, *(cells,) * dimensions), generator=generator, device="cpu")
        dark, bright = torch.rand(2, generator=generator, device="cpu").sort().values
        smooth = functional.interpolate(coarse, size=(side,) * dimensions, mode=mode)
        pictures.append(dark + (bright - dark) * smooth)
    return torch.cat(pictures)


_BACKBONES: dict[str, Callable[[int, Path | None, bool], tuple[nn.Module, int, float]]] = {
    "efficientnet_b4": _b4,
    "efficientnet_lite0": _lite0,
    "resnet18": _resnet18,
}
