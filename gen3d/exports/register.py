"""`gen3d register`: a run in MLflow's model registry, under a name and an alias, loaded without a pickle."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from gen3d.core.artefact import record_of
from gen3d.core.config import Folder
from gen3d.core.disk import OF_THE_DISK
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.work import FolderVerb, Inputs
from gen3d.exports.registered import RegisteredRun
from gen3d.exports.registered_folder import REGISTERED, copied_run, registered_model, write_registered
from gen3d.models.run import OneRun
from gen3d.train.tracking.mlflow_store import MlflowStore, has_mlflow, store_uri
from gen3d.train.tracking.registry import open_registry, register_version, save_model
from gen3d.train.tracking.sinks import reason

CODE = "mlflow_model.py"


class Register(FolderVerb):
    """Put a run into MLflow's model registry, so that others open it by name, version or alias.

    The folder written holds the model as MLflow has it: a copy of the run folder and one file of code that opens it by gen3d's own
    reader, so nothing is pickled and the run's seal is checked wherever it is loaded. `mlflow models` and
    `mlflow.pyfunc.load_model` predict with it, for an array of volumes or a prepared folder. Without MLFLOW_TRACKING_URI the
    registry is mlflow.db beside the run folder; a server gets a copy of the run folder, its pictures included.
    A name holds versions: another run under the same name is the next one, and an alias moves to it.
    """

    run_folder: OneRun = Field(
        alias="run", description="run folder (train) of a classifier, or of a model with an expectation"
    )
    name: str = Field(description="name in the registry; letters, digits, dots, dashes and underscores")
    alias: str = Field("", description="alias that shall point to this version, such as champion; none: none is set")
    out: Folder = Field(Path(REGISTERED), description="folder to write; default: registered/NAME beside the run folder")

    @model_validator(mode="before")
    @classmethod
    def _beside_the_run(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("out") is None and isinstance(tree.get("run"), str | Path):
            return tree | {"out": Path(tree["run"]).parent / REGISTERED / str(tree.get("name", ""))}
        return tree

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
            raise ValueError(
                f"{name!r} is no name of a model: it has letters, digits, dots, dashes and underscores only"
            )
        return name

    @field_validator("alias")
    @classmethod
    def _plain_alias(cls, alias: str) -> str:
        if alias and (not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", alias) or re.fullmatch("latest|[vV][0-9]+", alias)):
            raise ValueError(
                f"{alias!r} is no alias: it has letters, digits, dashes and underscores only, and is neither `latest` nor a version"
            )
        return alias

    def reads(self) -> Inputs:
        """The run."""
        return {"run": self.run_folder}

    def open_inputs(self) -> RegisteredRun:
        """The run, which must answer something.

        Raises:
            UserError: it does not, or MLflow is not installed.
        """
        if not has_mlflow():
            raise UserError(
                "`gen3d register` needs MLflow, which is not installed; `pip install 'gen3d[mlflow]'` adds it."
            )
        return RegisteredRun.open(self.run_folder)

    def renews(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """Another alias points to the same version."""
        settings = {**before.get("settings", {}), "alias": now["settings"]["alias"]}
        return {**before, "settings": settings} == now

    def plan(self) -> list[str]:
        """Where the model would be registered."""
        opened = self.open_inputs()
        alias = f", alias {self.alias}" if self.alias else ""
        return [
            f"registers {self.run_folder} ({opened.run.kind}) as {self.name}{alias} in {store_uri(self._home)}",
            f"writes {self.out}",
        ]

    @property
    def _home(self) -> Path:
        return Path(os.path.abspath(self.run_folder)).parent

    def write(self, work: Work, opened: RegisteredRun) -> dict[str, Any]:
        """Write the model and enter it in the registry; what was done before is not done again."""
        run = opened.run
        tags = {"gen3d.key": run.artefact.key, "gen3d.kind": run.kind, "gen3d.version": run.artefact.version}
        uri = store_uri(self._home)
        try:
            store = open_registry(self._home, self.name)
            model = registered_model(self.out)
            if not model.is_dir():
                save_model(model, self.run_folder, Path(__file__).with_name(CODE), tags)
            version = register_version(store, self.name, model, tags, self._training(store))
            if self.alias:
                store.client.set_registered_model_alias(self.name, self.alias, version)
        except Exception as error:  # whatever MLflow, its server or its database raise
            if isinstance(error, UserError) or getattr(error, "errno", None) in OF_THE_DISK:
                raise
            raise UserError(
                f"{uri}: the model registry cannot be used ({reason(error)}); start the server, or `unset MLFLOW_TRACKING_URI` "
                "to use a file beside the run."
            ) from None
        copy = copied_run(self.run_folder)
        described = {"name": self.name, "version": version, "alias": self.alias, "registry": uri, "run": copy}
        write_registered(self.out, described)
        alias = f" and alias {self.alias}" if self.alias else ""
        say(f"{self.out}: {self.name}, version {version}{alias}, in {store.place}.")
        say(
            f"mlflow.pyfunc.load_model('models:/{self.name}/{version}') opens it; so does run={self.out / copy} in gen3d."
        )
        return described | {"kind": run.kind}

    def _training(self, store: MlflowStore) -> str:
        """The MLflow run of the training, where this store has it."""
        ids = (record_of(self.run_folder) or {}).get("tracking", {}).get("mlflow", {})
        run = str(ids.get("run", ""))
        return run if run and ids.get("store") == store.uri and store.has_run(run) else ""
