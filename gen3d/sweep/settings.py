"""The settings of a sweep: the steps of a trial, the values to vary, the objective, and when a trial is given up."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from gen3d.core.config import Config, Folder, Folders, execution, load, read_yaml
from gen3d.core.errors import UserError
from gen3d.core.names import fault_of
from gen3d.core.work import FolderVerb
from gen3d.verbs import VERBS, verb_class

RANGE_KEYS = {"low", "high", "log"}
NOT_FROM_A_FILE = ("out", "prepared", "run", "maps")
REFERENCE = re.compile(r"\{([^{}]*)\}")
PREPARED = "prepared"
DONE, FAILED, PRUNED, STOPPED = "done", "failed", "pruned", "stopped"


class Step(Config):
    """One verb of a trial. The folder it writes is chosen by the sweep.

    `{name}` in a text stands for the folder of an earlier step, `{prepared}` for the prepared folder if there is one.
    Of a file, `out`, `prepared`, `run` and `maps` are not taken: they would be those of another piece of work.
    """

    verb: str = Field("", description="the verb; empty: the step's name")
    file: Folder | None = Field(None, description="YAML file with settings of the verb")
    tree: dict[str, Any] = Field(
        default_factory=dict, alias="settings", description="settings of the verb; they replace those of the file"
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("file") is not None:
            settings = raw.get("settings") or {}
            read = {k: v for k, v in read_yaml(Path(str(raw["file"]))).items() if k not in NOT_FROM_A_FILE}
            if isinstance(settings, dict):
                return raw | {"file": None, "settings": merged(read, settings)}
        return raw


class Range(Config):
    """Values between two ends, for a random or TPE search; whole numbers where both ends are whole."""

    low: int | float = Field(description="smallest value")
    high: int | float = Field(description="largest value")
    log: bool = Field(False, description="spread the values evenly on a logarithmic scale")

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

    def __str__(self) -> str:
        kind = "whole numbers" if self.whole else "numbers"
        return f"{kind} from {self.low} to {self.high}{', evenly in the logarithm' if self.log else ''}"


Values = tuple[Any, ...] | Range
Vary = dict[str, Values]


class Objective(Config):
    """The figure that ranks the trials. It must come from people that the trial was not trained on."""

    step: str = Field("", description="step whose folder holds the figure; empty: the last step")
    file: str = Field(
        "metrics.tsv", description="file with the figure: a table (.tsv), a tree (.json) or a log (.jsonl, last entry)"
    )
    key: str = Field("psnr", description="column of the table, or dotted path in the tree; the mean over rows counts")
    where: dict[str, Any] = Field(
        {"role": "calibration"}, description="which rows to average, {column: value}; none: all rows"
    )
    name: str = Field("", description="name of the figure in the picture and in sentences; empty: the key and the rows")
    direction: Literal["minimise", "maximise"] = Field(
        "maximise", description="maximise: larger is better; minimise: smaller is better"
    )

    @property
    def sign(self) -> float:
        """What a figure is multiplied with so that less is better."""
        return 1.0 if self.direction == "minimise" else -1.0

    @property
    def title(self) -> str:
        """For people: its name, or 'psnr (role calibration)'."""
        rows = ", ".join(f"{column} {value}" for column, value in self.where.items())
        return self.name or self.key + (f" ({rows})" if rows else "")


class Prune(Config):
    """Optuna's median rule: a training is given up when its best value so far is worse than the median of the others."""

    step: str = Field("train", description="step that writes log.jsonl")
    term: str = Field(
        "reconstruction",
        description="term of log.jsonl to watch, smaller is better; its meaning must not depend on a varied key",
    )
    after_steps: int = Field(100, ge=0, description="weight updates before a trial may be given up")
    after_trials: int = Field(4, ge=1, description="finished trials before any may be given up")


