"""How weights are updated: the optimiser, its learning-rate schedule, and the running average of the weights."""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gen3d.config import Config


class OptimConfig(Config):
    """AdamW with linear warm-up and cosine decay; progress is counted in weight updates."""

    steps: int = Field(2000, gt=0, description="weight updates per member")
    batch_size: int = Field(4, gt=0, description="volumes per weight update, over all processes and parts")
    accumulate: int = Field(1, gt=0, description="parts a batch is computed in, to save memory")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate, per update")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps over which the rate rises from 0")
    final_rate: float = Field(0.02, ge=0, le=1, description="rate at the end, as a share of the peak")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay, per unit of learning rate")
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's memory of squared gradients")
    clip: float = Field(1.0, gt=0, description="largest norm of a player's gradient")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights, which are the ones kept")

    @model_validator(mode="after")
    def _divides(self) -> OptimConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} is not a multiple of accumulate={self.accumulate}")
        return self

    def rate_at(self, step: int) -> float:
        """Learning rate of the update that follows `step` finished ones."""
        warmup_steps = self.warmup * self.steps
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / (math.floor(warmup_steps) + 1)
        progress = (step - warmup_steps) / max(1.0, self.steps - warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * cosine)

    def optimiser(self, module: nn.Module) -> torch.optim.AdamW:
        """AdamW over a player's weights, its state in float32; vectors and scalars are not decayed."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, self.beta2), fused=True)


class RunningAverage:
    """Exponential moving average of a module's weights, with a shorter memory at the start.

    The decay after t updates is min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = [parameter.detach().clone() for parameter in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after `step` finished updates."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.weights, [parameter.detach() for parameter in module.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange the average with the module's weights; a second call undoes the first, bit by bit."""
        for average, parameter in zip(self.weights, module.parameters(), strict=True):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)

    def state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's state with the averaged weights in place of its own."""
        names = [name for name, _ in module.named_parameters()]
        return {**module.state_dict(), **dict(zip(names, self.weights, strict=True))}
