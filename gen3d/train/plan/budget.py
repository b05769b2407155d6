"""What a training will take, planned before it starts: without data, without a GPU, without running it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from gen3d.core.progress import duration
from gen3d.models.base import BaseModelConfig
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.advice import room_left, ways_to_fit, with_changes
from gen3d.train.plan.estimate import GIB, Build, Choice, Estimator, Memory, StepSettings, memory_limit
from gen3d.train.plan.layout import Layout, Level, layout_of
from gen3d.train.plan.roofline import GPUS, SECONDS_PER_PART, Work, work_of
from gen3d.train.plan.sharding import STAGES, Sent

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

    choice: Choice
    optim: OptimConfig
    num_scans: int
    layout: Layout
    work: Work
    parameters: dict[str, int]
    """Of each player."""

    memory: Memory
    checkpointed: dict[bool, int]
    """Activations in bytes without and with gradient checkpointing, if the model can do it."""

    stages: dict[int, tuple[Memory, Sent]]
    """Memory and communication under each ZeRO stage that this task can have."""

    limit: int | None
    """Memory that one process may use, bytes; None: not known."""

    advice: tuple[str, ...] | None
    """Settings to type that make it fit (when it does not) or faster (when it does); None: nothing makes it fit."""

    changes_result: bool
    """Whether the advice changes what is learned."""

    cards: dict[int, tuple[str, ...] | None]
    """Settings that make it fit GPUs of these sizes in GiB, without changing what is learned; empty: it fits."""

    @property
    def num_parts(self) -> int:
        """Parts that a process's share of a step comes in."""
        return self.choice.parts(self.optim.batch_size)

    @property
    def fits(self) -> bool | None:
        """Whether the step fits the memory; None when that is not known."""
        return None if self.limit is None else self.memory.total <= self.limit

    @property
    def steps_per_epoch(self) -> float:
        """Weight updates in which as many volumes are seen as there are scans."""
        return self.num_scans / self.optim.batch_size

    def sentences(self) -> list[str]:
        """The plan in lines of at most 100 characters for a terminal; the last ones say what to type."""
        lines = [*self._network(), *self._step(), *self._memory()]
        if self.choice.settings.num_processes > 1:
            lines += self._stages()
        return [*lines, *self._verdict()]

    def _network(self) -> list[str]:
        layout = self.layout
        counted = ", ".join(f"{player} {number:,}" for player, number in self.parameters.items())
        latent = f" -> latent {_shape(layout.latent)}" if layout.latent else ""
        columns = [("grid", "encoder", "decoder"), *(_level(level) for level in layout.levels)]
        widths = [max(map(len, column)) for column in columns]
        rows = [
            INDENT + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in zip(*columns, strict=True)
        ]
        return [
            f"network   {getattr(self.choice.model, 'kind', 'model')}, parameters: {counted}",
            f"shapes    {_shape(layout.volume)}{latent}, channels on each grid:",
            *rows,
        ]

    def _step(self) -> list[str]:
        settings, optim, parts = self.choice.settings, self.optim, self.num_parts
        where = "GPU" if settings.device == "cuda" else "CPU process"
        plural = "es" if where == "CPU process" else "s"
        share = optim.batch_size // settings.num_processes
        several = settings.num_processes > 1
        on = f"{settings.num_processes} {where}{plural}, {share} on each" if several else f"one {where}"
        computed = f"{parts} parts of {share // parts}" if parts > 1 else "one part"
        precision = "bf16" if settings.precision is torch.bfloat16 else "fp32"
        epochs = optim.steps / self.steps_per_epoch
        return [
            f"step      {optim.batch_size} volumes on {on}, computed in {computed}, {precision}",
            f"epoch     {self.num_scans} scans = {self.steps_per_epoch:.4g} steps; optim.steps={optim.steps} is "
            f"{epochs:,.{0 if epochs >= 10 else 1}f} epochs",
            *self._time(),
        ]

    def _time(self) -> list[str]:
        """Arithmetic of a volume, and on GPUs a rough time of the training; loading and exchange left out."""
        counted = f"time      {self.work.operations / 1e12:.3g} TFLOP per volume and step"
        if self.choice.settings.device != "cuda":
            return [counted + "; the first steps of a run say how long it takes"]
        volumes, parts = self.optim.batch_size // self.choice.settings.num_processes, self.num_parts
        seconds = [volumes * self.work.seconds_on(gpu) + parts * SECONDS_PER_PART for gpu in GPUS]
        times = [f"{duration(self.optim.steps * each)} on {gpu.name}" for gpu, each in zip(GPUS, seconds, strict=True)]
        return [
            f"{counted}; optim.steps={self.optim.steps} takes roughly",
            f"{INDENT}{', '.join(times)} (computing only, from data sheets)",
        ]

    def _memory(self) -> list[str]:
        held, settings = self.memory.held, self.choice.settings
        several, zero = settings.num_processes > 1, settings.zero
        part = f", in {settings.num_processes} parts" if several else ""
        own = {0: "", 3: ": gathered, and a part twice"}.get(zero, ": whole, and a part once more")
        rows = [
            ("weights", held.weights, f"float32 and buffers{own if several else ''}"),
            ("gradients", held.gradients, "float32" + (part if zero > 1 else "")),
            ("optimiser", held.optimiser, "AdamW's two moments" + (part if zero > 0 else "")),
            ("average", held.average, "running average of the weights" + (part if zero > 2 else "")),
            ("buckets", held.buckets, "gradients on their way"),
            ("activations", self.memory.passing, self._checkpointing()),
            ("allowance", self.memory.allowance, ALLOWED[settings.device]),
        ]
        stage = f" under ZeRO {zero}" if several else ""
        lines = [f"{INDENT}{name:11s} {_gib(value)}  {note}".rstrip() for name, value, note in rows if value]
        return [f"memory    {_size(self.memory.total)} per process{stage}, of which in GiB:", *lines]

    def _checkpointing(self) -> str:
        on = bool(getattr(self.choice.model, "gradient_checkpointing", False))
        if (not on) not in self.checkpointed:
            return ""
        return f"{_size(self.checkpointed[not on])} with model.gradient_checkpointing={str(not on).lower()}"

    def _stages(self) -> list[str]:
        """Memory and communication under every stage of ZeRO, the chosen one marked."""
        lines = ["ZeRO      stage     memory   sent by each process per step"]
        for stage, (memory, sent) in self.stages.items():
            mark = "*" if stage == self.choice.settings.zero else " "
            gathered = f" + {_size(sent.gathered)} of weights" if sent.gathered else ""
            lines.append(
                f"{INDENT}{stage} {mark}  {_size(memory.total):>11s}   {_size(sent.reduced)} of gradients{gathered}"
            )
        return lines

    def _verdict(self) -> list[str]:
        return [*self._against_limit(), *self._cards()]

    def _against_limit(self) -> list[str]:
        if self.limit is None:
            return []
        asked = self.choice.settings.memory_gib
        each = " per process" if self.choice.settings.num_processes > 1 else ""
        room = f"engine.memory_gib={asked:g}" if asked else f"this machine's {_size(self.limit)}{each}"
        needed, typed = _size(self.memory.total), " ".join(self.advice or ())
        if self.fits:
            faster = [f"{INDENT}faster, and still fits: {typed}"] if typed else []
            return [f"fits      yes: {needed} of {room}", *faster]
        if self.advice is None:
            return [
                f"fits      NO: {needed} of {room}, and no setting that was tried makes it fit;",
                f"{INDENT}prepare the scans with a larger spacing_mm",
            ]
        other = [f"{INDENT}(another, smaller model: nothing else fits; results differ)"] if self.changes_result else []
        return [f"fits      NO: {needed} of {room}; it fits with", f"{INDENT}{typed}", *other]

    def _cards(self) -> list[str]:
        """One line per answer, for GPUs of common sizes."""
        by_answer: dict[tuple[str, ...] | None, list[int]] = {}
        for size, typed in self.cards.items():
            by_answer.setdefault(typed, []).append(size)
        lines: list[str] = []
        for typed, sizes in by_answer.items():
            named = ", ".join(map(str, sizes))
            answer = "does not fit" if typed is None else f"with {' '.join(typed)}" if typed else "fits"
            lines.append(f"{'GPUs' if not lines else '':10s}of {named} GiB: {answer}")
        if self.limit is None:
            lines.append(f"{INDENT}(engine.memory_gib=40 plans for one kind, and tries more)")
        return lines


