"""What `gen3d train` and `gen3d import-weights` write: settings, each member's training people, design, log and weights.

Nothing here loads a network, so that a report, or a reader of maps, opens a run without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import yaml

from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import write_atomic, write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_lines, load_object, load_yaml
from gen3d.core.result_folder import ResultFolder
from gen3d.imaging.plan import GridPlan, write_plan
from gen3d.maths.design import Design
from gen3d.models import registry

TRAIN = "train"
RUN_VERBS = (TRAIN, "import-weights")
SETTINGS, PLAN, SUBJECTS, DESIGN, LOG = "config.yaml", "plan.json", "subjects.json", "design.json", "log.jsonl"
MEMBERS, WEIGHTS = "members", "model.safetensors"
AGAIN = "copy the run folder again"

COPIES = "runs"
"""Below a folder that goes on its own: copies of the runs that it was made with, numbered."""

AND = " and "
"""Between the models of maps that several runs made together."""


def weights_path(folder: Path, member: int) -> Path:
    """Where the weights of a member lie."""
    return folder / MEMBERS / str(member) / WEIGHTS


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what the model is built from: at least `model` and `channels`."""
    write_atomic(folder / SETTINGS, yaml.safe_dump(dict(settings), sort_keys=False))


def write_people_and_plan(folder: Path, plan: GridPlan, seen: SeenBy, design: Design) -> None:
    """Write the grid, the people that each member saw (hash of a subject -> role), and the design of covariates."""
    write_plan(folder / PLAN, plan)
    write_json(folder / SUBJECTS, seen.record())
    write_json(folder / DESIGN, design.to_dict())


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        UserError: missing or damaged.
    """
    path = folder / SETTINGS
    try:
        tree = load_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({str(error).splitlines()[0]}); {AGAIN}.") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: missing or damaged (no settings); {AGAIN}.")
    return tree


def read_seen(folder: Path) -> SeenBy:
    """The people that each member saw.

    Raises:
        UserError: missing or damaged.
    """
    return SeenBy.read(folder / SUBJECTS, AGAIN)


def read_design(folder: Path) -> Design:
    """The design that turns age, sex and site into covariates.

    Raises:
        UserError: missing or damaged.
    """
    values = _json(folder / DESIGN)
    try:
        design = Design.from_dict(values)
        design.matrix([50.0], ["F"], [""])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{folder / DESIGN}: damaged ({error!r}); {AGAIN}.") from None
    return design


def _json(path: Path) -> dict[str, Any]:
    try:
        return load_object(path, finite=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); {AGAIN}.") from None


def _settings_if_there(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    return read_settings(folder) if path.is_file() else {}


def learned_channels(folder: Path) -> tuple[str, ...] | None:
    """Channels of the volumes that a run was trained on, None where its settings are not there.

    Raises:
        UserError: damaged settings.
    """
    channels = _settings_if_there(folder).get("channels")
    return tuple(str(name) for name in channels) if isinstance(channels, list) else None


def model_kind(folder: Path) -> str:
    """The kind of model of a run, "" where its settings are not there.

    Raises:
        UserError: damaged settings.
    """
    settings = _settings_if_there(folder)
    model = settings.get("model", settings)
    return str(model.get("kind", "")) if isinstance(model, dict) else ""


def copied_runs(folder: Path) -> tuple[Path, ...]:
    """The runs that a folder holds copies of, in their order."""
    copies = [path for path in (folder / COPIES).glob("*") if path.name.isdigit()]
    return tuple(sorted(copies, key=lambda path: int(path.name)))


def is_baseline(name: str) -> bool:
    """Whether a model of this name (the title of its kind, a folder's name after a comma) is a baseline, or all of several are."""
    kinds = name.split(",")[0].split(AND)
    baselines = {
        name for kind, entry in registry.KINDS.items() if entry.baseline for name in (kind, entry.title.lower())
    }
    return all(kind.lower() in baselines for kind in kinds)


@dataclass(frozen=True)
class RunFolder(ResultFolder):
    """A trained model: its settings, its log and the record of the people that it saw."""

    named_by: ClassVar = "model"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What it was trained with; those of the record where the folder has no settings."""
        if not (self.folder / SETTINGS).is_file():
            return self.artefact.config
        return _settings_if_there(self.folder)

    @cached_property
    def seen(self) -> SeenBy:
        """The people that each member saw; none where that is not known."""
        return read_seen(self.folder) if (self.folder / SUBJECTS).is_file() else SeenBy(())

    @property
    def first_weights(self) -> Path | None:
        """The weights of the first member, None where there are none."""
        return next(iter(sorted((self.folder / MEMBERS).glob(f"*/{WEIGHTS}"))), None)

    @cached_property
    def log(self) -> pd.DataFrame:
        """One row per logged step; a last line cut short by an interruption is left out."""
        path = self.folder / LOG
        try:
            return pd.DataFrame(load_lines(path) if path.is_file() else [])
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); {AGAIN}.") from None
