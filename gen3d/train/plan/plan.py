"""The memory and communication of a training, planned before it starts: without data, a GPU, or a step."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gen3d.models.base import BaseModelConfig, Model
from gen3d.models.task import Task
from gen3d.nets.device import computes_bfloat16
from gen3d.train.engine.config import EngineConfig
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.advice import Advice, advise
from gen3d.train.plan.memory import GIB, Memory, MemoryEstimator, StepSettings, step_flops
from gen3d.train.plan.sharding import STAGES, Traffic

CARDS_GIB = (24, 40, 64, 80)
"""Sizes of common GPUs."""

USABLE = 0.98
"""Share of a GPU's nominal memory that a program can have."""

ALLOWED = {
    "cpu": "python and libraries, the batch read ahead",
    "cuda": "CUDA, cuDNN, NCCL, gaps between the allocator's blocks",
}
INDENT = " " * 10
UNITS = ((2**40, "TiB"), (GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True)
class StepPlan:
    """One weight update: what it computes, holds and sends, and what to change if it does not fit."""

    step: StepSettings
    num_scans: int
    volume_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    """Of one volume; empty: the model has no latents."""

    flops: int
    """Floating point operations of one volume, recomputation included."""

    parameters: dict[str, int]
    """Of each player."""

    memory: Memory
    stages: dict[int, tuple[Memory, Traffic]]
    """Memory and communication under each ZeRO stage that this task can have."""

    limit: int | None
    """Memory that one process may use, bytes; None: not known."""

    advice: Advice | None
    """What to change when it does not fit."""

    @property
    def fits(self) -> bool | None:
        """Whether the step fits the memory; None when that is not known."""
        return None if self.limit is None else self.memory.total <= self.limit

    @property
    def steps_per_epoch(self) -> float:
        """Weight updates in which as many volumes are seen as there are scans."""
        return self.num_scans / self.step.optim.batch_size

    def sentences(self) -> list[str]:
        """The plan in lines of at most 100 characters for a terminal; the last ones are the verdict."""
        several = self.step.num_processes > 1
        return [
            *self._network(),
            *self._step(),
            *self._memory(),
            *self._emulation(),
            *(self._stages() if several else []),
            *self._verdict(),
        ]

    def _network(self) -> list[str]:
        counted = ", ".join(f"{player} {number:,}" for player, number in self.parameters.items())
        latent = f" -> latent {_shape(self.latent_shape)}" if self.latent_shape else ""
        return [
            f"network   {getattr(self.step.model, 'kind', 'model')}, parameters: {counted}",
            f"shapes    {_shape(self.volume_shape)}{latent}",
        ]

    def _step(self) -> list[str]:
        step, optim = self.step, self.step.optim
        where = ("GPU", "GPUs") if step.device == "cuda" else ("CPU process", "CPU processes")
        several = step.num_processes > 1
        on = f"{step.num_processes} {where[1]}, {step.share} on each" if several else f"one {where[0]}"
        parts = f"{step.num_parts} parts of {step.at_once}" if step.num_parts > 1 else "one part"
        precision = "bf16" if step.precision is torch.bfloat16 else "fp32"
        epochs = optim.steps / self.steps_per_epoch
        return [
            f"step      {optim.batch_size} volumes on {on}, computed in {parts}, {precision}",
            f"epoch     {self.num_scans} scans = {self.steps_per_epoch:.4g} steps; optim.steps={optim.steps} is "
            f"{epochs:,.{0 if epochs >= 10 else 1}f} epochs",
            f"work      {self.flops / 1e12:.3g} TFLOP per volume and step; the first steps of a run show the time",
        ]

    def _emulation(self) -> list[str]:
        """A processor without bfloat16 arithmetic converts maps and weights for each convolution and keeps the copies."""
        emulated = self.step.device == "cpu" and self.step.precision is torch.bfloat16
        if not emulated or computes_bfloat16(torch.device("cpu")):
            return []
        return [
            "emulated  this processor has no bf16 arithmetic: expect up to three times this memory and more",
            f"{INDENT}time than engine.precision=fp32 or auto",
        ]

    def _memory(self) -> list[str]:
        state, step = self.memory.state, self.step
        rows = [
            ("weights", state.weights, "float32, and buffers"),
            ("gradients", state.gradients, "float32"),
            ("optimiser", state.optimiser, "momentum" if step.optim.method == "sgd" else "AdamW's two moments"),
            ("average", state.average, "running average of the weights"),
            ("buckets", state.buckets, "gradients on their way"),
            ("activations", self.memory.passing, "kept for the backward pass"),
            ("allowance", self.memory.allowance, ALLOWED[step.device]),
        ]
        stage = f" under ZeRO {step.zero}" if step.num_processes > 1 else ""
        lines = [f"{INDENT}{name:11s} {value / GIB:8.3f}  {note}" for name, value, note in rows if value]
        return [f"memory    {_size(self.memory.total)} per process{stage}, of which in GiB:", *lines]

    def _stages(self) -> list[str]:
        """Memory and communication under every stage of ZeRO, the chosen one marked."""
        lines = ["ZeRO      stage     memory   sent by each process per step"]
        for stage, (memory, traffic) in self.stages.items():
            mark = "*" if stage == self.step.zero else " "
            gathered = f" + {_size(traffic.gathered)} of weights" if traffic.gathered else ""
            lines.append(
                f"{INDENT}{stage} {mark}  {_size(memory.total):>11s}   {_size(traffic.reduced)} of gradients{gathered}"
            )
        return lines

    def _verdict(self) -> list[str]:
        if self.limit is None:
            cards = [size for size in CARDS_GIB if self.memory.total <= size * USABLE * GIB]
            sizes = f"GPUs of {cards[0]} GiB and more" if cards else f"no GPU of {CARDS_GIB[-1]} GiB"
            return [f"fits      {sizes}; engine.memory_gib=SIZE plans for another memory"]
        needed = f"{_size(self.memory.total)} needed, {_size(self.limit)} available"
        if self.advice is None:
            return [f"fits      yes: {needed} per process"]
        settings, least = " ".join(self.advice.settings), _size(self.advice.total)
        if self.advice.total <= self.limit:
            return [f"fits      NO: {needed} per process; it fits ({least}) with", f"{INDENT}{settings}"]
        even = f"still {least} with" if settings else "no setting of the engine makes it smaller;"
        return [
            f"fits      NO: {needed} per process; {even}",
            *([f"{INDENT}{settings}"] if settings else []),
            f"{INDENT}choose a smaller network, or prepare the scans with a larger spacing_mm",
        ]


def plan_step(
    step: StepSettings, build: Callable[[BaseModelConfig], Task], num_scans: int, memory_gib: float = 0.0
) -> StepPlan:
    """Plan one weight update of a training.

    Args:
        step: the model, and how a step is computed.
        build: makes the task of a model's settings; it is called under `torch.device("meta")`.
        num_scans: training scans.
        memory_gib: memory of one process to compare with; 0: this machine's.
    """
    estimator = MemoryEstimator(build)
    task = estimator.task(step.model)
    memory, limit = estimator.memory(step), memory_limit(step, memory_gib)
    stages = STAGES if len(task.players) == 1 else STAGES[:-1]
    advice = None
    if limit is not None and memory.total > limit:
        advice = advise(lambda choice: estimator.memory(choice).total, step, limit, stages[-1])
    by_stage = {stage: replace(step, zero=stage) for stage in stages}
    return StepPlan(
        step=step,
        num_scans=num_scans,
        volume_shape=task.input_shape,
        latent_shape=_latent_shape(task),
        flops=step_flops(task, step.optim.steps - 1),
        parameters={player: sum(p.numel() for p in task.weights(player).parameters()) for player in task.players},
        memory=memory,
        stages={stage: (estimator.memory(other), estimator.traffic(other)) for stage, other in by_stage.items()},
        limit=limit,
        advice=advice,
    )


def step_settings(model: BaseModelConfig, optim: OptimConfig, engine: EngineConfig, num_started: int) -> StepSettings:
    """How an engine would compute a step, on GPUs also where there are none.

    `engine.device=auto` is a GPU where there is one, and also when the plan is for more processes than were started
    here: those will run on GPUs elsewhere.

    Raises:
        UserError: the batch cannot be shared out evenly over processes and parts.
    """
    num_processes = engine.num_processes(num_started)
    engine.parts(optim.batch_size, num_processes)
    elsewhere = torch.cuda.is_available() or num_processes > num_started
    device = ("cuda" if elsewhere else "cpu") if engine.device == "auto" else engine.device
    if device == "cuda" and not torch.cuda.is_available():
        precision = torch.float32 if engine.precision == "fp32" else torch.bfloat16
    else:
        precision = engine.chosen_precision(torch.device(device), model.material in ("labels", "modalities"))
    return StepSettings(
        model=model,
        optim=optim,
        device=device,
        precision=precision,
        channels_last=engine.layout(torch.device(device)) is torch.channels_last_3d,
        zero=engine.zero if engine.chosen_kind(num_processes) == "deepspeed" else 0,
        num_processes=num_processes,
        volumes_at_once=engine.volumes_at_once,
    )


def memory_limit(step: StepSettings, memory_gib: float) -> int | None:
    """Memory that one process may use, bytes: `memory_gib`, or if that is 0 this machine's GPU or its share of this
    machine's memory. None when the plan is for GPUs and there is none here."""
    if memory_gib > 0:
        return int(memory_gib * GIB)
    if step.device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    installed = machine_bytes()
    return installed // step.num_processes if installed is not None else None


def machine_bytes() -> int | None:
    """Memory of this machine, or less where a control group allows less; None where the system does not say."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    group = Path("/sys/fs/cgroup/memory.max")
    text = group.read_text().strip() if group.is_file() else "max"
    return min(installed, int(text)) if text.isdigit() else installed


def _latent_shape(task: Task) -> tuple[int, ...]:
    model = task.weights("model")
    if not (isinstance(model, Model) and model.has_latent):
        return ()
    return tuple(model.encode(torch.empty((1, *task.input_shape), device="meta")).shape[1:])


def _shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"{shape[0]} numbers"
    return f"{shape[0]} channel{'s' if shape[0] > 1 else ''} of {'x'.join(map(str, shape[1:]))}"


def _size(count: int) -> str:
    for unit, name in UNITS:
        if count >= unit:
            number = count / unit
            return f"{number:.0f} {name}" if number >= 100 else f"{number:.3g} {name}"
    return f"{count} B"
