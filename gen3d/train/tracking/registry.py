"""MLflow's model registry: names, versions and aliases of runs that are saved as "models from code"."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from gen3d.core.disk import PARTIAL
from gen3d.core.errors import UserError
from gen3d.train.tracking.mlflow_store import MlflowStore, load_mlflow, not_there, open_store, unwarned

OURS = "gen3d"
"""Tag of a name that gen3d registered."""

NEEDED = ("sqlalchemy", "alembic")
"""What mlflow-skinny lacks to open a local registry."""


def open_registry(home: Path, name: str) -> MlflowStore:
    """The registry of a user, or the one in a folder, with this name in it, free for runs of gen3d.

    Raises:
        UserError: the name is taken by something else.
        Exception: whatever MLflow raises where the registry cannot be reached.
    """
    store = open_store(home)
    with unwarned():
        try:
            found = store.client.get_registered_model(name)
        except Exception as error:
            if not not_there(error):
                raise
            store.client.create_registered_model(name, tags={OURS: "run"})
            return store
    if OURS not in found.tags:
        raise UserError(
            f"name={name}: taken in {store.place} by a model that gen3d did not register; give another name=."
        )
    return store


def save_model(path: Path, run: Path, code: Path, tags: Mapping[str, str]) -> None:
    """Write a run as a model of MLflow: its folder, the code that opens it, and what it needs.

    Args:
        path: folder to write, whole or not at all.
        run: run folder.
        code: file that MLflow executes to open the model; it is copied as text.
        tags: kept in the model's metadata.
    """
    mlflow = load_mlflow()
    partial = path.with_name(f"{PARTIAL}{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    with unwarned():
        mlflow.pyfunc.save_model(
            path=str(partial),
            python_model=str(code),
            artifacts={"run": os.path.abspath(run)},
            pip_requirements=[f"gen3d=={tags['gen3d.version']}", f"mlflow-skinny=={mlflow.__version__}", *NEEDED],
            metadata=dict(tags),
        )
    os.replace(partial, path)


def register_version(store: MlflowStore, name: str, model: Path, tags: Mapping[str, str], training: str) -> int:
    """The version under which a saved model is registered; made if there is none of this run from this place.

    A local registry refers to the model where it lies. A server gets a copy, in the run `training` or in one of its own.
    """
    with unwarned():
        local = Path(os.path.abspath(model)).as_uri()
        for version in store.client.search_model_versions(f"name='{name}'"):
            if version.tags.get("gen3d.key") == tags["gen3d.key"] and version.tags.get("gen3d.model") == local:
                return int(version.version)
        source, run = local, training
        if not store.is_local:
            run = training or store.create_run(f"register {name}", tags)
            store.client.log_artifacts(run, str(model), "model")
            source = f"{store.client.get_run(run).info.artifact_uri}/model"
        made = store.client.create_model_version(
            name, source, run_id=run or None, tags={**tags, "gen3d.model": local}, await_creation_for=0
        )
    return int(made.version)
