"""What a classifier sees of a volume: a window of the grid, moved at random while training, and its intensities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from gen3d.cohort.channels import T1W
from gen3d.core.config import Config
from gen3d.imaging.plan import GridPlan

Intensity = Literal["minmax", "zscore", "stored"]
Triple = tuple[int, int, int]

SMALLEST_RANGE = 1e-6
"""Below this a volume counts as constant, and its intensities become 0."""


class ViewWindow(Config):
    """Where a view lies in the grid. A negative start, or an end beyond the grid, is padded with 0 in stored units."""

    start: Triple = Field(description="first voxel of the view along x, y, z of the grid")
    size: Triple = Field(description="voxels of the view along x, y, z")

    def describe(self, shape: Sequence[int]) -> str:
        """What is cut off and added along each axis of a grid of this shape, in words."""
        parts = []
        for axis, start, size, side in zip("xyz", self.start, self.size, shape, strict=True):
            before, after = start, side - start - size
            cut, added = max(before, 0) + max(after, 0), max(-before, 0) + max(-after, 0)
            if cut or added:
                words = [f"{cut} voxels are cut off"] * bool(cut) + [f"{added} of padding are added"] * bool(added)
                parts.append(f"along {axis} {' and '.join(words)}")
        sides = " x ".join(map(str, self.size))
        return f"{sides} voxels" + (f" ({'; '.join(parts)})" if parts else " (the whole grid)")


def window_of(
    plan: GridPlan, grid: Triple | None, around: NDArray[np.bool_] | None = None, margin_mm: float = 0.0
) -> ViewWindow:
    """The view's place in a grid.

    Args:
        plan: the grid.
        grid: voxels of the view; None: as many as the grid has, or as `around` needs with its margin.
        around: voxels [X, Y, Z] that the view is centred on; None: the grid's centre.
        margin_mm: added on each side of `around` where `grid` is None.
    """
    if around is None:
        low, high = np.zeros(3, dtype=np.int64), np.asarray(plan.shape)
    else:
        places = np.argwhere(around)
        margin = int(np.ceil(margin_mm / plan.spacing_mm - 1e-9)) if grid is None else 0
        low, high = places.min(axis=0) - margin, places.max(axis=0) + 1 + margin
    size = np.asarray(grid) if grid is not None else high - low
    start = np.floor_divide(low + high - size, 2)
    return ViewWindow(start=_triple(start), size=_triple(size))


def _triple(values: NDArray[np.int64]) -> Triple:
    return int(values[0]), int(values[1]), int(values[2])


def framed(volumes: Tensor, window: ViewWindow, offsets: Tensor | None = None) -> Tensor:
    """The window of volumes [B, C, X, Y, Z], differentiable; [B, C, *window.size].

    `offsets` [B, 3] are whole voxels by which each volume's window is moved.
    """
    if offsets is None:
        return _cut(volumes, window.start, window.size)
    moved = [[start + int(step) for start, step in zip(window.start, row, strict=True)] for row in offsets.tolist()]
    return torch.cat([_cut(volume[None], start, window.size) for volume, start in zip(volumes, moved, strict=True)])


def _cut(volumes: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """One window for all; what lies outside is 0."""
    padding: list[int] = []
    for axis, (first, length, side) in enumerate(zip(start, size, volumes.shape[2:], strict=True)):
        low, high = min(max(first, 0), side), min(max(first + length, 0), side)
        volumes = volumes.narrow(axis + 2, low, high - low)
        before = min(max(-first, 0), length)
        padding = [before, length - before - (high - low), *padding]
    return functional.pad(volumes, padding) if any(padding) else volumes


def rescaled(
    view: Tensor, rule: Intensity, channels: Sequence[str], inside: Tensor, black: float | None = None
) -> Tensor:
    """The view [B, C, X, Y, Z] with the intensities of its T1w channel by a rule; measurements keep their stored values.

    Args:
        view: in stored units.
        rule: minmax: 0 to 1 of each volume's view; zscore: mean 0 and SD 1 of its voxels inside the brain, the background
            becomes as dark as it is; stored: white matter 1, background 0.
        channels: their names.
        inside: brain mask of the view, [B or 1, 1, X, Y, Z].
        black: what zscore makes of the background (0 in stored units), for a network that learned from pictures; None: what
            comes of it.
    """
    if rule == "stored" or T1W not in channels:
        return view
    index = list(channels).index(T1W)
    t1w = view[:, index : index + 1]
    if rule == "minmax":
        low, high = t1w.amin((2, 3, 4), keepdim=True), t1w.amax((2, 3, 4), keepdim=True)
        t1w = (t1w - low) / (high - low).clamp(min=SMALLEST_RANGE)
    else:
        weights = inside.to(t1w.dtype)
        num = weights.sum((2, 3, 4), keepdim=True).clamp(min=1.0)
        mean = (t1w * weights).sum((2, 3, 4), keepdim=True) / num
        variance = ((t1w - mean).square() * weights).sum((2, 3, 4), keepdim=True) / num
        background = t1w == 0
        t1w = (t1w - mean) / variance.sqrt().clamp(min=SMALLEST_RANGE)
        if black is not None:
            t1w = torch.where(background, black, t1w)
    return torch.cat([view[:, :index], t1w, view[:, index + 1 :]], dim=1)
