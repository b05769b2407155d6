"""From the steps of a sweep and a trial's values to the complete settings of each of its verbs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gen3d.core.config import load
from gen3d.core.errors import UserError
from gen3d.sweep.results import values_in_words
from gen3d.sweep.search import label
from gen3d.sweep.settings import Step, nearest, require_step, with_value
from gen3d.sweep.trial import Command
from gen3d.verbs import VERBS, verb_class

REFERENCE = re.compile(r"\{([^{}]*)\}")
PREPARED = "prepared"


def verb_of(name: str, step: Step) -> str:
    """The verb of a step: the one it names, or that of its own name."""
    return step.verb or name


def commands_of(
    steps: Mapping[str, Step], prepared: Sequence[Path], values: Mapping[str, Any], folder: Path
) -> list[Command]:
    """The steps of a trial with their settings complete.

    Args:
        steps: by name, in order.
        prepared: prepared folders, for every verb that reads some and whose settings name none.
        values: the trial's values by dotted key, `step.key`.
        folder: the trial's folder; every step writes into the folder of its name below it.

    Raises:
        UserError: a reference `{name}` to no earlier step.
    """
    commands: list[Command] = []
    for name, step in steps.items():
        tree = dict(step.given)
        for key, value in values.items():
            owner, _, path = key.partition(".")
            if owner == name:
                tree = with_value(tree, path, value)
        known = {command.name: str(folder / command.name) for command in commands}
        if len(prepared) == 1:
            known[PREPARED] = str(prepared[0])
        tree = _referring(tree, known, name)
        if prepared and PREPARED in verb_class(verb_of(name, step)).model_fields:
            tree.setdefault(PREPARED, [str(path) for path in prepared])
        tree["out"] = str(folder / name)
        commands.append(Command(name, verb_of(name, step), tree))
    return commands


def check_trials(
    steps: Mapping[str, Step], prepared: Sequence[Path], points: Sequence[Mapping[str, Any]], folder: Path
) -> None:
    """Refuse settings that a verb would refuse, at any of the points, before anything is started.

    Raises:
        UserError: an unknown verb, step, key or value; with the step and the values that are to blame.
    """
    for name, step in steps.items():
        verb = verb_of(name, step)
        if verb not in VERBS or verb == "sweep":
            known = [other for other in VERBS if other != "sweep"]
            raise UserError(f"steps.{name}: `{verb}` is not a verb of a trial; {nearest(verb, known)}")
    for key in dict.fromkeys(key for values in points for key in values):
        owner, _, path = key.partition(".")
        require_step(owner, steps, f"vary `{key}`")
        if not path:
            raise UserError(f"vary `{key}`: names a step but no key of it, such as {key}.seed.")
    for values in points:
        for command in commands_of(steps, prepared, values, folder):
            overrides = [f"{key}={label(value)}" for key, value in command.settings.items()]
            try:
                load(verb_class(command.verb), None, overrides)
            except UserError as error:
                own = {key: value for key, value in values.items() if key.startswith(f"{command.name}.")}
                tried = f" with {values_in_words(own)}" if own else ""
                raise UserError(f"step {command.name}{tried}: {error}") from None


def _referring(tree: dict[str, Any], folders: Mapping[str, str], owner: str) -> dict[str, Any]:
    """The tree with `{name}` in its texts replaced by the folder of that name."""

    def folder(match: re.Match[str]) -> str:
        if match[1] not in folders:
            known = nearest(match[1], list(folders)) if folders else "it is the first step."
            raise UserError(f"steps.{owner}: `{{{match[1]}}}` names no earlier step of the trial; {known}")
        return folders[match[1]]

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return REFERENCE.sub(folder, value)
        if isinstance(value, dict):
            return {key: replaced(below) for key, below in value.items()}
        return [replaced(below) for below in value] if isinstance(value, list) else value

    return {key: replaced(value) for key, value in tree.items()}
