"""What is optimised in training: the players of a task, and the losses of each on a batch. Devices are not its concern."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]
"""Named scalar float32 terms; `loss` is the one to minimise."""


@dataclass
class Batch:
    """Some of the volumes of one weight update.

    `seeds` holds one number per volume, a function of the run's seed, the step and the volume's place in the global
    batch only, so that the noise a volume meets does not depend on how the batch is split over processes.
    `conditions` are coded conditions of the volumes [B, p], NaN where unknown, for models that have any; `labels` are
    the targets of a supervised task [B]: class numbers, or standardised values.
    `shared` lets one player leave tensors for the next, within this batch.
    """

    volumes: Tensor
    subjects: tuple[str, ...]
    step: int
    seeds: tuple[int, ...]
    conditions: Tensor | None = None
    labels: Tensor | None = None
    shared: dict[str, Tensor] = field(default_factory=dict)

    def noise(self, shape: Sequence[int], stream: int) -> Tensor:
        """Standard normal noise [B, *shape], drawn on the CPU volume by volume; `stream` separates uses."""
        draws = []
        for seed in self.seeds:
            state = np.random.SeedSequence([seed, stream]).generate_state(2, np.uint32)
            generator = torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
            draws.append(torch.randn(tuple(shape), generator=generator))
        return torch.stack(draws).to(self.volumes.device)


class Task(nn.Module, ABC):
    """An optimisation problem with one or more players, each with its own weights and its own loss."""

    players: tuple[str, ...] = ("model",)

    decays_vectors = False
    """Whether weight decay also pulls vectors and scalars (biases, scales of normalisations) towards zero."""

    exact_on_cpu = False
    """Whether float32 is the precision of choice on CPUs."""

    def playing(self, step: int) -> tuple[str, ...]:
        """The players that move at this step, in order."""
        return self.players

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, X, Y, Z) of one of a batch's volumes."""
        shape: tuple[int, ...] = cast(Any, self.weights("model")).volume_shape
        return shape

    def slow_weights(self) -> list[nn.Parameter]:
        """Weights of the player `model` that have a learning rate of their own; none by default."""
        return []

    def slow_share(self, step: int) -> float:
        """Their learning rate at this step, as a share of that of the others."""
        return 1.0

    def rate_share(self, step: int) -> float:
        """Learning rate of everything at this step, as a share of the optimiser's own."""
        return 1.0

    def compute_once(self) -> None:
        """On the meta device, what is computed of one volume before the first step, for the plan of the memory."""

    def complete(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's whole state, given that of the module that the player `model` changes."""
        return tensors

    def repeated_blocks(self) -> list[nn.Module]:
        """The blocks worth compiling, if any."""
        return []

    @abstractmethod
    def weights(self, player: str) -> nn.Module:
        """The module a player's update changes."""

    @abstractmethod
    def forward(self, batch: Batch, player: str) -> Losses:
        """The player's losses on a batch, in float32."""
