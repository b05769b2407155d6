"""What `gen3d register` writes.

    registered.json    name, version, alias, registry, and the place of the run's copy
    model/             the model as MLflow has it: MLmodel, mlflow_model.py, requirements, and in artifacts/ a copy of the run
                       folder under its own name, which every verb opens by its path

Nothing here loads torch or MLflow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3d.core.artefact import Artefact, read, write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object

VERB = "register"
REGISTERED = "registered"
DESCRIPTION, MODEL = f"{REGISTERED}.json", "model"
ARTIFACTS = "artifacts"
"""Folder of MLflow's in a model."""


@dataclass(frozen=True)
class RegisteredFolder:
    """A registered model: its record, and under which name and version it is known."""

    artefact: Artefact
    description: dict[str, Any]

    @property
    def name(self) -> str:
        """Name and version as MLflow puts them into an address."""
        return f"models:/{self.description['name']}/{self.description['version']}"

    @property
    def run_folder(self) -> Path:
        """The copy of the run."""
        return self.artefact.folder / str(self.description["run"])


def registered_model(folder: Path) -> Path:
    """Where the model lies in a folder of `gen3d register`."""
    return folder / MODEL


def copied_run(run: Path) -> str:
    """Where the copy of a run lies in a folder of `gen3d register`: MLflow keeps the name of what it copies."""
    return os.path.join(MODEL, ARTIFACTS, os.path.basename(os.path.abspath(run)))


def write_registered(folder: Path, description: Mapping[str, Any]) -> None:
    """Write under which name, version and alias the model is registered, and where."""
    write_json(folder / DESCRIPTION, dict(description))


def open_registered(folder: Path) -> RegisteredFolder:
    """Open a folder of `gen3d register`.

    Raises:
        UserError: it is none, was never finished, or its description is damaged.
    """
    artefact, path = read(folder, (VERB,)), folder / DESCRIPTION
    try:
        description = load_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); register the run again.") from None
    if not {"name", "version", "alias", "registry", "run"} <= set(description):
        raise UserError(f"{path}: damaged (no name or version); register the run again.")
    return RegisteredFolder(artefact, description)
