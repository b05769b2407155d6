"""Where a task is optimised: the interface between the loop and one process or many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.allocation import keep_freed_memory
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.processes import Processes
from gen3d.train.optim import OptimConfig, set_rate

State = dict[str, Any]
"""A checkpoint free of ranks: {weights: {player: {name: tensor}}, moments: {player: {parameter: {exp_avg, exp_avg_sq}}},
updates: {player: weight updates made}, average: {parameter of the model: tensor}}, all float32 on the CPU."""


class Engine(ABC):
    """Runs a task's players on a device, or on one of several processes that move together.

    `update`, `state`, `export`, `averaged`, `mean` and `close` are called by every process at the same time.
    """

    def __init__(self, task: Task, config: EngineConfig, optim: OptimConfig, processes: Processes) -> None:
        """Put the task on this process's device, its kernels in the layout of the volumes."""
        self.processes, self.optim = processes, optim
        self.device = config.chosen_device(processes.local_rank)
        self.precision = config.chosen_precision(self.device, task.exact_on_cpu)
        self.layout = config.layout(self.device)
        self.task = task.to(self.device)
        self.rate_share = 1.0
        """What the learning rates are multiplied by from now on, the same in every process."""
        for parameter in task.parameters():
            if parameter.ndim == 5:  # other tensors have no such layout
                parameter.data = parameter.data.contiguous(memory_format=self.layout)
        if self.device.type == "cpu":
            keep_freed_memory()

    @property
    def primary(self) -> bool:
        """Whether this process writes files and logs."""
        return self.processes.first

    def prepared(self, batch: Batch) -> Batch:
        """The batch with its volumes in the engine's memory layout."""
        batch.volumes = batch.volumes.contiguous(memory_format=self.layout)
        return batch

    def set_rates(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Use the learning rates of the update that follows `step` finished ones."""
        set_rate(optimiser, self.rate_at(step), self.task.slow_share(step))

    def rate_at(self, step: int) -> float:
        """The learning rate of the update that follows `step` finished ones, of all but slow weights."""
        return self.optim.rate_at(step) * self.rate_share * self.task.rate_share(step)

    def autocast(self) -> torch.autocast:
        """The engine's precision, as a context."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision is torch.bfloat16)

    @abstractmethod
    def forward(self, batch: Batch, player: str) -> Losses:
        """The player's losses on this process's batch, in the engine's precision."""

    @abstractmethod
    def backward(self, losses: Losses, player: str, part: int, num_parts: int) -> None:
        """Take in the gradient of the player's loss on one of the equal parts of the step."""

    @abstractmethod
    def update(self, player: str, step: int) -> bool:
        """Make the player's weight update number `step`; false if its gradient was not finite, in any process: then
        the gradient is dropped and the weights stay as they were, in all of them."""

    @abstractmethod
    def state(self) -> State | None:
        """Everything needed to go on, in the first process; None in the others."""

    @abstractmethod
    def export(self) -> dict[str, Tensor] | None:
        """The model's complete state with averaged weights, free of ranks and wrappers, in the first process."""

    @abstractmethod
    @contextmanager
    def averaged(self) -> Iterator[nn.Module | None]:
        """The model with its averaged weights, for pictures, in the first process; the trained weights come back."""

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Each value averaged over all processes."""
        return self.processes.mean(values)

    @abstractmethod
    def close(self) -> None:
        """Release what the engine holds."""


def messenger(losses: Losses) -> Tensor:
    """The loss, times NaN if any term of the player is not finite.

    A NaN in the gradient of one process reaches all of them with the reduction, so that all skip the same update
    without another exchange, and without waiting for the GPU.
    """
    terms = torch.stack([value.detach().float() for value in losses.values()])
    return losses["loss"] * (1.0 + 0.0 * terms.sum())


def fitting(state: Mapping[str, Any], task: Task) -> Mapping[str, Any]:
    """The state, if it belongs to this task.

    Raises:
        UserError: it was written by another version or for another network.
    """
    names = {player: set(task.weights(player).state_dict()) for player in task.players}
    held = {player: set(weights) for player, weights in state.get("weights", {}).items()}
    if set(state) != {"weights", "moments", "updates", "average"} or held != names:
        raise UserError(
            "the checkpoint holds the weights of another network, or was written by another version of gen3d; delete the "
            "folder's checkpoint/ to begin again, or go on with the version that wrote it."
        )
    return state
