"""Where the cells of feature maps lie: known numbers, and what a network truly answers to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gen3d.nets.classifiers.base import StagedNetwork
from gen3d.nets.classifiers.geometry import MapGeometry, Shape, deepest_map, map_geometries


def block(inputs: int, outputs: int, kernel: int, padding: int, pool: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel, dilation=dilation, padding=padding),
        nn.InstanceNorm3d(outputs),
        nn.ReLU(inplace=True),
        nn.MaxPool3d(pool, 2),
    )


def of_liu() -> StagedNetwork:
    """The kernels, paddings and dilations of Liu et al. (2022), with two features."""
    return StagedNetwork(
        {
            "block1": block(1, 2, 1, 0, 3),
            "block2": block(2, 2, 3, 0, 3, dilation=2),
            "block3": block(2, 2, 5, 2, 3, dilation=2),
            "block4": block(2, 2, 3, 1, 5, dilation=2),
            "head": nn.Sequential(nn.Flatten(), nn.Linear(2, 3)),
        }
    )


def test_the_blocks_of_liu_lie_where_they_are_known_to() -> None:
    found = map_geometries(of_liu(), 1, (96, 96, 96))
    name = deepest_map(found)
    assert name == "stages.block4.2"
    fourth = found[name]
    assert fourth.cells == (6, 6, 6)
    assert fourth.centres(0).tolist() == [27, 35, 43, 51, 59, 67]
    assert fourth.receptive_field == (87, 87, 87)
    assert found["stages.block3.2"].receptive_field == (47, 47, 47)
    assert fourth.describe(1.5) == "cells every 12 mm, each seeing 130 mm"


class _Residual(nn.Module):
    """Two paths that join, a padding of one side, and turned axes on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv3d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Conv3d(2, 2, (3, 1, 5), padding="same")
        )
        self.side = nn.Conv3d(1, 2, 1, stride=2)

    def forward(self, volumes: Tensor) -> Tensor:
        joined = torch.relu(self.main(volumes) + self.side(volumes))
        return torch.nn.functional.pad(joined, (1, 0, 0, 2, 0, 0)).permute(0, 1, 4, 2, 3)


def network_with(stage: nn.Module) -> StagedNetwork:
    return StagedNetwork({"one": stage, "head": nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.LazyLinear(2))})


def seen_by(network: StagedNetwork, name: str, cell: tuple[int, int, int], shape: Shape) -> list[tuple[int, int]]:
    """First and last voxel along every axis that a cell answers to."""
    kept: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(lambda module, inputs, output: kept.append(output))
    volume = torch.rand((1, 1, *shape), dtype=torch.float64, requires_grad=True)
    network.features(volume, "one")
    handle.remove()
    (gradient,) = torch.autograd.grad(kept[-1][(0, slice(None), *cell)].sum(), volume)
    places = np.argwhere(gradient[0, 0].numpy() != 0)
    return [(int(places[:, axis].min()), int(places[:, axis].max())) for axis in range(3)]


def test_joined_padded_and_turned_maps_see_what_the_geometry_says() -> None:
    shape = (20, 24, 28)
    network = network_with(_Residual()).double()
    for weights in network.stages["one"].parameters():
        nn.init.uniform_(weights, 0.5, 1.0)
    geometry = map_geometries(network, 1, shape)["stages.one"]
    assert geometry.cells == (10, 14, 15)
    assert geometry.order == (1, 2, 0)
    wanted = (4, 6, 5)  # x, y, z; the border is not touched
    cell = [0, 0, 0]
    for axis, place in enumerate(geometry.order):
        cell[place] = wanted[axis]
    for axis, (first, last) in enumerate(seen_by(network, "stages.one", (cell[0], cell[1], cell[2]), shape)):
        assert (first + last) / 2 == geometry.centres(axis)[wanted[axis]]
        assert last - first + 1 == geometry.receptive_field[axis]


class _Tokens(nn.Module):
    def forward(self, volumes: Tensor) -> Tensor:
        return volumes.flatten(2).transpose(1, 2)


def test_what_is_no_map_any_more_has_no_geometry_and_values_are_never_computed() -> None:
    network = network_with(nn.Sequential(nn.Conv3d(1, 4, 3), _Tokens()))
    weights = network.state_dict()["stages.one.0.weight"].clone()
    found = map_geometries(network, 1, (512, 512, 512))  # 0.5 GB per map, if there were values
    assert list(found) == ["stages.one.0"]
    assert torch.equal(network.state_dict()["stages.one.0.weight"], weights)
    assert deepest_map(map_geometries(network_with(nn.Conv3d(1, 1, 8, stride=8)), 1, (16, 16, 16))) is None


def test_a_map_goes_to_its_centres_and_not_to_those_of_a_resized_picture() -> None:
    geometry = MapGeometry((6, 6, 6), (2, 0, 1), (27.0,) * 3, (8.0,) * 3, (87,) * 3)
    cells = np.zeros((6, 6, 6), np.float32)
    cells[4, 2, 1] = 1.0  # y 4, z 2, x 1
    volume = geometry.onto(cells, (96, 96, 96))
    assert np.unravel_index(volume.argmax(), volume.shape) == (35, 59, 43)
    assert volume[35, 63, 43] == pytest.approx(0.5)
    assert volume[:27].tolist() == np.broadcast_to(volume[27], (27, 96, 96)).tolist()
    assert np.allclose(geometry.onto(np.ones((6, 6, 6)), (96, 90, 87)), 1.0)
