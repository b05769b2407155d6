"""The engine of one process: a CPU or one GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gen3d.models.task import Batch, Losses, Task
from gen3d.train.engine.compiling import compile_blocks
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.interface import Engine, State, fitting, messenger
from gen3d.train.engine.processes import Processes
from gen3d.train.optim import OptimConfig, RunningAverage, adam_state, load_adam


class LocalEngine(Engine):
    """AdamW per player, accumulation, clipping, autocast and a running average of the model's weights."""

    def __init__(
        self,
        task: Task,
        config: EngineConfig,
        optim: OptimConfig,
        processes: Processes,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task, config, optim, processes)
        self.optimisers = {
            player: optim.optimiser(task.weights(player), task.decays_vectors, task.slow_weights())
            for player in task.players
        }
        if state is not None:
            for player, weights in fitting(state, task)["weights"].items():
                task.weights(player).load_state_dict(weights)
                load_adam(
                    self.optimisers[player], task.weights(player), state["moments"][player], state["updates"][player]
                )
        self.average = RunningAverage(
            dict(task.weights("model").named_parameters()), optim.ema_decay, state["average"] if state else None
        )
        if config.compile:
            compile_blocks(task, self.device)

    def forward(self, batch: Batch, player: str) -> Losses:
        self.task.train()
        with self.autocast():
            losses: Losses = self.task(self.prepared(batch), player)
        return losses

    def backward(self, losses: Losses, player: str, part: int, num_parts: int) -> None:
        (messenger(losses) / num_parts).backward()

    def update(self, player: str, step: int) -> bool:
        module, optimiser = self.task.weights(player), self.optimisers[player]
        for (
            weights
        ) in self.task.slow_weights():  # untouched by the loss as yet; Adam counts one number of updates for all
            if weights.grad is None:
                weights.grad = torch.zeros_like(weights)
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.optim.clip, foreach=True)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.set_rates(optimiser, step)
            optimiser.step()
            if player == "model":
                self.average.update(dict(module.named_parameters()), step)
        optimiser.zero_grad(set_to_none=True)
        return finite

    def state(self) -> State:
        players = {player: self.task.weights(player) for player in self.task.players}
        adam = {player: adam_state(self.optimisers[player], module) for player, module in players.items()}
        return {
            "weights": {
                player: {name: value.detach().cpu() for name, value in module.state_dict().items()}
                for player, module in players.items()
            },
            "moments": {player: moments for player, (moments, _) in adam.items()},
            "updates": {player: updates for player, (_, updates) in adam.items()},
            "average": {name: value.cpu() for name, value in self.average.weights.items()},
        }

    def export(self) -> dict[str, Tensor]:
        return {**self.task.weights("model").state_dict(), **self.average.weights}

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        module = self.task.weights("model")
        self.average.swap(module)
        try:
            yield module
        finally:
            self.average.swap(module)

    def close(self) -> None:
        self.optimisers.clear()
