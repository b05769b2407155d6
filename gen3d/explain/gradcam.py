"""Grad-CAM with the true places of the cells (Selvaraju et al. 2017), never a map that is only resized."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.explain.attribution import Answer
from gen3d.nets.classifiers.base import StagedNetwork
from gen3d.nets.classifiers.geometry import MapGeometry, deepest_map, map_geometries


def chosen_layer(
    network: StagedNetwork, in_channels: int, size: tuple[int, int, int], layer: str
) -> tuple[str, MapGeometry]:
    """The module whose map is weighed, and where its cells lie in the view.

    Args:
        network: whose modules are named.
        in_channels, size: of the views that it is given.
        layer: a stage, or a module of one (`stages.block3.2`); "": the last map with 3 cells or more along every axis.

    Raises:
        UserError: no such module, none that is a map of the volume, or one without places.
    """
    found = map_geometries(network, in_channels, size)
    if not layer:
        name = deepest_map(found)
        if name is None:
            raise UserError(
                "this network has no map of the volume (it works on slices or tokens, or its maps have 2 cells or fewer), so "
                "Grad-CAM has nothing to weigh; leave grad_cam out of methods=."
            )
        return name, found[name]
    for name in (layer, f"stages.{layer}"):
        if name in found:
            return name, found[name]
    stages = [name.removeprefix("stages.") for name in found if name.count(".") == 1]
    raise UserError(
        f"layer={layer}: is no map of the volume in this network; its stages with one are {', '.join(stages) or 'none'}."
    )


def grad_cam(
    answer: Answer, network: StagedNetwork, layer: str, geometry: MapGeometry, view: Tensor
) -> NDArray[np.float32]:
    """max(0, sum_k w_k A_k) of the maps A of a layer, w_k the mean gradient over the cells, on the voxels of the view [x, y, z].

    The gradient is that of the answer before any softmax.
    """
    kept: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output if output.requires_grad else output.requires_grad_(True))
        return kept[-1].clone()  # what follows may work in place, and the maps are needed as they are

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            score = answer(view[None]).sum()
            (gradient,) = torch.autograd.grad(score, kept[-1])
    finally:
        handle.remove()
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    cells = torch.relu((weights * kept[-1].detach()).sum(1))[0]
    return geometry.onto(cells.float().cpu().numpy(), tuple(view.shape[1:]))
