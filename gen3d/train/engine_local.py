"""The engine of one process: a CPU or one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gen3d.config import Config, execution
from gen3d.errors import UserError
from gen3d.models.task import Batch, Losses, Task
from gen3d.progress import say
from gen3d.train.engine import Engine
from gen3d.train.optim import OptimConfig, RunningAverage

STATE = "state.pt"


class EngineConfig(Config):
    """One process on a CPU or one GPU."""

    kind: Literal["local"] = Field("local", description="local: one process")
    device: Literal["auto", "cpu", "cuda"] = execution("auto", "where to compute; auto takes a GPU if there is one")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the network; auto is bf16 where the processor computes in it. Losses are always float32"
    )
    channels_last: Literal["auto", "on", "off"] = execution("auto", "memory layout of volumes; auto: on for GPUs")
    compile: bool = execution(False, "fuse the network's blocks with torch.compile (needs a C++ compiler)")
    threads: int = execution(0, "CPU threads; 0: as many as torch chooses", ge=0)
    checkpoint_every: int = execution(500, "steps between checkpoints", gt=0)

    def chosen_device(self) -> torch.device:
        """The device, or a UserError when a GPU was asked for and there is none."""
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise UserError(
                "engine.device=cuda, but torch sees no GPU; use engine.device=cpu or install torch for CUDA."
            )
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")

    def chosen_precision(self, device: torch.device) -> torch.dtype:
        """bfloat16 or float32."""
        if self.precision == "auto":
            return torch.bfloat16 if computes_bfloat16(device) else torch.float32
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def layout(self, device: torch.device) -> torch.memory_format:
        """Memory format of five-dimensional tensors."""
        last = self.channels_last == "on" or (self.channels_last == "auto" and device.type == "cuda")
        return torch.channels_last_3d if last else torch.contiguous_format

    def build(self, task: Task, optim: OptimConfig) -> LocalEngine:
        """The engine for a task."""
        return LocalEngine(task, self, optim)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic; emulating it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class LocalEngine(Engine):
    """AdamW per player, accumulation, clipping, autocast and a running average of the model's weights."""

    def __init__(self, task: Task, config: EngineConfig, optim: OptimConfig) -> None:
        self.device = config.chosen_device()
        self.precision = config.chosen_precision(self.device)
        self.layout = config.layout(self.device)
        self.task = task.to(self.device)
        for player in task.players:
            task.weights(player).to(memory_format=self.layout)  # type: ignore[call-overload]
        self.optim = optim
        self.optimisers = {player: optim.optimiser(task.weights(player)) for player in task.players}
        self.average = RunningAverage(task.weights("model"), optim.ema_decay)
        self._parts_done = dict.fromkeys(task.players, 0)
        if config.compile:
            self._compile()

    def _compile(self) -> None:
        try:
            import torch._inductor.cpp_builder as builder

            if self.device.type == "cpu":
                builder.get_cpp_compiler()
        except Exception as error:
            say(f"engine.compile: no C++ compiler works here ({type(error).__name__}), training without it.")
            return
        for block in self.task.repeated_blocks():
            block.compile(dynamic=False)

    def forward(self, batch: Batch, player: str) -> Losses:
        self.task.train()
        batch.volumes = batch.volumes.contiguous(memory_format=self.layout)
        enabled = self.precision is torch.bfloat16
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
            losses: Losses = self.task(batch, player)
        return losses

    def update(self, loss: Tensor, player: str, step: int) -> bool:
        (loss / self.optim.accumulate).backward()
        self._parts_done[player] += 1
        if self._parts_done[player] < self.optim.accumulate:
            return False
        self._parts_done[player] = 0
        module, optimiser = self.task.weights(player), self.optimisers[player]
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.optim.clip, foreach=True)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"the {player}'s gradient")
        for group in optimiser.param_groups:
            group["lr"] = self.optim.rate_at(step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if player == "model":
            self.average.update(module, step)
        return True

    def mean(self, losses: Losses) -> dict[str, float]:
        return {name: float(value) for name, value in losses.items()}

    def save(self, folder: Path) -> None:
        state = {
            "weights": {player: self.task.weights(player).state_dict() for player in self.task.players},
            "optimisers": {player: optimiser.state_dict() for player, optimiser in self.optimisers.items()},
            "average": self.average.weights,
        }
        torch.save(state, folder / STATE)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / STATE, map_location=self.device, weights_only=True)
        for player in self.task.players:
            self.task.weights(player).load_state_dict(state["weights"][player])
            self.optimisers[player].load_state_dict(state["optimisers"][player])
        self.average.weights = [tensor.to(self.device) for tensor in state["average"]]

    def export(self) -> dict[str, Tensor]:
        return self.average.state_dict(self.task.weights("model"))

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
