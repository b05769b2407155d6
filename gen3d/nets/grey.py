"""Networks of colour pictures for grey volumes: their first convolution, and their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

Convolution = nn.Conv2d | nn.Conv3d
NUM_COLOURS = 3


@dataclass(frozen=True)
class Colours:
    """Mean and SD per colour with which pictures of values 0 to 1 were normalised before the network."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def black(self) -> float:
        """The value of black after normalisation, mean of the colours: where the background of a z-scored scan belongs."""
        return -sum(mean / std for mean, std in zip(self.mean, self.std, strict=True)) / NUM_COLOURS


@runtime_checkable
class PaddedConvolution(Protocol):
    """A convolution that pads its input itself, not equally on both sides."""

    def paddings(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """Voxels before and after each axis of an input of these sides."""

    def padded(self, volumes: Tensor) -> Tensor:
        """[B, C, *sides] with what belongs around it."""


class GreyStem(nn.Module):
    """The first convolution of a colour network, for volumes or slices of `in_channels` channels.

    With kernels W_c and a grey value g between 0 and 1 in all three colours, the network sees the sum over c of
    W_c (g - mean_c) / std_c. So the new kernel is the sum over c of W_c / std_c, and what the means contribute is subtracted: a
    constant, but for the border, where the padding is zero after normalisation. That is exact. For z-scored volumes the
    normalisation is done already: the new kernel is the sum of W_c, and nothing is subtracted; the background
    belongs at `Colours.black`. The kernels are summed, never averaged: a third of the sum is not what the normalisation that
    follows has seen.

    Every channel gets this kernel divided by their number, so that channels of equal content give the same answer
    as one.
    """

    shift: Tensor

    def __init__(self, colour: Convolution, in_channels: int, colours: Colours, z_scored: bool) -> None:
        super().__init__()
        weight = colour.weight.detach()
        form = (1, NUM_COLOURS, *(1 for _ in colour.kernel_size))
        mean, std = (weight.new_tensor(values).view(form) for values in (colours.mean, colours.std))
        summed = (weight if z_scored else weight / std).sum(1, keepdim=True)
        shift = torch.zeros_like(summed) if z_scored else (weight * mean / std).sum(1, keepdim=True)
        self.register_buffer("shift", shift)
        self.convolution = colour
        colour.in_channels = in_channels
        colour.weight = nn.Parameter(summed.expand(-1, in_channels, *colour.kernel_size) / in_channels)

    def forward(self, volumes: Tensor) -> Tensor:
        """[B, C, *sides] -> [B, F, *sides of the map]."""
        field = constant_field(self.shift, volumes.shape[2:], self.convolution)
        features: Tensor = self.convolution(volumes)
        return features - field


def constant_field(kernel: Tensor, sides: Sequence[int], convolution: Convolution) -> Tensor:
    """What a kernel [F, 1, *k] gives for a volume of ones of these sides, strided and padded as the convolution is.

    Far from the border the answer is one number per feature. So it is computed on the smallest volume that has every
    distance from the border, and repeated from there.
    """
    small: list[int] = []
    rows: list[Tensor] = []
    for axis, (side, (before, after)) in enumerate(zip(sides, paddings(convolution, sides), strict=True)):
        stride, size = convolution.stride[axis], convolution.kernel_size[axis]
        count = (side + before + after - size) // stride + 1
        first, last = -(-before // stride), -(-after // stride)
        left_out = max(0, count - first - last - 2)
        small.append(side - stride * left_out)
        places = torch.arange(count, device=kernel.device)
        rows.append(torch.where(places > first, (places - left_out).clamp(min=min(first, count - 1)), places))
    ones = padded(convolution, kernel.new_ones(1, 1, *small))
    apply = functional.conv3d if len(small) == 3 else functional.conv2d
    field: Tensor = apply(ones, kernel, stride=convolution.stride)
    for axis, chosen in enumerate(rows, start=2):
        field = field.index_select(axis, chosen)
    return field


def paddings(convolution: Convolution, sides: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels that a convolution adds before and after every axis of an input of these sides."""
    if isinstance(convolution, PaddedConvolution):
        return convolution.paddings(sides)
    assert not isinstance(convolution.padding, str), convolution.padding
    return [(amount, amount) for amount in convolution.padding]


def padded(convolution: Convolution, volumes: Tensor) -> Tensor:
    """[B, C, *sides] with what the convolution adds around it."""
    if isinstance(convolution, PaddedConvolution):
        return convolution.padded(volumes)
    return functional.pad(
        volumes, [amount for pair in reversed(paddings(convolution, volumes.shape[2:])) for amount in pair]
    )


def turn(network: nn.Module, order: Sequence[int], reverse: Sequence[int]) -> None:
    """Turn the kernels of a network instead of its input, so that its maps keep the axes of the volume.

    Args:
        network: every convolution in it is changed, in place; poolings must be the same along all axes.
        order: for each axis of the volume, the axis of the network (such as time, rows, columns) that it is.
        reverse: axes of the volume that run against the network's, such as upwards against rows counted from the top.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            assert len(module.kernel_size) == len(order), module
            module.weight = nn.Parameter(_turned(module.weight.detach(), order, reverse), module.weight.requires_grad)
            for name in ("kernel_size", "stride", "padding", "dilation", "repeated"):
                if (amounts := getattr(module, name, None)) is not None:
                    setattr(module, name, tuple(amounts[axis] for axis in order))
        elif isinstance(module, GreyStem):
            module.shift = _turned(module.shift, order, reverse)


def _turned(kernels: Tensor, order: Sequence[int], reverse: Sequence[int]) -> Tensor:
    kernels = kernels.permute(0, 1, *(2 + axis for axis in order))
    return kernels.flip([2 + axis for axis in reverse]).contiguous()