class Slurm(Config):
    """How the array of SLURM tasks is requested, one task per trial."""

    options: tuple[str, ...] = execution(
        (), "options of sbatch, such as --time=04:00:00 (required), --partition=gpu, --gres=gpu:1, --cpus-per-task=8"
    )
    setup: tuple[str, ...] = execution((), "shell lines to run first, such as `module load ...` or `source ...`")
    at_once: int = execution(0, "tasks at a time; 0: no limit. A TPE search uses only trials that have ended", ge=0)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of settings as one; where both have a value, that of `changes`."""
    result = dict(deepcopy(dict(base)))
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else deepcopy(value)
    return result


def flat_vary(tree: Any, prefix: str = "") -> dict[str, Any]:
    """What is varied, by dotted key: `{train: {model: {beta: [1, 2]}}}` and `{train.model.beta: [1, 2]}` are the same.

    Raises:
        ValueError: a value that is neither a list nor a range, or an empty list.
    """
    if not isinstance(tree, dict):
        raise ValueError("give {step.key: [values]} or {step.key: {low: 1.0e-4, high: 1.0e-2, log: true}}")
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and not (value.keys() & {"low", "high"}):
            flat |= flat_vary(value, f"{name}.")
            continue
        if isinstance(value, dict) and value.keys() - RANGE_KEYS:
            raise ValueError(
                f"{name}: a range has the keys low, high and log, not {', '.join(value.keys() - RANGE_KEYS)}"
            )
        if not isinstance(value, (dict, list, tuple, Range)):
            raise ValueError(f"{name}: {value!r} is neither a list of values nor a range {{low: .., high: ..}}")
        if isinstance(value, (list, tuple)) and not value:
            raise ValueError(f"{name}: the list of values is empty")
        flat[name] = value
    return flat


class SweepSettings(FolderVerb):
    """The keys of `gen3d sweep`."""

    steps: dict[str, Step] = Field(description="the steps of one trial, in order, by name")
    vary: Annotated[Vary, BeforeValidator(flat_vary)] = Field(
        description="{step.key: [values]}, or {step.key: {low, high, log}} for a random or TPE search"
    )
    prepared: Folders | None = Field(
        None, description="prepared folders, for every step that reads prepared scans and names no folder"
    )
    search: Literal["grid", "random", "tpe"] = Field(
        "grid",
        description="grid: all combinations; random: evenly spread values; tpe: Optuna's search, guided by the trials so far",
    )
    trials: int = execution(20, "number of trials of a random or TPE search; a grid runs all combinations", gt=0)
    seed: int = Field(0, ge=0, description="seed of a random or TPE search")
    objective: Objective = execution(Objective(), "the figure that ranks the trials")
    prune: Prune | None = Field(
        None, description="when to give up a training that does worse than the others; none: never"
    )
    parallel: int = execution(1, "trials at a time on this machine", ge=1)
    gpus: int = execution(0, "GPUs to divide among the trials, one each; 0: every trial sees all GPUs", ge=0)
    retry_failed: bool = execution(False, "true: run failed trials again")
    discard: tuple[str, ...] = execution(
        (),
        "files or folders to delete when a trial has ended, such as reconstruct/volumes; the file of `objective` is kept",
    )
    where: Literal["local", "slurm"] = execution(
        "local", "local: run here; slurm: submit an array of SLURM tasks, and collect when run again"
    )
    slurm: Slurm = execution(Slurm(), "the array of SLURM tasks")
    task: int | None = execution(None, "run this trial only; used by the tasks of the array", ge=0)

    @model_validator(mode="after")
    def _possible(self) -> SweepSettings:
        if not self.steps:
            raise ValueError("steps is empty: a trial is at least one verb, such as steps: {train: {file: ...}}")
        for name in self.steps:
            if fault := fault_of(name) or ("" if name else "it is empty"):
                raise ValueError(f"steps: {name!r} cannot be the name of a folder ({fault})")
        if not self.vary:
            raise ValueError("vary is empty: name at least one key, such as vary: {train.model.beta: [0.3, 1, 3]}")
        ranges = [key for key, values in self.vary.items() if isinstance(values, Range)]
        if self.search == "grid" and ranges:
            raise ValueError(
                f"search=grid needs lists, but {', '.join(ranges)} is a range; list its values, or use search=random or tpe"
            )
        if odd := [path for path in self.discard if path.startswith("/") or ".." in path or path.count("/") < 1]:
            raise ValueError(f"discard: {odd[0]} is not STEP/PATH inside a trial's folder, such as reconstruct/volumes")
        return self

    @property
    def judged_step(self) -> str:
        """The step whose folder holds the objective."""
        return self.objective.step or list(self.steps)[-1]

    def folder_of(self, number: int) -> Path:
        """The folder of a trial; every step writes into the folder of its name below it."""
        return self.out / "trials" / f"{number:04d}"

    def commands(self, values: Mapping[str, Any], folder: Path) -> list[Command]:
        """The steps of a trial with their settings complete.

        Args:
            values: the trial's values by dotted key, `step.key`.
            folder: the trial's folder.

        Raises:
            UserError: a reference `{name}` to no earlier step.
        """
        commands: list[Command] = []
        for name, step in self.steps.items():
            tree = dict(step.tree)
            for key, value in values.items():
                owner, _, path = key.partition(".")
                if owner == name:
                    tree = _with_value(tree, path, value)
            known = {command.name: str(folder / command.name) for command in commands}
            if self.prepared is not None and len(self.prepared) == 1:
                known[PREPARED] = str(self.prepared[0])
            tree = _resolved(tree, known, name)
            if self.prepared and PREPARED in verb_class(step.verb or name).model_fields:
                tree.setdefault(PREPARED, [str(path) for path in self.prepared])
            commands.append(Command(name, step.verb or name, tree | {"out": str(folder / name)}))
        return commands

    def check_steps(self) -> None:
        """Refuse settings that a verb would refuse, at each value and each end, before anything is started.

        Raises:
            UserError: an unknown verb, step, key or value; with the step and the values that are to blame.
        """
        require_step(self.judged_step, self.steps, "objective.step")
        if self.prune is not None:
            require_step(self.prune.step, self.steps, "prune.step")
        known = [verb for verb in VERBS if verb != "sweep"]
        for name, step in self.steps.items():
            if (verb := step.verb or name) not in known:
                raise UserError(f"steps.{name}: `{verb}` is not a verb of a trial; {_nearest(verb, known)}")
        for key in self.vary:
            owner, _, path = key.partition(".")
            require_step(owner, self.steps, f"vary `{key}`")
            if not path:
                raise UserError(f"vary `{key}`: names a step but no key of it, such as {key}.seed.")
        for values in _corners(self.vary):
            for command in self.commands(values, self.folder_of(0)):
                try:
                    load(verb_class(command.verb), None, [f"{k}={label(v)}" for k, v in command.settings.items()])
                except UserError as error:
                    tried = described({k: v for k, v in values.items() if k.startswith(f"{command.name}.")})
                    raise UserError(f"step {command.name}{tried and f' with {tried}'}: {error}") from None


@dataclass(frozen=True)
class Command:
    """One step of a trial: its name, its verb, and all the settings of the verb."""

    name: str
    verb: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A row of the table."""

    number: int
    folder: Path
    values: Mapping[str, Any]
    status: str
    objective: float | None
    seconds: float
    error: str


