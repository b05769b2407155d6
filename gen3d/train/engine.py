"""Where a task is optimised: the interface between the loop and one process or many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from gen3d.models.task import Batch, Losses, Task


class Engine(ABC):
    """Runs a task's players on a device, or on one of several processes that move together.

    `save`, `load` and `export` are called by every process; only `primary` ones write logs and pictures.
    """

    task: Task
    device: torch.device
    rank: int = 0
    num_processes: int = 1

    @property
    def primary(self) -> bool:
        """Whether this process writes logs."""
        return self.rank == 0

    @abstractmethod
    def forward(self, batch: Batch, player: str) -> Losses:
        """The player's losses on this process's batch, in the engine's precision."""

    @abstractmethod
    def update(self, loss: Tensor, player: str, step: int) -> bool:
        """Take in the gradient of `loss`; true when that completed the player's weight update number `step`.

        Raises:
            FloatingPointError: the gradient is not finite; the weights are left as they were.
        """

    @abstractmethod
    def mean(self, losses: Losses) -> dict[str, float]:
        """Each term averaged over all processes."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything needed to go on: weights, optimisers and running average of every player."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""

    @abstractmethod
    def export(self) -> dict[str, Tensor]:
        """The model's complete state with averaged weights, free of ranks and wrappers."""

    @abstractmethod
    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights, for pictures; the trained weights come back afterwards."""

    @abstractmethod
    def close(self) -> None:
        """Release what the engine holds."""
