"""The residual 3D network (He et al. 2016; Hara et al. 2018) as MONAI builds it and as MedicalNet's weights need it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from monai.networks.nets.resnet import (
    ResNetBlock,
    ResNetBottleneck,
    get_medicalnet_pretrained_resnet_args,
    resnet10,
    resnet18,
    resnet50,
)
from torch import Tensor, nn

from gen3d.nets.classifiers.base import HEAD, StagedNetwork, new_head
from gen3d.nets.pretrained import fill

Layers = Literal[10, 18, 50]
NETWORKS: dict[Layers, Callable[..., Any]] = {10: resnet10, 18: resnet18, 50: resnet50}
STAGES = ("layer1", "layer2", "layer3", "layer4")
MEDICALNET_DILATION = {"layer3": 2, "layer4": 4}


class ResidualNetwork3d(StagedNetwork):
    """Volumes [B, C, X, Y, Z] to scores [B, num_scores]; the stages are stem, layer1 to layer4 and head.

    MedicalNet (Chen et al. 2019) learned on z-scored grey volumes, with kernels of the last two stages widened where this
    network halves its maps; `dilated` does the same. With several channels, each gets the first kernel divided by their number.

    Args:
        in_channels: C.
        num_scores: numbers to give.
        layers: 10, 18 or 50.
        weights: a file of weights, such as MedicalNet's; random weights without.
        dilated: keep the resolution of the second stage and widen kernels instead.

    Raises:
        UserError: see `gen3d.nets.pretrained.fill`.
    """

    def __init__(
        self, in_channels: int, num_scores: int, layers: Layers = 18, weights: Path | None = None, dilated: bool = False
    ) -> None:
        bias_downsample, shortcut = get_medicalnet_pretrained_resnet_args(layers)
        network: Any = NETWORKS[layers](
            spatial_dims=3,
            n_input_channels=1,
            conv1_t_stride=2,
            shortcut_type=shortcut,
            bias_downsample=bias_downsample,
            feed_forward=False,
        )
        for name in STAGES:
            _mend_shortcut(getattr(network, name)[0])
        if weights is not None:
            fill(network, weights, "resnet3d")
        if dilated:
            for name, dilation in MEDICALNET_DILATION.items():
                dilate(getattr(network, name), dilation)
        first = network.conv1
        first.weight = nn.Parameter(first.weight.detach().expand(-1, in_channels, -1, -1, -1) / in_channels)
        first.in_channels = in_channels
        width = network.layer4[-1].bn3.num_features if layers == 50 else network.layer4[-1].bn2.num_features
        super().__init__(
            {
                "stem": nn.Sequential(first, network.bn1, network.act, network.maxpool),
                **{name: getattr(network, name) for name in STAGES},
                HEAD: nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), new_head(width, num_scores)),
            }
        )


class StridedShortcut(nn.Module):
    """Every `stride`-th position, and zeros for the features that are new: the shortcut without weights."""

    def __init__(self, stride: int, new_features: int) -> None:
        super().__init__()
        self.stride, self.new_features = stride, new_features

    def forward(self, features: Tensor) -> Tensor:
        kept = features[:, :, :: self.stride, :: self.stride, :: self.stride]
        zeros = kept.new_zeros(len(kept), self.new_features, *kept.shape[2:])
        return torch.cat([kept, zeros], dim=1)


def dilate(stage: nn.Module, dilation: int) -> None:
    """Keep a stage's resolution and widen its 3 x 3 x 3 kernels instead."""
    for block in stage.modules():
        if isinstance(block, ResNetBottleneck | ResNetBlock):
            _dilate_block(block, dilation)


def _dilate_block(block: Any, dilation: int) -> None:
    for convolution in (block.conv1, block.conv2):
        if convolution.kernel_size == (3, 3, 3):
            convolution.stride, convolution.dilation, convolution.padding = (1, 1, 1), (dilation,) * 3, (dilation,) * 3
    if isinstance(block.downsample, StridedShortcut):
        block.downsample.stride = 1
    elif block.downsample is not None:
        block.downsample[0].stride = (1, 1, 1)


def _mend_shortcut(block: Any) -> None:
    """MONAI's shortcut without weights lets no gradient through; the same with gradients in its place."""
    if block.downsample is not None and not isinstance(block.downsample, nn.Module):
        first: nn.Conv3d = block.conv1
        block.downsample = StridedShortcut(first.stride[0], first.out_channels - first.in_channels)
