"""Which settings make a training step fit a memory, found by trying them on the estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import ValidationError

from gen3d.core.errors import UserError
from gen3d.models.base import BaseModelConfig
from gen3d.train.plan.estimate import Choice, Estimator

SMALLEST_WIDTH = 8

Knob = Callable[[Choice, Estimator], Choice | None]
"""A choice that needs less memory, or None when the knob is turned already."""


def ways_to_fit(
    estimator: Estimator, choice: Choice, limit: int, change_result: bool
) -> tuple[tuple[str, ...] | None, bool]:
    """The fewest settings, as key=value, with which the step fits `limit` bytes, and whether they change the result.

    Knobs are turned in the order of what they cost, each on top of the ones before; then those that turned out not to
    be needed are taken back, and as many volumes are computed at once as fit. Settings that change what is learned come
    last, and only with `change_result`. Empty: it fits as it is. None: nothing that was tried makes it fit.
    """

    def fits(tried: Choice) -> bool:
        try:
            return estimator.memory(tried).total <= limit
        except UserError:  # a grid that the smaller network would shrink too far
            return False

    if fits(choice):
        return (), False
    turned: list[Knob] = []
    found = choice
    for knob in (*SAFE, *CHANGING) if change_result else SAFE:
        for smaller in _turned(knob, found, estimator):
            found = smaller
            turned.append(knob)
            if fits(found):
                found = _largest(_pruned(choice, turned, estimator, fits), estimator, fits)
                return differences(choice, found, estimator.optim.batch_size), knob in CHANGING
    return None, False


def room_left(estimator: Estimator, choice: Choice, limit: int) -> tuple[str, ...]:
    """Settings, as key=value, with which a step that fits `limit` bytes is faster and still fits; empty: none."""

    def fits(tried: Choice) -> bool:
        return estimator.memory(tried).total <= limit

    found = choice
    plain = with_changes(choice.model, {"gradient_checkpointing": False})
    if plain is not None and fits(Choice(plain, choice.settings)):
        found = Choice(plain, choice.settings)
    return differences(choice, _largest(found, estimator, fits), estimator.optim.batch_size)


def _turned(knob: Knob, choice: Choice, estimator: Estimator) -> Iterator[Choice]:
    """What a knob gives, turned again and again until it is at its end."""
    smaller = knob(choice, estimator)
    while smaller is not None:
        yield smaller
        smaller = knob(smaller, estimator)


def _pruned(choice: Choice, turned: list[Knob], estimator: Estimator, fits: Callable[[Choice], bool]) -> Choice:
    """The choice after these knobs, without those that are not needed; the dearest are taken back first."""
    kept = list(turned)
    for place in reversed(range(len(turned))):
        fewer = kept[:place] + kept[place + 1 :]
        after = _after(choice, fewer, estimator)
        if after is not None and fits(after):
            kept = fewer
    after = _after(choice, kept, estimator)
    assert after is not None
    return after


def _after(choice: Choice, knobs: list[Knob], estimator: Estimator) -> Choice | None:
    for knob in knobs:
        smaller = knob(choice, estimator)
        if smaller is None:
            return None
        choice = smaller
    return choice


def _largest(choice: Choice, estimator: Estimator, fits: Callable[[Choice], bool]) -> Choice:
    """The choice with as many volumes at once as fit."""
    share = estimator.optim.batch_size // choice.settings.num_processes
    for number in range(share, 0, -1):
        if share % number == 0:
            larger = Choice(choice.model, replace(choice.settings, volumes_at_once=number))
            if fits(larger):
                return larger
    return choice


def differences(before: Choice, after: Choice, batch_size: int) -> tuple[str, ...]:
    """What to type to get from one choice to another."""
    typed = []
    settings, chosen = before.settings, after.settings
    if chosen.num_processes != settings.num_processes:
        typed.append(f"engine.processes={chosen.num_processes}")
    whole_share = settings.volumes_at_once == 0 and after.parts(batch_size) == 1
    if not whole_share and after.at_once(batch_size) != before.at_once(batch_size):
        typed.append(f"engine.volumes_at_once={after.at_once(batch_size)}")
    if chosen.precision != settings.precision:
        typed.append("engine.precision=bf16")
    if chosen.zero != settings.zero:
        typed.append(f"engine.zero={chosen.zero}")
    old, new = before.model.model_dump(), after.model.model_dump()
    for name in new:
        if new[name] != old[name]:
            value = str(new[name]).lower() if isinstance(new[name], bool) else new[name]
            typed.append(f"model.{name}={value}")
    return tuple(typed)


def with_changes(model: BaseModelConfig, changes: Mapping[str, Any]) -> BaseModelConfig | None:
    """The model's settings with changes; None when it has no such settings or they are not allowed."""
    if not set(changes) <= set(type(model).model_fields):
        return None
    try:
        return type(model).model_validate({**model.model_dump(), **changes})
    except ValidationError:
        return None


def _one_volume(choice: Choice, estimator: Estimator) -> Choice | None:
    share = estimator.optim.batch_size // choice.settings.num_processes
    if (choice.settings.volumes_at_once or share) == 1:
        return None
    return Choice(choice.model, replace(choice.settings, volumes_at_once=1))


def _checkpointing(choice: Choice, estimator: Estimator) -> Choice | None:
    if getattr(choice.model, "gradient_checkpointing", True):
        return None
    model = with_changes(choice.model, {"gradient_checkpointing": True})
    return Choice(model, choice.settings) if model is not None else None


def _bfloat16(choice: Choice, estimator: Estimator) -> Choice | None:
    if choice.settings.precision is torch.bfloat16:
        return None
    return Choice(choice.model, replace(choice.settings, precision=torch.bfloat16))


def _higher_stage(choice: Choice, estimator: Estimator) -> Choice | None:
    highest = 3 if len(estimator.task(choice.model).players) == 1 else 2
    if choice.settings.num_processes == 1 or choice.settings.zero >= highest:
        return None
    return Choice(choice.model, replace(choice.settings, zero=choice.settings.zero + 1))


def _more_processes(choice: Choice, estimator: Estimator) -> Choice | None:
    """Twice the processes: helps where a split optimiser is what takes the room."""
    number = 2 * choice.settings.num_processes
    if choice.settings.device != "cuda" or number == 2 or estimator.optim.batch_size % number:
        return None
    at_once = min(choice.settings.volumes_at_once or 1, estimator.optim.batch_size // number)
    return Choice(choice.model, replace(choice.settings, num_processes=number, volumes_at_once=at_once))


def _folding_stem(choice: Choice, estimator: Estimator) -> Choice | None:
    if getattr(choice.model, "stem", 2) == 2:
        return None
    model = with_changes(choice.model, {"stem": 2})
    return Choice(model, choice.settings) if model is not None else None


def _half_width(choice: Choice, estimator: Estimator) -> Choice | None:
    width = getattr(choice.model, "base_channels", SMALLEST_WIDTH) // 2
    width -= width % SMALLEST_WIDTH
    model = with_changes(choice.model, {"base_channels": width}) if width >= SMALLEST_WIDTH else None
    return Choice(model, choice.settings) if model is not None else None


SAFE: tuple[Knob, ...] = (_one_volume, _checkpointing, _bfloat16, _higher_stage, _more_processes)
"""Knobs that leave the result as it is, the cheapest first; bfloat16 only rounds it."""

CHANGING: tuple[Knob, ...] = (_folding_stem, _half_width)
"""Knobs that make another model."""
