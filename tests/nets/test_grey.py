"""The first convolution for grey volumes: exact everywhere, also at the border, and turned with its kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from gen3d.nets.classifiers.lite0 import SameConv2d, SameConv3d
from gen3d.nets.grey import Colours, Convolution, GreyStem, constant_field, paddings, turn

COLOURS = Colours((0.4, 0.3, 0.2), (0.2, 0.3, 0.4))


@pytest.mark.parametrize("sides", [(9, 40, 23), (5, 5, 5), (64, 12, 31)])
@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv3d(3, 4, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
        nn.Conv3d(3, 4, (3, 7, 7), (2, 4, 4), (1, 3, 3)),
        nn.Conv3d(3, 4, 3, 2, 0),
        SameConv3d(3, 4, 3, 2, bias=False),
    ],
    ids=["video", "transformer", "unpadded", "same"],
)
def test_a_field_of_ones_is_repeated_exactly(convolution: Convolution, sides: tuple[int, int, int]) -> None:
    if any(
        side + sum(pad) < size for side, pad, size in zip(sides, paddings(convolution, sides), convolution.kernel_size)
    ):
        pytest.skip("the kernel does not fit")
    kernel = torch.randn(4, 1, *convolution.kernel_size, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(1, 1, *sides)
    if isinstance(convolution, SameConv3d):
        expected = functional.conv3d(convolution.padded(ones), kernel, stride=convolution.stride)
    else:
        expected = functional.conv3d(ones, kernel, stride=convolution.stride, padding=convolution.padding)
    torch.testing.assert_close(constant_field(kernel, sides, convolution), expected)


def test_a_grey_picture_gives_what_three_equal_colours_give_at_the_border_too() -> None:
    torch.manual_seed(0)
    colour = SameConv2d(3, 5, 3, 2, bias=False)
    grey = torch.rand(2, 1, 14, 17)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (COLOURS.mean, COLOURS.std))
    expected = colour((grey.expand(-1, 3, -1, -1) - mean) / std)
    weight = colour.weight.detach().clone()
    stem = GreyStem(colour, 1, COLOURS, z_scored=False)
    torch.testing.assert_close(stem(grey), expected, rtol=1e-4, atol=1e-5)
    # A mean of the kernels instead of their sum would be a third of it.
    torch.testing.assert_close(stem.convolution.weight, (weight / std.view(1, 3, 1, 1)).sum(1, keepdim=True))


def test_turned_kernels_do_to_a_volume_what_kernels_do_to_the_turned_volume() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(GreyStem(nn.Conv3d(3, 2, (3, 5, 7), (1, 2, 2), (1, 2, 3)), 1, COLOURS, z_scored=False))
    volumes = torch.rand(1, 1, 9, 7, 5)
    with torch.no_grad():
        expected = network(volumes.permute(0, 1, 4, 3, 2).flip(3)).flip(3).permute(0, 1, 4, 3, 2)
        turn(network, (2, 1, 0), (1,))
        torch.testing.assert_close(network(volumes), expected)
    assert network[0].convolution.kernel_size == (7, 5, 3)