def plan_step(
    model: BaseModelConfig, build: Build, optim: OptimConfig, settings: StepSettings, num_scans: int
) -> StepPlan:
    """Plan one weight update of a training.

    Args:
        model: settings of the model.
        build: makes the task of a model's settings; it is called under `torch.device("meta")`, also with changed
            settings, to find out what would fit.
        optim: settings of the optimiser.
        settings: how the step is computed, and the memory to compare with.
        num_scans: scans that are learned from.

    Raises:
        UserError: the batch cannot be shared out evenly over processes and parts.
    """
    estimator = Estimator(build, optim)
    choice = Choice(model, settings)
    task = estimator.task(model)
    memory, limit = estimator.memory(choice), memory_limit(settings)
    advice, changes_result = _advice(estimator, choice, limit)
    on_card = settings
    if settings.device != "cuda":
        on_card = replace(settings, device="cuda", precision=torch.bfloat16, channels_last=True)
    cards = {
        size: ways_to_fit(estimator, Choice(model, on_card), int(size * USABLE * GIB), change_result=False)[0]
        for size in CARDS_GIB
    }
    either = {value: with_changes(model, {"gradient_checkpointing": value}) for value in (False, True)}
    stages = STAGES if len(task.players) == 1 else STAGES[:-1]
    by_stage = {stage: Choice(model, replace(settings, zero=stage)) for stage in stages}
    return StepPlan(
        choice=choice,
        optim=optim,
        num_scans=num_scans,
        layout=layout_of(task),
        work=work_of(task, optim.steps - 1),
        parameters={player: sum(p.numel() for p in task.weights(player).parameters()) for player in task.players},
        memory=memory,
        checkpointed={
            value: estimator.memory(Choice(config, settings)).activations
            for value, config in either.items()
            if config is not None
        },
        stages={stage: (estimator.memory(other), estimator.sent(other)) for stage, other in by_stage.items()},
        limit=limit,
        advice=advice,
        changes_result=changes_result,
        cards=cards,
    )


def _advice(estimator: Estimator, choice: Choice, limit: int | None) -> tuple[tuple[str, ...] | None, bool]:
    """Settings to type for a memory of `limit` bytes, and whether they change what is learned."""
    if limit is None:
        return (), False
    if estimator.memory(choice).total <= limit:
        return room_left(estimator, choice, limit), False
    return ways_to_fit(estimator, choice, limit, change_result=True)


def _level(level: Level) -> tuple[str, str, str]:

    return "x".join(map(str, level.grid)), str(level.down or "-"), str(level.up or "-")


def _shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"{shape[0]} numbers"
    return f"{shape[0]} channel{'s' if shape[0] > 1 else ''} of {'x'.join(map(str, shape[1:]))}"


def _size(count: int) -> str:
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} B"


def _gib(count: int) -> str:
    return f"{count / GIB:8.3f}"
