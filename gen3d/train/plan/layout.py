"""The shapes of a network's feature maps at every level, read off a forward pass without contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gen3d.models.base import Model
from gen3d.models.task import Batch, Task

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Level:
    """Feature maps on one grid: the most channels that the way down and the way up have there (0: none)."""

    grid: Grid
    down: int
    up: int


@dataclass(frozen=True)
class Layout:
    """Shape of a volume (C, X, Y, Z), of its latent (empty: none), and the levels from fine to coarse."""

    volume: tuple[int, ...]
    latent: tuple[int, ...]
    levels: tuple[Level, ...]


def layout_of(task: Task) -> Layout:
    """The layout of a task's model, which was built under `torch.device("meta")`."""
    model = task.weights("model")
    volume = torch.empty((1, *task.input_shape), device="meta")
    latent: tuple[int, ...] = ()
    passed: list[tuple[Grid, int]] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 5:
            passed.append((tuple(output.shape[2:]), output.shape[1]))

    hooks = [block.register_forward_hook(note) for block in task.repeated_blocks()]
    try:
        if isinstance(model, Model) and model.has_latent:
            latent = tuple(model.encode(volume).shape[1:])
        num_down = len(passed)
        passed.clear()
        if isinstance(model, Model):
            model.expect(volume)
        else:
            task(Batch(volume, ("",), 0, (0,)), "model")
    finally:
        for hook in hooks:
            hook.remove()
    if not latent:
        coarsest = min(torch.Size(grid).numel() for grid, _ in passed)
        num_down = 1 + max(place for place, (grid, _) in enumerate(passed) if torch.Size(grid).numel() == coarsest)
    down, up = _widest(passed[:num_down]), _widest(passed[num_down:])
    grids = sorted(down | up, key=lambda grid: -torch.Size(grid).numel())
    levels = tuple(Level(grid, down.get(grid, 0), up.get(grid, 0)) for grid in grids)
    return Layout(task.input_shape, latent, levels)


def _widest(passed: list[tuple[Grid, int]]) -> dict[Grid, int]:
    channels: dict[Grid, int] = {}
    for grid, num in passed:
        channels[grid] = max(num, channels.get(grid, 0))
    return channels
