"""EfficientNet-Lite0 for pictures, and the same network inflated to volumes.

EfficientNet (Tan and Le 2019, ICML) without squeeze-and-excitation and with ReLU6, as TensorFlow published it: 4,652,008
weights with 1000 classes. Names of tensors are those of the published file. Zeros are added as TensorFlow adds them: as many as
make every map the size of its input divided by the stride, the odd one after the picture.

Inflated, each kernel is repeated over depth and divided by its length (Carreira and Zisserman 2017, CVPR). Depth is padded with
its own first and last slice, so that a volume that is the same in every slice gives exactly what the picture gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

STEM, HEAD_FEATURES = 32, 1280
BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Repeats, kernel, stride of the first, expansion and features of each group of blocks."""

EPSILON, MOMENTUM = 1e-3, 0.01
DROPOUT, DROPPED_BLOCKS = 0.2, 0.2


class SameConv2d(nn.Conv2d):
    """A convolution whose map has the size of its input divided by the stride."""

    def paddings(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """Pixels before and after each axis."""
        return same_paddings(sides, self.kernel_size, self.stride)

    def padded(self, pictures: Tensor) -> Tensor:
        """[B, C, X, Y] with the zeros that belong around it."""
        return _padded(pictures, self.paddings(pictures.shape[2:]), "constant")

    def forward(self, pictures: Tensor) -> Tensor:
        return super().forward(self.padded(pictures))


class SameConv3d(nn.Conv3d):
    """The same for volumes; axes in `repeated` are padded with their own ends instead of zeros."""

    repeated: tuple[bool, ...] = (True, False, False)

    def paddings(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """Voxels before and after each axis."""
        return same_paddings(sides, self.kernel_size, self.stride)

    def padded(self, volumes: Tensor) -> Tensor:
        """[B, C, X, Y, Z] with what belongs around it."""
        pairs = self.paddings(volumes.shape[2:])
        ends = [pair if own else (0, 0) for pair, own in zip(pairs, self.repeated, strict=True)]
        zeros = [(0, 0) if own else pair for pair, own in zip(pairs, self.repeated, strict=True)]
        return _padded(_padded(volumes, ends, "replicate"), zeros, "constant")

    def forward(self, volumes: Tensor) -> Tensor:
        return super().forward(self.padded(volumes))


class Lite0(nn.Module):
    """Pictures [B, 3, H, W] to scores of `num_classes`; with dimensions=3 volumes [B, 3, D, H, W]."""

    def __init__(self, num_classes: int = 1000, dimensions: int = 2) -> None:
        super().__init__()
        self._conv_stem = _convolution(dimensions, 3, STEM, 3, 2)
        self._bn0 = _normalisation(dimensions, STEM)
        blocks: list[nn.Module] = []
        width, total = STEM, sum(group[0] for group in BLOCKS)
        for repeats, kernel, stride, expansion, features in BLOCKS:
            for repeat in range(repeats):
                dropped = DROPPED_BLOCKS * len(blocks) / total
                step = stride if repeat == 0 else 1
                blocks.append(Lite0Block(dimensions, width, features, kernel, step, expansion, dropped))
                width = features
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _convolution(dimensions, width, HEAD_FEATURES, 1, 1)
        self._bn1 = _normalisation(dimensions, HEAD_FEATURES)
        self._dropout = nn.Dropout(DROPOUT)
        self._fc = nn.Linear(HEAD_FEATURES, num_classes)
        self.relu = nn.ReLU6(inplace=True)
        initialise(self)

    @property
    def first_convolution(self) -> SameConv2d | SameConv3d:
        """Of three colours."""
        return self._conv_stem

    @property
    def num_features(self) -> int:
        """Features of the last map."""
        return self._fc.in_features

    def parts(self) -> dict[str, nn.Module]:
        """The network up to its last map in parts, at whose ends the map is halved: stem, layer1 to layer4."""
        starts = [0, *(index for index, block in enumerate(self._blocks) if block.halves), len(self._blocks)]
        stem = nn.Sequential(self._conv_stem, self._bn0, self.relu, *self._blocks[: starts[1]])
        parts: dict[str, nn.Module] = {"stem": stem}
        for number, (first, end) in enumerate(pairwise(starts[1:]), start=1):
            parts[f"layer{number}"] = nn.Sequential(*self._blocks[first:end])
        last = parts[f"layer{len(starts) - 2}"]
        assert isinstance(last, nn.Sequential)
        last.extend([self._conv_head, self._bn1, nn.ReLU6(inplace=True)])
        return parts

    def forward(self, pictures: Tensor) -> Tensor:
        features = pictures
        for part in self.parts().values():
            features = part(features)
        scores: Tensor = self._fc(self._dropout(features.flatten(2).mean(2)))
        return scores


class Lite0Block(nn.Module):
    """An inverted residual: features are expanded, filtered one by one, and projected; a block is at times dropped."""

    def __init__(
        self, dimensions: int, width: int, features: int, kernel: int, stride: int, expansion: int, dropped: float
    ) -> None:
        super().__init__()
        inner = width * expansion
        self.halves = stride > 1
        self.expands = expansion > 1
        self.adds = stride == 1 and width == features
        self.dropped = dropped
        if self.expands:
            self._expand_conv = _convolution(dimensions, width, inner, 1, 1)
            self._bn0 = _normalisation(dimensions, inner)
        self._depthwise_conv = _convolution(dimensions, inner, inner, kernel, stride, groups=inner)
        self._bn1 = _normalisation(dimensions, inner)
        self._project_conv = _convolution(dimensions, inner, features, 1, 1)
        self._bn2 = _normalisation(dimensions, features)
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        inner = self.relu(self._bn0(self._expand_conv(features))) if self.expands else features
        inner = self.relu(self._bn1(self._depthwise_conv(inner)))
        change: Tensor = self._bn2(self._project_conv(inner))
        if not self.adds:
            return change
        if self.training and self.dropped > 0:
            kept = torch.rand(len(change), *(1 for _ in change.shape[1:]), device=change.device) >= self.dropped
            change = change * kept / (1 - self.dropped)
        return features + change


def inflated(network: Lite0) -> Lite0:
    """The network for volumes whose kernels are those of `network` over depth, rows and columns."""
    volumes = Lite0(network._fc.out_features, dimensions=3)
    kernels = {name: value.shape[2] for name, value in volumes.state_dict().items() if value.ndim == 5}
    tensors = {
        name: value.unsqueeze(2).expand(-1, -1, kernels[name], -1, -1) / kernels[name] if name in kernels else value
        for name, value in network.state_dict().items()
    }
    volumes.load_state_dict(tensors)
    return volumes


def initialise(network: nn.Module) -> None:
    """Draw the kernels of a network of depthwise convolutions so that features keep their size from layer to layer.

    As many numbers go into a feature as the kernel has for it (He et al. 2015). The rule that EfficientNet uses counts
    the features that come out, though groups share none, and relies on batches to normalise what has vanished.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / module.weight[0].numel()))


def same_paddings(sides: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """TensorFlow's padding `same`, before and after each axis."""
    pairs = []
    for side, size, step in zip(sides, kernel, stride, strict=True):
        total = max((-(-side // step) - 1) * step + size - side, 0)
        pairs.append((total // 2, total - total // 2))
    return pairs


def _padded(volumes: Tensor, pairs: Sequence[tuple[int, int]], mode: str) -> Tensor:
    amounts = [amount for pair in reversed(pairs) for amount in pair]
    return functional.pad(volumes, amounts, mode=mode) if any(amounts) else volumes


def _convolution(
    dimensions: int, width: int, features: int, kernel: int, stride: int, groups: int = 1
) -> SameConv2d | SameConv3d:
    kind = SameConv3d if dimensions == 3 else SameConv2d
    return kind(width, features, kernel, stride, groups=groups, bias=False)


def _normalisation(dimensions: int, features: int) -> nn.Module:
    kind = nn.BatchNorm3d if dimensions == 3 else nn.BatchNorm2d
    return kind(features, eps=EPSILON, momentum=MOMENTUM)
