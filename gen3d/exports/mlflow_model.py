"""A registered run as MLflow loads it: this file is copied beside the run folder and executed ("model from code"); no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.models
from mlflow.pyfunc import PythonModel

from gen3d.exports.registered import RegisteredRun


class FolderAnswers:
    """Opens the run folder by gen3d's own reader, which checks its seal, and answers for it.

    It is no `PythonModel` itself: of one that defines `predict`, MLflow asks for type hints of its own kind, which know tables
    and lists but no volumes, and it takes any other hint for a mistake.
    """

    def load_context(self, context: Any) -> None:
        """Open the run; members are loaded when they are first asked."""
        self._run = RegisteredRun.open(Path(context.artifacts["run"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """As `RegisteredRun.predict`."""
        return self._run.predict(model_input)


class RegisteredModel(FolderAnswers, PythonModel):
    """The model that MLflow opens."""


mlflow.models.set_model(RegisteredModel())
