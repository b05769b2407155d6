"""MLflow: a run per training, with the members of a cross-fitted family, and trials of a sweep, as runs within it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from gen3d.core.artefact import write_json
from gen3d.core.plain_files import load_object
from gen3d.train.tracking.mlflow_store import MlflowStore, locked, metrics, open_store, params, unwarned
from gen3d.train.tracking.sinks import Ending, NotInstalled, TrackedTraining

STATUS: dict[Ending, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST_PARAMS, LONGEST_PARAM = 100, 6000
"""MLflow's limits of one request and of one value."""

OF_SWEEP, LOCK_OF_SWEEP = ".mlflow.json", ".mlflow.lock"
"""In a sweep's folder: the run that its trials are within, and what is held while it is made."""

MARK = "seconds"
"""A figure of every entry of the log, by which the last entry of a run is known."""


class MlflowSink:
    """Writes settings, figures, pictures and hashes; after an interruption it goes on with the same runs."""

    name: ClassVar = "MLflow"

    def __init__(self) -> None:
        self._store: MlflowStore | None = None
        self._training: TrackedTraining | None = None
        self._ids: dict[str, str] = {}
        self._last: dict[int, int] = {}

    def begin(self, training: TrackedTraining, known: Mapping[str, str]) -> Mapping[str, str]:
        """Open the store and the runs: one for the training, and one per member within it if there are several."""
        try:
            self._store = open_store(training.home)
        except ImportError:
            raise NotInstalled(self.name, "mlflow") from None
        self._training = training
        if known.get("store") == self._store.uri and self._store.has_run(known.get("run", "")):
            self._ids = dict(known)
            self._store.client.update_run(self._ids["run"], status="RUNNING")
            return self._ids
        parent = _run_of_sweep(self._store, training.within) if training.within is not None else ""
        self._ids = {"store": self._store.uri, "run": self._store.create_run(training.name, training.tags, parent)}
        with unwarned():
            listed = params(training.settings, LONGEST_PARAM)
            for first in range(0, len(listed), MOST_PARAMS):
                self._store.client.log_batch(self._ids["run"], params=listed[first : first + MOST_PARAMS])
            self._store.client.log_text(
                self._ids["run"], json.dumps(dict(training.settings), indent=1), "settings.json"
            )
        if training.num_members > 1:
            for member in range(training.num_members):
                name = f"{training.name} member {member + 1} of {training.num_members}"
                tags = {"gen3d.member": str(member)}
                run = self._ids[f"member {member}"] = self._store.create_run(name, tags, self._ids["run"])
                self._store.client.update_run(run, status="SCHEDULED")
        return self._ids

    def begin_member(self, member: int, step: int) -> None:
        """Find the last entry of the member: those after the last checkpoint are made a second time, equal to the bit."""
        store, run = self._open(member)
        with unwarned():
            store.client.update_run(run, status="RUNNING")
            history = store.client.get_metric_history(run, MARK)
        self._last[member] = max((entry.step for entry in history), default=-1)

    def losses(self, member: int, step: int, values: Mapping[str, float]) -> None:
        """One metric per figure."""
        store, run = self._open(member)
        if step > self._last.get(member, -1):
            with unwarned():
                store.client.log_batch(run, metrics=metrics(values, step, round(time.time() * 1000)))

    def picture(self, member: int, step: int, path: Path) -> None:
        """A copy below `pictures`."""
        store, run = self._open(member)
        with unwarned():
            store.client.log_artifact(run, str(path), "pictures")

    def end_member(self, member: int, hashes: Mapping[str, str]) -> None:
        """Write the hashes of its files; the run of a member is over, that of the training is not."""
        store, run = self._open(member)
        self._write_hashes(run, hashes)
        if run != self._ids["run"]:
            with unwarned():
                store.client.set_terminated(run, STATUS["finished"])

    def end(self, ending: Ending, hashes: Mapping[str, str]) -> None:
        """Write the hashes and close what is open."""
        store, _ = self._open(0)
        self._write_hashes(self._ids["run"], hashes)
        with unwarned():
            for run in self._runs():
                if store.client.get_run(run).info.status == "RUNNING":
                    store.client.set_terminated(run, STATUS[ending])

    def _write_hashes(self, run: str, hashes: Mapping[str, str]) -> None:
        store, _ = self._open(0)
        with unwarned():
            for name, digest in hashes.items():
                store.client.set_tag(run, f"gen3d.sha256.{name}", digest)

    def _open(self, member: int) -> tuple[MlflowStore, str]:
        """The store, and the run of a member."""
        assert self._store is not None
        return self._store, self._ids.get(f"member {member}", self._ids["run"])

    def _runs(self) -> list[str]:
        return [run for name, run in self._ids.items() if name != "store"]


def _run_of_sweep(store: MlflowStore, folder: Path) -> str:
    """The run that the trials of a sweep are within; the first trial makes it.

    It is closed at once: trials join it all the same, and no single trial knows which of them is the last.
    """
    with locked(folder / LOCK_OF_SWEEP):
        path = folder / OF_SWEEP
        kept = load_object(path) if path.is_file() else {}
        if kept.get("store") == store.uri and store.has_run(str(kept.get("run", ""))):
            return str(kept["run"])
        run = store.create_run(folder.name, {"gen3d.sweep": folder.name})
        store.client.set_terminated(run)
        write_json(path, {"store": store.uri, "run": run})
        return run
