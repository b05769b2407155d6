"""Grad-CAM puts a cell where its receptive field is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.explain.gradcam import chosen_layer, grad_cam
from gen3d.nets.classifiers.base import StagedNetwork

SIZE = (40, 40, 40)


class _Mean(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        mean = features.mean(dim=(2, 3, 4))
        return torch.cat([0 * mean, mean], dim=1)


def strided(inplace: bool = True) -> StagedNetwork:
    """Convolutions without padding, as those of Liu et al., that answer to bright voxels."""
    first, second = nn.Conv3d(1, 1, 3, stride=2, bias=False), nn.Conv3d(1, 1, 3, stride=2, bias=False)
    for layer in (first, second):
        nn.init.constant_(layer.weight, 1.0)
    stages = {"one": nn.Sequential(first, nn.ReLU()), "two": nn.Sequential(second, nn.ReLU(inplace)), "head": _Mean()}
    return StagedNetwork(stages).eval()


def answer_of(network: StagedNetwork):  # type: ignore[no-untyped-def]
    return lambda views: network(views) @ torch.tensor([-1.0, 1.0])


@pytest.mark.parametrize("place", [(8, 20, 31), (20, 20, 20)])
def test_the_map_peaks_where_the_bright_spot_is(place: tuple[int, int, int]) -> None:
    network = strided()
    view = torch.zeros(1, *SIZE)
    view[(0, *(slice(p - 1, p + 2) for p in place))] = 1.0
    name, geometry = chosen_layer(network, 1, SIZE, "")
    assert name == "stages.two"
    cam = grad_cam(answer_of(network), network, name, geometry, view)
    weights = cam / cam.sum()
    centre = [float((weights.sum(axis=tuple({0, 1, 2} - {axis})) * np.arange(40)).sum()) for axis in range(3)]
    assert np.abs(np.array(centre) - place).max() < 1.0
    cells = geometry.cells[0]
    resized = (np.array(place) - geometry.first[0]) / geometry.jump[0] * 40 / cells + (40 / cells - 1) / 2
    assert cam.shape == SIZE
    assert np.abs(resized - place).max() < 4


def test_a_module_that_works_in_place_after_the_layer_changes_nothing() -> None:
    view = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0)) - 0.2
    maps = []
    for inplace in (True, False):
        network = strided(inplace)
        name, geometry = chosen_layer(network, 1, SIZE, "two.0")
        assert name == "stages.two.0"
        maps.append(grad_cam(answer_of(network), network, name, geometry, view))
    assert np.array_equal(*maps)
    assert maps[0].max() > 0


def test_layers_that_are_no_map_are_refused_in_a_sentence() -> None:
    network = strided()
    with pytest.raises(UserError, match=r"layer=three: is no map of the volume.*are one, two\."):
        chosen_layer(network, 1, SIZE, "three")
    with pytest.raises(UserError, match="leave grad_cam out of methods="):
        chosen_layer(StagedNetwork({"one": nn.Conv3d(1, 1, 8, stride=8), "head": _Mean()}), 1, (16, 16, 16), "")


def test_frozen_weights_are_explained_all_the_same() -> None:
    network = strided()
    network.requires_grad_(False)
    name, geometry = chosen_layer(network, 1, SIZE, "")
    view = torch.zeros(1, *SIZE)
    view[0, 20, 20, 20] = 1.0
    assert grad_cam(answer_of(network), network, name, geometry, view).max() > 0