def label(value: Any) -> str:
    """A value as one line of YAML: '0.3', '[t1w, log_jacobian]', 'spatial'."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("...").strip()


def described(values: Mapping[str, Any]) -> str:
    """'train.model.beta = 0.3, train.seed = 1'."""
    return ", ".join(f"{key} = {label(value)}" for key, value in values.items())


def require_step(name: str, steps: Mapping[str, Step], what: str) -> None:
    """Raise a UserError if there is no step of that name."""
    if name not in steps:
        raise UserError(f"{what}: `{name}` is not a step of this sweep; {_nearest(name, list(steps))}")


def _corners(vary: Vary) -> list[dict[str, Any]]:
    """Points that show whether the values are allowed: each value and each end, the others at their first."""
    listed = {k: [v.low, v.high] if isinstance(v, Range) else list(v) for k, v in vary.items()}
    first = {key: values[0] for key, values in listed.items()}
    return [first] + [first | {key: value} for key, values in listed.items() for value in values[1:]]


def _nearest(wrong: str, known: Sequence[str]) -> str:
    """A hint: the nearest of the known names, or all of them."""
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}."


def _with_value(tree: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a tree of settings with a value at a dotted path."""
    key, _, rest = path.partition(".")
    below = tree.get(key)
    inner = _with_value(below if isinstance(below, dict) else {}, rest, value) if rest else deepcopy(value)
    return {**tree, key: inner}


def _resolved(tree: dict[str, Any], folders: Mapping[str, str], owner: str) -> dict[str, Any]:
    """The tree with `{name}` in its texts replaced by the folder of that name."""

    def folder(match: re.Match[str]) -> str:
        if match[1] not in folders:
            known = _nearest(match[1], list(folders)) if folders else "it is the first step."
            raise UserError(f"steps.{owner}: `{{{match[1]}}}` names no earlier step of the trial; {known}")
        return folders[match[1]]

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return REFERENCE.sub(folder, value)
        if isinstance(value, dict):
            return {key: replaced(below) for key, below in value.items()}
        return [replaced(below) for below in value] if isinstance(value, list) else value

    return {key: replaced(value) for key, value in tree.items()}
