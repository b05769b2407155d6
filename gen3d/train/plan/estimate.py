"""Memory and communication of a training step under given settings, estimated before it is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gen3d.core.errors import UserError
from gen3d.models.base import BaseModelConfig
from gen3d.models.task import Task
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.footprint import activation_bytes
from gen3d.train.plan.sharding import Held, Sent, Sizes, held, sent

GIB = 2**30
FIXED_BYTES = {"cpu": 3 * GIB // 4, "cuda": GIB}
"""Allowance: Python, torch, its libraries and what they keep on a CPU (measured: 0.7 GiB, analysis/benchmarks/memory.py);
CUDA's context, cuDNN and NCCL on a GPU (not measured)."""

FRAGMENTS = {"cpu": 0.45, "cuda": 0.05}
"""Allowance for gaps between the allocator's blocks, as a share of the activations; on CPUs freed memory is kept."""

Build = Callable[[BaseModelConfig], Task]


@dataclass(frozen=True)
class StepSettings:
    """How a step is computed: what of the engine's settings matters for memory and communication.

    `volumes_at_once` = 0 is a process's whole share of the batch; `memory_gib` = 0 is the memory found here;
    `bucket_values` is DeepSpeed's reduce_bucket_size.
    """

    device: str = "cpu"
    precision: torch.dtype = torch.float32
    channels_last: bool = False
    zero: int = 0
    num_processes: int = 1
    volumes_at_once: int = 0
    memory_gib: float = 0.0
    bucket_values: int = 2**25


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the fullest moment of a step."""

    held: Held
    activations: int
    allowance: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.held.lasting + self.passing + self.allowance

    @property
    def passing(self) -> int:
        """What comes and goes: the activations, or the gradients on their way when that takes more."""
        return max(self.activations, self.held.exchanged)


@dataclass(frozen=True)
class Choice:
    """A model and how its step is computed: what an estimate is made of."""

    model: BaseModelConfig
    settings: StepSettings

    def parts(self, batch_size: int) -> int:
        """Parts that a process's share of a step comes in, or a UserError when it cannot be shared out evenly."""
        share, left_over = divmod(batch_size, self.settings.num_processes)
        if left_over:
            raise UserError(
                f"optim.batch_size={batch_size} volumes cannot be shared out over {self.settings.num_processes} "
                "processes; choose a number of processes that divides it."
            )
        parts, left_over = divmod(share, self.settings.volumes_at_once or share)
        if left_over:
            raise UserError(
                f"engine.volumes_at_once={self.settings.volumes_at_once} does not divide the {share} volumes that each "
                "process computes per step; choose a divisor."
            )
        return parts

    def at_once(self, batch_size: int) -> int:
        """Volumes that a process computes at once."""
        return batch_size // self.settings.num_processes // self.parts(batch_size)


class Estimator:
    """Estimates of one training under different settings; what was computed is kept."""

    def __init__(self, build: Build, optim: OptimConfig) -> None:
        """`build` makes the task of a model's settings; it is called under `torch.device("meta")`."""
        self.optim = optim
        self._build = build
        self._tasks: dict[str, Task] = {}
        self._activations: dict[tuple[Any, ...], int] = {}

    def task(self, model: BaseModelConfig) -> Task:
        """The task on the meta device."""
        key = model.model_dump_json()
        if key not in self._tasks:
            with torch.device("meta"):
                self._tasks[key] = self._build(model)
        return self._tasks[key]

    def sizes(self, model: BaseModelConfig) -> Sizes:
        """Values that are trained and bytes that are not."""
        task = self.task(model)
        trained = {id(p): p for player in task.players for p in task.weights(player).parameters()}
        fixed = [tensor for tensor in (*task.parameters(), *task.buffers()) if id(tensor) not in trained]
        return Sizes(
            trained=sum(parameter.numel() for parameter in trained.values()),
            model=sum(parameter.numel() for parameter in task.weights("model").parameters()),
            constant_bytes=sum(tensor.numel() * tensor.element_size() for tensor in fixed),
        )

    def memory(self, choice: Choice) -> Memory:
        """Memory of one process."""
        settings = choice.settings
        at_once = choice.at_once(self.optim.batch_size)
        key = (choice.model.model_dump_json(), at_once, settings.precision, settings.device, settings.channels_last)
        task = self.task(choice.model)
        if key not in self._activations:
            self._activations[key] = activation_bytes(
                task, at_once, self.optim.steps - 1, settings.precision, settings.device, settings.channels_last
            )
        activations = self._activations[key]
        # On a CPU the batch that is read ahead lies in the same memory.
        num_values = torch.Size(task.input_shape).numel()
        ahead = 4 * at_once * num_values if settings.device == "cpu" else 0
        allowance = FIXED_BYTES[settings.device] + ahead + int(FRAGMENTS[settings.device] * activations)
        fixed = held(self.sizes(choice.model), settings.zero, settings.num_processes, settings.bucket_values)
        return Memory(fixed, activations, allowance)

    def sent(self, choice: Choice) -> Sent:
        """Communication of one process in a step."""
        settings = choice.settings
        parts = choice.parts(self.optim.batch_size)
        return sent(self.sizes(choice.model), settings.zero, settings.num_processes, parts)


def planned_device(device: str, num_processes: int, num_started: int) -> str:
    """Type of device to plan for: cpu or cuda.

    `auto` is a GPU where there is one, and also when the plan is for more processes than were started here: those will
    run on GPUs elsewhere. The plan of a GPU needs none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() or num_processes > num_started else "cpu"
    return device


def planned_precision(precision: str, device: str) -> torch.dtype | None:
    """What `auto`, fp32 or bf16 means on a GPU that is not here; None: ask the device that is."""
    if device == "cuda" and not torch.cuda.is_available():
        return torch.float32 if precision == "fp32" else torch.bfloat16
    return None


def memory_limit(settings: StepSettings) -> int | None:
    """Memory that one process may use, bytes: what was asked for, this machine's GPU, or its share of this machine's
    memory. None when the plan is for GPUs and there is none here to ask."""
    if settings.memory_gib > 0:
        return int(settings.memory_gib * GIB)
    if settings.device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    found = machine_bytes()
    return found // settings.num_processes if found is not None else None


def machine_bytes() -> int | None:
    """Memory of this machine, or less where a control group allows less; None where the system does not say."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    group = Path("/sys/fs/cgroup/memory.max")
    text = group.read_text().strip() if group.is_file() else "max"
    return min(found, int(text)) if text.isdigit() else found
