"""What a sweep is made of: the steps of a trial, what is varied, what is optimised, when a trial is given up."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from gen3d.core.config import Config, Folder, execution, read_yaml
from gen3d.core.errors import UserError

RANGE_KEYS = {"low", "high", "log"}
NOT_FROM_A_FILE = ("out", "prepared", "run", "maps")


class Step(Config):
    """One verb of a trial. The folder it writes is the sweep's affair.

    `{name}` in a text stands for the folder of an earlier step, `{prepared}` for the prepared folder if there is one.
    Of a file, `out`, `prepared`, `run` and `maps` are not taken: they would be those of another piece of work.
    """

    verb: str = Field("", description="the verb; empty: the step's name")
    file: Folder | None = Field(None, description="YAML file to start from; it is read into `settings`")
    given: dict[str, Any] = Field(
        default_factory=dict, alias="settings", description="settings; they go before those of the file"
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("file") is not None:
            settings = given.get("settings") or {}
            read = {k: v for k, v in read_yaml(Path(str(given["file"]))).items() if k not in NOT_FROM_A_FILE}
            if isinstance(settings, dict):
                return given | {"file": None, "settings": merged(read, settings)}
        return given


class Range(Config):
    """Values between two ends, for a random or TPE search; whole numbers where both ends are whole."""

    low: int | float = Field(description="smallest value")
    high: int | float = Field(description="largest value")
    log: bool = Field(False, description="search evenly in the logarithm")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low={self.low} must be less than high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0, it is {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[int | float, int | float]:
        """(low, high)."""
        return (self.low, self.high)


Values = tuple[Any, ...] | Range
Vary = dict[str, Values]


class Objective(Config):
    """The figure that says how good a trial is. It must come from people that the trial did not learn from."""

    step: str = Field("", description="step whose folder holds it; empty: the last one")
    file: str = Field("metrics.tsv", description="a table (.tsv), a tree (.json) or a log (.jsonl: its last entry)")
    key: str = Field("psnr", description="column of the table, or dotted path in the tree; rows are averaged")
    where: dict[str, Any] = Field(
        {"role": "calibration"}, description="which rows count, {column: value}; none: all of them"
    )
    name: str = Field("", description="what to call it in the picture and in sentences; empty: the key and the rows")
    direction: Literal["minimise", "maximise"] = Field("maximise", description="which way is better")

    @property
    def sign(self) -> float:
        """What a figure is multiplied with so that less is better."""
        return 1.0 if self.direction == "minimise" else -1.0

    @property
    def short(self) -> str:
        """Its name, or the key alone."""
        return self.name or self.key

    def words(self) -> str:
        """For people: its name, or 'psnr (role calibration)'."""
        if self.name:
            return self.name
        rows = ", ".join(f"{column} {value}" for column, value in self.where.items())
        return self.key + (f" ({rows})" if rows else "")


class Prune(Config):
    """Optuna's median rule: a training is given up when its best value so far is worse than the median of the others."""

    step: str = Field("train", description="step that writes log.jsonl")
    term: str = Field(
        "reconstruction", description="term of log.jsonl, less is better; no varied key may change what it means"
    )
    after_steps: int = Field(100, ge=0, description="training steps before a trial may be given up")
    after_trials: int = Field(4, ge=1, description="finished trials before any may be given up")


class Slurm(Config):
    """How the array of SLURM tasks is asked for, one task per trial."""

    options: tuple[str, ...] = execution(
        (), "options of sbatch, such as --partition=gpu, --time=04:00:00, --gres=gpu:1, --cpus-per-task=8"
    )
    setup: tuple[str, ...] = execution((), "shell lines before the work, such as `module load ...` or `source ...`")
    at_once: int = execution(0, "tasks at once; 0: no limit. A TPE search learns only from trials that ended", ge=0)
    submit: bool = execution(False, "call sbatch; otherwise the command is printed")


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of settings as one; where both have a value, that of `changes`."""
    result = dict(deepcopy(dict(base)))
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else deepcopy(value)
    return result


def with_value(tree: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a tree of settings with a value at a dotted path."""
    key, _, rest = path.partition(".")
    below = tree.get(key)
    inner = with_value(below if isinstance(below, dict) else {}, rest, value) if rest else deepcopy(value)
    return {**tree, key: inner}


def flat_vary(given: Any, prefix: str = "") -> dict[str, Any]:
    """What is varied, by dotted key: `{train: {model: {beta: [1, 2]}}}` and `{train.model.beta: [1, 2]}` are the same.

    Raises:
        ValueError: a value that is neither a list nor a range, or an empty list.
    """
    if not isinstance(given, dict):
        raise ValueError("give {step.key: [values]} or {step.key: {low: 1.0e-4, high: 1.0e-2, log: true}}")
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and not (value.keys() & {"low", "high"}):
            found |= flat_vary(value, f"{name}.")
            continue
        if isinstance(value, dict) and value.keys() - RANGE_KEYS:
            raise ValueError(
                f"{name}: a range has the keys low, high and log, not {', '.join(value.keys() - RANGE_KEYS)}"
            )
        if not isinstance(value, (dict, list, tuple, Range)):
            raise ValueError(f"{name}: {value!r} is neither a list of values nor a range {{low: .., high: ..}}")
        if isinstance(value, (list, tuple)) and not value:
            raise ValueError(f"{name}: the list of values is empty")
        found[name] = value
    return found


def nearest(wrong: str, known: list[str]) -> str:
    """A hint: the nearest of the known names, or all of them."""
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}."


def require_step(name: str, steps: Mapping[str, Step], what: str) -> None:
    """Raise a UserError if there is no step of that name."""
    if name not in steps:
        raise UserError(f"{what}: `{name}` is not a step of this sweep; {nearest(name, list(steps))}")
