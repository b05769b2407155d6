"""Which settings make a training step fit a memory; none of them changes what is learned, bfloat16 only rounds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any

import torch
from pydantic import ValidationError

from gen3d.models.base import BaseModelConfig
from gen3d.nets.device import computes_bfloat16
from gen3d.train.plan.memory import StepSettings


@dataclass(frozen=True)
class Setting:
    """A setting as one types it, and the change of the step that it makes."""

    text: str
    change: dict[str, Any] = field(compare=False)


@dataclass(frozen=True)
class Advice:
    """Settings to type, and the bytes that a process then needs."""

    settings: tuple[str, ...]
    total: int


def advise(total: Callable[[StepSettings], int], step: StepSettings, limit: int, highest_stage: int) -> Advice:
    """The fewest settings with which a step that is too large fits, or those with which it needs least.

    Args:
        total: memory of a step in bytes.
        step: the step that does not fit.
        limit: bytes that a process may use.
        highest_stage: of ZeRO, for this task.
    """
    remedies = [options for options in _remedies(step, highest_stage) if options]
    for number in range(1, len(remedies) + 1):
        for chosen in combinations(remedies, number):
            # The last option of each remedy saves most: when these are not enough, no others are.
            if total(_changed(step, [options[-1] for options in chosen])) > limit:
                continue
            for settings in product(*chosen):
                needed = total(_changed(step, settings))
                if needed <= limit:
                    return Advice(tuple(setting.text for setting in settings), needed)
    strongest = [options[-1] for options in remedies]
    return Advice(tuple(setting.text for setting in strongest), total(_changed(step, strongest)))


def _changed(step: StepSettings, settings: Iterable[Setting]) -> StepSettings:
    for setting in settings:
        step = replace(step, **setting.change)
    return step


def _remedies(step: StepSettings, highest_stage: int) -> list[list[Setting]]:
    """Options of every remedy, each list from what costs least time to what saves most memory."""
    rounded = step.precision is torch.bfloat16 or (step.device == "cpu" and not computes_bfloat16(torch.device("cpu")))
    fewer = [count for count in range(step.at_once - 1, 0, -1) if step.share % count == 0]
    stages = range(step.zero + 1, highest_stage + 1) if step.num_processes > 1 else ()
    return [
        [Setting(f"engine.volumes_at_once={count}", {"volumes_at_once": count}) for count in fewer],
        _checkpointing(step.model),
        [Setting(f"engine.zero={stage}", {"zero": stage}) for stage in stages],
        [] if rounded else [Setting("engine.precision=bf16", {"precision": torch.bfloat16})],
    ]


def _checkpointing(model: BaseModelConfig) -> list[Setting]:
    """Gradient checkpointing, where it is off and the model offers it."""
    if getattr(model, "gradient_checkpointing", True):
        return []
    try:
        checkpointed = type(model).model_validate({**model.model_dump(), "gradient_checkpointing": True})
    except ValidationError:
        return []
    return [Setting("model.gradient_checkpointing=true", {"model": checkpointed})]
