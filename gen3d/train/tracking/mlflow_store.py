"""The one module that imports MLflow: a store of runs and models, by default a file beside the run folder.

Without MLFLOW_TRACKING_URI the store is `mlflow.db` (SQLite) and `mlflow_artifacts/` in a folder of the user's; nothing leaves the
machine, and MLflow's own telemetry is off. `mlflow-skinny` with SQLAlchemy and Alembic is enough for all that is done here.
"""

from __future__ import annotations

import fcntl
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

EXPERIMENT = "gen3d"
URI = "MLFLOW_TRACKING_URI"
DATABASE, ARTIFACTS, LOCK = "mlflow.db", "mlflow_artifacts", ".mlflow.lock"
SQLITE = "sqlite:///"

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""MLflow's own are 120 s and 7 retries: a server that is gone would hold up a training for an hour before it is given up."""

DATABASE_TRIES = 4
"""MLflow's own are 10, which wait 101 s for a database that cannot be opened; these wait 1.1 s."""


def load_mlflow() -> ModuleType:
    """MLflow, silent, with nothing sent to its makers.

    Raises:
        ImportError: it, SQLAlchemy or Alembic is not installed.
    """
    os.environ.update(QUIET)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    with unwarned():
        import alembic  # noqa: F401
        import mlflow
        import mlflow.tracking
        import sqlalchemy  # noqa: F401
    # What they raise becomes a sentence; as an error they would print a traceback before it.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def has_mlflow() -> bool:
    """Whether MLflow is installed with what a local store needs."""
    try:
        load_mlflow()
    except ImportError:
        return False
    return True


@contextmanager
def unwarned() -> Iterator[None]:
    """Within this context, warnings about the insides of MLflow's libraries are not shown: no user can act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def database_of(uri: str) -> Path:
    """The file of a local store, whose URI may be SQLite's own with parameters: `sqlite:///file:PLACE?mode=ro&uri=true`."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0].removeprefix("file:"))


def store_uri(home: Path) -> str:
    """The user's MLFLOW_TRACKING_URI, or the file in a folder."""
    return os.environ.get(URI, "").strip() or f"{SQLITE}{Path(os.path.abspath(home)) / DATABASE}"


@dataclass(frozen=True)
class MlflowStore:
    """A store that answered."""

    uri: str
    client: Any

    @property
    def is_local(self) -> bool:
        """Whether it is a file of this machine."""
        return self.uri.startswith(SQLITE)

    @property
    def place(self) -> str:
        """The store as a user knows it: a file or an address."""
        return str(database_of(self.uri)) if self.is_local else self.uri

    def experiment(self) -> str:
        """The id of the experiment MLFLOW_EXPERIMENT_NAME, or `gen3d`, which is made if there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or EXPERIMENT
        with unwarned():
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            # MLflow's default place for files of a local store is the folder in which a command happens to be run.
            place = Path(os.path.abspath(database_of(self.uri).parent / ARTIFACTS)).as_uri() if self.is_local else None
            return str(self.client.create_experiment(name, artifact_location=place))

    def create_run(self, name: str, tags: Mapping[str, str], parent: str = "") -> str:
        """The id of a new run, within another one if there is a parent."""
        nested = {"mlflow.parentRunId": parent} if parent else {}
        with unwarned():
            run = self.client.create_run(self.experiment(), run_name=name, tags={**tags, **nested})
        return str(run.info.run_id)

    def has_run(self, run: str) -> bool:
        """Whether there is a run of this id that was not deleted."""
        try:
            with unwarned():
                return str(self.client.get_run(run).info.lifecycle_stage) == "active"
        except Exception as error:
            if not_there(error):
                return False
            raise


def not_there(error: Exception) -> bool:
    """Whether a store answered that it has no such thing."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def open_store(home: Path) -> MlflowStore:
    """The store of a user, or the one in a folder, which is made if there is none.

    Raises:
        ImportError: MLflow is not installed.
        Exception: whatever MLflow raises where the store cannot be reached or written.
    """
    load_mlflow()
    from mlflow.tracking import MlflowClient

    uri = store_uri(home)
    if not uri.startswith("http"):
        import mlflow.store.db.utils

        mlflow.store.db.utils.MAX_RETRY_COUNT = DATABASE_TRIES  # there is no variable of the environment for it
    with _making(uri), unwarned():
        client = MlflowClient(uri, uri)
        client.search_experiments(max_results=1)
    return MlflowStore(uri, client)


@contextmanager
def _making(uri: str) -> Iterator[None]:
    """Let one process make the tables of a local store: of two trials that begin together, one would fail."""
    if not uri.startswith(SQLITE):
        yield
        return
    folder = database_of(uri).parent
    if not folder.is_dir():  # MLflow makes it
        yield
        return
    with locked(folder / LOCK):
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, where the file system can lock."""
    with path.open("a") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def metrics(values: Mapping[str, float], step: int, time_ms: int) -> list[Any]:
    """Figures of a step as MLflow takes them."""
    from mlflow.entities import Metric

    return [Metric(name, float(value), time_ms, step) for name, value in values.items()]


def params(settings: Mapping[str, Any], longest: int) -> list[Any]:
    """Settings by dotted key as MLflow takes them; a text beyond `longest` characters is cut."""
    from mlflow.entities import Param

    return [Param(name, str(value)[:longest]) for name, value in settings.items()]
