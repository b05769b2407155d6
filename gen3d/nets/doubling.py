"""Doubling a map and convolving it, without ever convolving the doubled map.

Repeating each voxel 2 x 2 x 2 times and convolving with a 3-voxel kernel reads every value of the small map several times:
along an axis, the even output voxels see two neighbours with weights (w0, w1 + w2), the odd ones with (w0 + w1, w2). So the
same numbers come from eight 2-voxel kernels on the small map, with 8 / 27 of the multiplications. Shi et al. 2016 (section
3.2) give the equivalence for learned kernels; here the kernels are summed from those of the doubled map, so that weights
and results are those of MONAI's `UpSample` with `nontrainable` nearest interpolation, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as functional
from monai.networks.blocks import UpSample
from torch import Tensor, nn

PHASES = tuple(product((0, 1), repeat=3))


def double_and_convolve(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv3d(nearest(features, 2), weight, bias, padding=1).

    Args:
        features: [B, C, X, Y, Z].
        weight: [D, C, 3, 3, 3].
        bias: [D] or None.

    Returns:
        [B, D, 2 X, 2 Y, 2 Z].
    """
    biases = None if bias is None else bias.repeat(len(PHASES))
    phases = functional.conv3d(features, phase_kernels(weight), biases, padding=1)
    return cast(Tensor, _Interleave.apply(phases))


def phase_kernels(weight: Tensor) -> Tensor:
    """Kernels [8 D, C, 2, 2, 2] of the eight output phases, from those of the doubled map, [D, C, 3, 3, 3]."""
    kernels = [weight]
    for axis in (2, 3, 4):
        kernels = [phase for kernel in kernels for phase in _halves(kernel, axis)]
    return torch.cat(kernels)


def _halves(kernel: Tensor, axis: int) -> Iterator[Tensor]:
    first, middle, last = kernel.unbind(axis)
    yield torch.stack([first, middle + last], axis)
    yield torch.stack([first + middle, last], axis)


class _Interleave(torch.autograd.Function):
    """[B, 8 D, X + 1, Y + 1, Z + 1] phases -> [B, D, 2 X, 2 Y, 2 Z]; phase (a, b, c) starts a, b, c voxels in."""

    @staticmethod
    def forward(context: Any, phases: Tensor) -> Tensor:
        context.shape, context.layout = phases.shape, _layout(phases)
        batch, channels, *sides = phases.shape
        x, y, z = (side - 1 for side in sides)
        shape = (batch, channels // 8, 2 * x, 2 * y, 2 * z)
        whole = torch.empty(shape, dtype=phases.dtype, device=phases.device, memory_format=context.layout)
        for part, (a, b, c) in zip(phases.chunk(8, 1), PHASES, strict=True):
            whole[:, :, a::2, b::2, c::2] = part[:, :, a : a + x, b : b + y, c : c + z]
        return whole

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        phases = torch.empty(
            context.shape, dtype=gradient.dtype, device=gradient.device, memory_format=context.layout
        ).zero_()
        x, y, z = (side - 1 for side in context.shape[2:])
        for part, (a, b, c) in zip(phases.chunk(8, 1), PHASES, strict=True):
            part[:, :, a : a + x, b : b + y, c : c + z] = gradient[:, :, a::2, b::2, c::2]
        return phases


def _layout(volumes: Tensor) -> torch.memory_format:
    last = volumes.is_contiguous(memory_format=torch.channels_last_3d) and not volumes.is_contiguous()
    return torch.channels_last_3d if last else torch.contiguous_format


def convolution_of_doubling(block: nn.Module) -> nn.Conv3d | None:
    """The 3-voxel convolution behind a block that doubles by repeating voxels; None for any other block."""
    if not isinstance(block, UpSample):
        return None
    layers = dict(block.named_children())
    doubling, after = layers.get("upsample_non_trainable"), layers.get("postconv")
    if not isinstance(doubling, nn.Upsample) or doubling.mode != "nearest" or len(layers) != 2 or after is None:
        return None
    convolution = getattr(after, "conv", None)
    return convolution if isinstance(convolution, nn.Conv3d) and len(list(after.children())) == 1 else None
