"""Where the cells of a network's feature maps lie in the volume, and how much of it each of them sees.

A cell of a map sees a box of voxels, its receptive field. Convolutions and poolings of kernel k, stride s, padding p and
dilation d move and widen that box: with jump j (voxels between neighbouring cells) the low end goes down by p j, the high end
by p j less d (k - 1) j, and j becomes j s (Araujo et al. 2019, Distill). A map that is only resized to the volume is displaced
as soon as padding and kernels do not cancel: the fourth block of the network of Liu et al. has its centres at 27, 35, ... 67
of 96 voxels, and resizing would put them at 7.5, 23.5, ... 87.5.

A normalisation over the whole volume (instance, group) lets every cell see everything a little; the box is that of the windows,
as usual. The boxes are followed through one pass of shapes without values (PyTorch's meta device), so that branches, skipped
connections and turned axes need no description of the network and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from gen3d.nets.classifiers.base import HEAD, StagedNetwork

FEWEST_CELLS = 3
"""Along every axis of a map that can show a place; a map of one cell says nothing about where."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Axis:
    """One axis of a map: which axis of the volume it is, and the box of its first cell, from `low` to `high` voxels."""

    of_volume: int
    jump: float
    low: float
    high: float

    def through(self, kernel: int, stride: int, padding: float, dilation: int) -> Axis:
        """The axis after a convolution or pooling."""
        low, high = self.low - padding * self.jump, self.high - padding * self.jump
        return replace(self, jump=self.jump * stride, low=low, high=high + dilation * (kernel - 1) * self.jump)


