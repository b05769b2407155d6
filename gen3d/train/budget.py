"""What a training will take, estimated before it starts, without data and without running it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gen3d.models.task import Batch, Task

GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """Estimated sizes of one training step, bytes."""

    parameters: int
    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + self.average + self.activations

    def sentence(self) -> str:
        """In words."""
        return (
            f"memory about {self.total / GIB:.2f} GiB per process: weights, gradients, optimiser and average "
            f"{(self.total - self.activations) / GIB:.2f}, activations {self.activations / GIB:.2f}"
        )


def estimate(task: Task, volume_shape: tuple[int, ...], num_volumes: int, bytes_per_value: int) -> Budget:
    """Run the model's forward pass on the meta device and add up what the backward pass would need.

    Args:
        task: built under `torch.device("meta")`.
        volume_shape: (C, X, Y, Z).
        num_volumes: volumes computed at once.
        bytes_per_value: 2 for bf16 activations, 4 for float32.
    """
    parameters = sum(p.numel() for player in task.players for p in task.weights(player).parameters())
    model_parameters = sum(p.numel() for p in task.weights("model").parameters())
    kept: dict[int, tuple[Tensor, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            # Meta storages have no address; the object itself, held here, tells them apart.
            kept[storage._cdata] = (tensor, tensor.numel())
        return tensor

    volumes = torch.empty((num_volumes, *volume_shape), device="meta")
    batch = Batch(volumes, ("",) * num_volumes, 0, (0,) * num_volumes)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        task(batch, "model")
    activations = sum(count for _, count in kept.values()) * bytes_per_value
    return Budget(
        parameters=parameters,
        weights=4 * parameters,
        gradients=4 * parameters,
        optimiser=8 * parameters,
        average=4 * model_parameters,
        activations=activations + 4 * volumes.numel(),
    )
