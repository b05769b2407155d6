"""A round brain of a few thousand voxels, and classifiers whose reasons are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gen3d.explain.question import Answering, AskedScore
from gen3d.nets.classifiers.base import StagedNetwork

SHAPE = (20, 24, 22)


def ball(centre: tuple[float, ...], radius: float, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.bool_]:
    """Voxels within a radius of a place."""
    grid = np.indices(shape).astype(float)
    squared = sum((grid[axis] - centre[axis]) ** 2 for axis in range(3))
    return np.asarray(squared <= radius**2)


BRAIN = ball((9.5, 11.5, 10.5), 9.0)
TARGET = ball((5.0, 9.0, 8.0), 2.5)


def quarters() -> NDArray[np.int16]:
    """Labels: 1 the target, 2 to 9 the octants of the rest of the brain; 0 outside, and a core without a name."""
    grid = np.indices(SHAPE)
    octant = (grid[0] > 9).astype(int) + 2 * (grid[1] > 11) + 4 * (grid[2] > 10)
    labels = np.where(BRAIN, octant + 2, 0)
    labels[ball((9.5, 11.5, 10.5), 3.0)] = 0
    labels[TARGET] = 1
    return labels.astype(np.int16)


class _Reading(nn.Module):
    """Minus the mean of the target, as the last of two logits: low there means ill."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel)

    def forward(self, volumes: Tensor) -> Tensor:
        read = (volumes * self.kernel).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(read), -read], dim=1)


def reading_network() -> StagedNetwork:
    """Reads the target, and nothing else."""
    kernel = torch.from_numpy(TARGET / TARGET.sum()).float()
    return StagedNetwork({"stem": nn.Conv3d(1, 1, 1), "head": _Reading(kernel)}).eval()


@dataclass(frozen=True)
class Window:
    """Where a view lies."""

    start: tuple[int, int, int]
    size: tuple[int, int, int]


@dataclass(frozen=True)
class Looking:
    """A classifier that sees a window as it is."""

    network: StagedNetwork
    window: Window = Window((0, 0, 0), SHAPE)

    def view(self, volumes: Tensor) -> Tensor:
        """The window, with padding where it begins before the grid."""
        parts = []
        for start, size, side in zip(self.window.start, self.window.size, volumes.shape[2:], strict=True):
            parts.append((max(start, 0), min(start + size, side), max(-start, 0)))
        seen = volumes.new_zeros((*volumes.shape[:2], *self.window.size))
        to = tuple(slice(offset, offset + high - low) for low, high, offset in parts)
        seen[(..., *to)] = volumes[(..., *(slice(low, high) for low, high, _ in parts))]
        return seen


def reading(network: StagedNetwork | None = None, window: Window | None = None) -> Answering:
    """The contrast of a network."""
    looking = Looking(network or reading_network(), window or Window((0, 0, 0), SHAPE))
    with torch.no_grad():
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            if network is None:
                getattr(looking.network.stages["stem"], name).fill_(value)
    return Answering(looking, AskedScore((-1.0, 1.0), "contrast"), 70.0)


def scans(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A person whose target is lower than that of the controls, and the mean of the controls; [1, X, Y, Z]."""
    generator = np.random.default_rng(seed)
    controls = np.where(BRAIN, 1.0, 0.0).astype(np.float32)
    person = controls + np.where(BRAIN, 0.1 * generator.standard_normal(SHAPE), 0.0).astype(np.float32)
    person[TARGET] -= 0.5
    return person[None].astype(np.float32), controls[None]