@dataclass(frozen=True)
class MapGeometry:
    """Where a map of features lies in the volume that the network is given.

    Attributes:
        cells: of the map along x, y, z of the volume.
        order: dimension of the map (after batch and features) that is x, y and z of the volume.
        first: centre of the first cell along x, y, z, voxels.
        jump: voxels between the centres of neighbouring cells.
        receptive_field: voxels that one cell sees, before the border cuts it.
    """

    cells: Shape
    order: Shape
    first: tuple[float, float, float]
    jump: tuple[float, float, float]
    receptive_field: Shape

    def centres(self, axis: int) -> NDArray[np.float64]:
        """Centres of the cells along one axis of the volume, voxels."""
        return np.asarray(self.first[axis] + self.jump[axis] * np.arange(self.cells[axis]), dtype=np.float64)

    def turned(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        """A map in the network's order of dimensions as [x, y, z] of the volume."""
        return np.asarray(np.transpose(cells, self.order), dtype=np.float64)

    def onto(self, cells: NDArray[np.floating], shape: Sequence[int]) -> NDArray[np.float32]:
        """A map in the network's order of dimensions on the voxels of the volume, [X, Y, Z].

        Linear between the centres of the cells, and constant beyond the outermost ones, where no cell has its centre.
        """
        volume = self.turned(np.asarray(cells, dtype=np.float64))
        for axis in range(3):
            weights = _between(self.centres(axis), int(shape[axis]))
            volume = np.moveaxis(np.tensordot(weights, volume, axes=(1, axis)), 0, axis)
        return np.ascontiguousarray(volume, dtype=np.float32)

    def describe(self, spacing_mm: float) -> str:
        """Cell size and receptive field in mm, as part of a sentence."""
        return (
            f"cells every {_sides(self.jump, spacing_mm)} mm, each seeing {_sides(self.receptive_field, spacing_mm)} mm"
        )


def _sides(voxels: Sequence[float], spacing_mm: float) -> str:
    sides = [f"{side * spacing_mm:.0f}" for side in voxels]
    return sides[0] if len(set(sides)) == 1 else " x ".join(sides)


def _between(centres: NDArray[np.float64], num_voxels: int) -> NDArray[np.float64]:
    """What each cell adds to each voxel of a line, [voxels, cells]."""
    cells = np.eye(len(centres))
    return np.stack([np.interp(np.arange(num_voxels), centres, cell) for cell in cells], axis=1)


def map_geometries(network: StagedNetwork, in_channels: int, shape: Shape) -> dict[str, MapGeometry]:
    """The geometry of the output of every module before the head that is a map of the volume, in the order of the pass.

    Args:
        network: in any mode; its weights are not looked at.
        in_channels: of the volumes that it is given.
        shape: of these volumes, voxels.

    Returns:
        By the module's name in the network (`stages.block4.2`). Modules whose output is no map of the three axes any more
        (slices, tokens, pooled features) are left out.
    """
    found: dict[str, MapGeometry] = {}
    follow = _Following()
    kind = next((weights.dtype for weights in network.parameters()), torch.float32)
    volumes = torch.empty((1, in_channels, *shape), dtype=kind, device="meta")
    follow.know(volumes, tuple(Axis(axis, 1.0, 0.0, 0.0) for axis in range(3)))

    def noted(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            geometry = _geometry(output, follow.axes_of(output)) if isinstance(output, Tensor) else None
            if geometry is not None:
                found.pop(name, None)
                found[name] = geometry

        return note

    handles = [
        module.register_forward_hook(noted(name))
        for name, module in network.named_modules()
        if name.startswith("stages.") and name.split(".")[1] != HEAD
    ]
    training = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad(), follow:
            for name in network.stage_names[:-1]:
                stage = network.stages[name]
                volumes = functional_call(stage, _without_values(stage), (volumes,))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return found


def deepest_map(geometries: dict[str, MapGeometry]) -> str | None:
    """The last module whose map can still show a place, or None: that with 3 cells or more along every axis."""
    fine = [name for name, geometry in geometries.items() if min(geometry.cells) >= FEWEST_CELLS]
    return fine[-1] if fine else None


def _without_values(module: nn.Module) -> dict[str, Tensor]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}


def _geometry(output: Tensor, axes: tuple[Axis, ...] | None) -> MapGeometry | None:
    if axes is None or output.ndim != 5 or sorted(axis.of_volume for axis in axes) != [0, 1, 2]:
        return None
    order = tuple(next(place for place, axis in enumerate(axes) if axis.of_volume == wanted) for wanted in range(3))
    by_axis = [axes[place] for place in order]
    return MapGeometry(
        cells=_three(int(output.shape[2 + place]) for place in order),
        order=_three(order),
        first=_three((axis.low + axis.high) / 2 for axis in by_axis),
        jump=_three(axis.jump for axis in by_axis),
        receptive_field=_three(round(axis.high - axis.low) + 1 for axis in by_axis),
    )


def _three(values: Any) -> Any:
    first, second, third = values
    return first, second, third


# ------------------------------------------------------------------------------ following boxes through one pass


class _Following(TorchFunctionMode):
    """Knows the axes of every tensor of a pass: what windows and paddings do to them, what joins them, what turns them."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, tuple[Axis, ...] | None]] = {}

    def know(self, tensor: Tensor, axes: tuple[Axis, ...] | None) -> None:
        """Remember the axes of a tensor; the tensor is kept, so that no other takes its identity."""
        self._known[id(tensor)] = (tensor, axes)

    def axes_of(self, tensor: Tensor) -> tuple[Axis, ...] | None:
        """Axes of a tensor after batch and features, or None where it is no map."""
        return self._known.get(id(tensor), (tensor, None))[1]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        if isinstance(result, Tensor):
            rule = RULES.get(getattr(func, "__name__", ""), _joined)
            self.know(result, rule(self, result, args, given))
        return result


def _inputs(args: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in args:
        found += [value] if isinstance(value, Tensor) else _inputs(value) if isinstance(value, (list, tuple)) else []
    return found


def _joined(follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]) -> tuple[Axis, ...] | None:
    """An operation of each position by itself: the box around those of all inputs; None where positions are lost."""
    maps = [(tensor, axes) for tensor in _inputs([*args, *given.values()]) if (axes := follow.axes_of(tensor))]
    if not maps or any(tensor.shape[2:] != result.shape[2:] for tensor, _ in maps) or result.ndim != maps[0][0].ndim:
        return None
    together = maps[0][1]
    for _, axes in maps[1:]:
        if [(a.of_volume, a.jump) for a in axes] != [(a.of_volume, a.jump) for a in together]:
            return None
        pairs = zip(together, axes, strict=True)
        together = tuple(replace(a, low=min(a.low, b.low), high=max(a.high, b.high)) for a, b in pairs)
    return together


def _argument(args: Sequence[Any], given: dict[str, Any], place: int, name: str, otherwise: Any) -> Any:
    return args[place] if len(args) > place else given.get(name, otherwise)


def _each(value: Any, num: int) -> list[Any]:
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    return listed * num if len(listed) == 1 else listed


def _convolved(
    follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]
) -> tuple[Axis, ...] | None:
    volumes = _argument(args, given, 0, "input", None)
    weight = _argument(args, given, 1, "weight", None)
    kernel = tuple(weight.shape[2:])
    strides, paddings, dilations = (
        _argument(args, given, place, name, default)
        for place, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    dilations = _each(dilations, len(kernel))
    if paddings == "same":  # the odd voxel of an even window is added behind
        paddings = [dilation * (size - 1) // 2 for size, dilation in zip(kernel, dilations, strict=True)]
    elif paddings == "valid":
        paddings = 0
    return _windowed(follow.axes_of(volumes), kernel, strides, paddings, dilations)


def _pooled(follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]) -> tuple[Axis, ...] | None:
    volumes = _argument(args, given, 0, "input", None)
    kernel = _argument(args, given, 1, "kernel_size", 1)
    strides = _argument(args, given, 2, "stride", None) or kernel
    padding = _argument(args, given, 3, "padding", 0)
    return _windowed(follow.axes_of(volumes), kernel, strides, padding, _argument(args, given, 4, "dilation", 1))


def _averaged(
    follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]
) -> tuple[Axis, ...] | None:
    return _pooled(follow, result, args[:4], given)  # the fifth argument of an average is no dilation


def _windowed(
    axes: tuple[Axis, ...] | None, kernel: Any, strides: Any, paddings: Any, dilations: Any
) -> tuple[Axis, ...] | None:
    if axes is None:
        return None
    sizes = zip(*(_each(value, len(axes)) for value in (kernel, strides, paddings, dilations)), strict=True)
    return tuple(axis.through(*map(int, size)) for axis, size in zip(axes, sizes, strict=True))


def _padded(follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]) -> tuple[Axis, ...] | None:
    volumes, widths = _argument(args, given, 0, "input", None), list(_argument(args, given, 1, "pad", ()))
    axes = follow.axes_of(volumes)
    if axes is None or len(widths) > 2 * len(axes):
        return None
    before = [0] * len(axes)
    for place in range(len(widths) // 2):  # the last dimension comes first
        before[len(axes) - 1 - place] = int(widths[2 * place])
    return tuple(
        replace(axis, low=axis.low - width * axis.jump, high=axis.high - width * axis.jump)
        for axis, width in zip(axes, before, strict=True)
    )


def _permuted(
    follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]
) -> tuple[Axis, ...] | None:
    volumes = args[0]
    dims = given.get("dims", args[1] if len(args) == 2 else args[1:])
    return _reordered(follow.axes_of(volumes), [int(dim) % volumes.ndim for dim in _each(dims, 1)])


def _transposed(
    follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]
) -> tuple[Axis, ...] | None:
    volumes = args[0]
    first, second = (_argument(args, given, place, f"dim{place - 1}", 0) % volumes.ndim for place in (1, 2))
    order = list(range(volumes.ndim))
    order[first], order[second] = order[second], order[first]
    return _reordered(follow.axes_of(volumes), order)


def _moved(follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]) -> tuple[Axis, ...] | None:
    volumes = args[0]
    source, target = (_argument(args, given, place, name, 0) for place, name in ((1, "source"), (2, "destination")))
    sources = [int(dim) % volumes.ndim for dim in _each(source, 1)]
    targets = [int(dim) % volumes.ndim for dim in _each(target, 1)]
    order = [dim for dim in range(volumes.ndim) if dim not in sources]
    for place, dim in sorted(zip(targets, sources, strict=True)):
        order.insert(place, dim)
    return _reordered(follow.axes_of(volumes), order)


def _reordered(axes: tuple[Axis, ...] | None, order: list[int]) -> tuple[Axis, ...] | None:
    if axes is None or len(order) != len(axes) + 2 or order[:2] != [0, 1]:
        return None
    return tuple(axes[dim - 2] for dim in order[2:])


def _lost(follow: _Following, result: Tensor, args: Sequence[Any], given: dict[str, Any]) -> None:
    """An operation that moves positions in another way: nothing is known of its result."""


RULES: dict[str, Callable[..., tuple[Axis, ...] | None]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolved),
    **dict.fromkeys(("max_pool2d", "max_pool3d", "max_pool3d_with_indices"), _pooled),
    **dict.fromkeys(("avg_pool2d", "avg_pool3d"), _averaged),
    "pad": _padded,
    "permute": _permuted,
    "transpose": _transposed,
    **dict.fromkeys(("movedim", "moveaxis"), _moved),
    **dict.fromkeys(
        ("flip", "roll", "interpolate", "upsample_trilinear3d", "__getitem__", "__get__", "index_select"), _lost
    ),
}
"""By the function's name; all others act at each position by itself or lose the positions."""
