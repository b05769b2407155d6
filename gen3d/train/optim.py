"""How weights are updated: the optimiser, its learning-rate schedule, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gen3d.core.config import Config


class OptimConfig(Config):
    """AdamW, or SGD, with linear warm-up and cosine decay; progress is counted in weight updates.

    Adam is AdamW with weight_decay=0; warmup=0 and final_rate=1 keep the rate constant.
    """

    method: Literal["adamw", "sgd"] = Field("adamw", description="adamw (Loshchilov 2019), or sgd with momentum")

    steps: int = Field(2000, gt=0, description="weight updates per member")
    batch_size: int = Field(4, gt=0, description="volumes per weight update, over all processes")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate, per update")
    rate_rule: Literal["constant", "sqrt", "linear"] = Field(
        "constant", description="how the peak rate grows with batch_size / rate_batch_size; constant: not at all"
    )
    rate_batch_size: int = Field(4, gt=0, description="the batch size that learning_rate was chosen for")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps, 0 to 1, over which the rate rises from 0")
    final_rate: float = Field(0.02, ge=0, le=1, description="learning rate at the end, as a share of the peak")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay, per unit of learning rate")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's memory of gradients")
    beta2: float = Field(0.99, gt=0, lt=1, description="AdamW's memory of squared gradients")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd's memory of gradients; its weight decay is plain L2")
    plateau: float = Field(
        1.0,
        gt=0,
        le=1,
        description="classifiers: what the rate is multiplied by when the validation loss has not fallen; 1: nothing",
    )
    plateau_patience: int = Field(2, ge=0, description="looks without a lower validation loss before that is done")
    clip: float = Field(1.0, gt=0, description="largest norm of a network's gradient; larger ones are scaled down")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights, which are the ones kept")

    skip_limit: int = Field(
        5, ge=0, description="weight updates in a row that may be skipped because a loss or gradient is not finite"
    )

    @property
    def num_moments(self) -> int:
        """Values that the optimiser keeps of every weight."""
        return 1 if self.method == "sgd" else 2

    @property
    def peak_rate(self) -> float:
        """Peak learning rate of this batch size (Goyal et al. 2017 for linear, Krizhevsky 2014 for sqrt)."""
        growth = self.batch_size / self.rate_batch_size
        return self.learning_rate * {"constant": 1.0, "sqrt": math.sqrt(growth), "linear": growth}[self.rate_rule]

    def rate_at(self, step: int) -> float:
        """Learning rate of the update that follows `step` finished ones."""
        warmup_steps = self.warmup * self.steps
        if step < warmup_steps:
            return self.peak_rate * (step + 1) / (math.floor(warmup_steps) + 1)
        progress = (step - warmup_steps) / max(1.0, self.steps - warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.peak_rate * (self.final_rate + (1 - self.final_rate) * cosine)

    def plateau_share(self, losses: Sequence[float]) -> float:
        """What the rate is multiplied by after these validation losses, in their order (as torch's ReduceLROnPlateau)."""
        share, best, waited = 1.0, math.inf, 0
        for loss in losses:
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
            if waited > self.plateau_patience:
                share, waited = share * self.plateau, 0
        return share

    def optimiser(
        self, module: nn.Module, decays_vectors: bool = False, slow: Sequence[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """The optimiser of a player's weights, its state in float32; vectors and scalars decay only with `decays_vectors`.

        `slow` ones have groups of their own, whose rate `set_rate` scales.
        """
        apart = {id(parameter) for parameter in slow}
        groups: list[dict[str, Any]] = []
        for is_slow in (False, True) if slow else (False,):
            trained = [p for p in module.parameters() if p.requires_grad and (id(p) in apart) == is_slow]
            marks = {SLOW: True} if is_slow else {}
            groups += [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay, **marks},
                {
                    "params": [p for p in trained if p.ndim <= 1],
                    "weight_decay": self.weight_decay * decays_vectors,
                    **marks,
                },
            ]
        if self.method == "sgd":
            return torch.optim.SGD(groups, lr=self.peak_rate, momentum=self.momentum)
        return torch.optim.AdamW(groups, lr=self.peak_rate, betas=(self.beta1, self.beta2), fused=True)


Moments = dict[str, dict[str, Tensor]]
"""{parameter: {exp_avg, exp_avg_sq}}, or {momentum_buffer} of SGD, each of the parameter's shape."""

MOMENTS = ("exp_avg", "exp_avg_sq")
MOMENTUM = "momentum_buffer"

SLOW = "slow"
"""Marks the groups of an optimiser whose rate is scaled."""


def set_rate(optimiser: torch.optim.Optimizer, rate: float, slow_share: float = 1.0) -> None:
    """Use this learning rate for the next update, and a share of it for slow weights."""
    for group in optimiser.param_groups:
        group["lr"] = rate * (slow_share if group.get(SLOW) else 1.0)


def adam_state(optimiser: torch.optim.Optimizer, module: nn.Module) -> tuple[Moments, int]:
    """The optimiser's moments by parameter name, on the CPU, and the number of updates that Adam made."""
    moments: Moments = {}
    updates = 0
    for name, parameter in module.named_parameters():
        held = optimiser.state.get(parameter)
        if held:
            moments[name] = {key: held[key].detach().cpu() for key in (*MOMENTS, MOMENTUM) if held.get(key) is not None}
            updates = int(held["step"].item()) if "step" in held else updates
    return moments, updates


def load_adam(optimiser: torch.optim.Optimizer, module: nn.Module, moments: Moments, updates: int) -> None:
    """Give the optimiser the moments and the number of updates that `adam_state` returned."""
    for name, parameter in module.named_parameters():
        if name in moments:
            held = {key: value.to(parameter.device).clone() for key, value in moments[name].items()}
            for value in held.values():
                value.data = value.contiguous(memory_format=_format(parameter))
            count = {} if MOMENTUM in held else {"step": torch.tensor(float(updates), device=parameter.device)}
            optimiser.state[parameter] = {**count, **held}


def _format(parameter: Tensor) -> torch.memory_format:
    dense = parameter.ndim == 5 and parameter.is_contiguous(memory_format=torch.channels_last_3d)
    return torch.channels_last_3d if dense and not parameter.is_contiguous() else torch.contiguous_format


class RunningAverage:
    """Exponential moving average of named weights, with a shorter memory at the start.

    The decay after t updates is min(decay, (1 + t) / (10 + t)).
    """

    def __init__(
        self, weights: Mapping[str, Tensor], decay: float, average: Mapping[str, Tensor] | None = None
    ) -> None:
        """Begin at the weights, or go on from an average."""
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in weights.items()}
        if average is not None:
            for name, value in self.weights.items():
                value.copy_(average[name])

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after `step` finished updates."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), [weights[name].detach() for name in self.weights], 1 - decay)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange the average with the module's weights; a second call undoes the first, bit by bit."""
        for name, parameter in module.named_parameters():
            held = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(held)
