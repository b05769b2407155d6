"""Without its extras gen3d runs, and whatever needs one says which command installs it."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gen3d.core.errors import UserError
from gen3d.core.user_table import read_parquet
from gen3d.doctor.packages import USES
from gen3d.exports.model_compiled import require_onnx
from gen3d.exports.register import Register
from gen3d.genotypes.sources import needed
from gen3d.imaging.network_mask import deepbet_files
from gen3d.prepare.dicom.headers import require_pydicom
from gen3d.prepare.dicom.people import pseudonym
from gen3d.serve.serve import require_packages
from gen3d.train.engine.deepspeed import _import_deepspeed
from gen3d.train.tracking.sinks import TrackedTraining, TrackerName
from gen3d.train.tracking.trackers import open_tracking


def tracked(tracker: TrackerName) -> Callable[[Path], None]:
    """Begin a record: a tracker that is not there is said and does no harm."""

    def begin(folder: Path) -> None:
        tracking = open_tracking([tracker])
        tracking.begin(TrackedTraining(folder, {}, {}, 1), {})
        assert not tracking.sinks

    return begin


def imported(module: str) -> Callable[[Path], None]:
    """Import a module of gen3d as for the first time."""

    def anew(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.delitem(sys.modules, module, raising=False)
            importlib.import_module(module)

    return anew


def parquet(folder: Path) -> None:
    (folder / "table.parquet").write_bytes(b"PAR1")
    read_parquet(folder / "table.parquet")


def masked(folder: Path) -> None:
    """Look for deepbet's networks by a list of packages that lacks it: the package itself is never imported."""

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "files", absent)
        deepbet_files()


ACTIONS: dict[str, list[tuple[str, Callable[[Path], Any]]]] = {
    "deepspeed": [("deepspeed", lambda folder: _import_deepspeed(torch.device("cpu")))],
    "tracking": [("torch.utils.tensorboard", tracked("tensorboard"))],
    "mlflow": [
        ("mlflow", tracked("mlflow")),
        ("alembic", tracked("mlflow")),
        ("mlflow", lambda folder: Register.model_validate({"run": folder, "name": "x"}).open_inputs()),
    ],
    "wandb": [("wandb", tracked("wandb"))],
    "serve": [(name, lambda folder: require_packages()) for name in ("fastapi", "uvicorn", "python_multipart")],
    "dicom": [
        ("pydicom", lambda folder: require_pydicom()),
        ("dicognito.anonymizer", lambda folder: pseudonym("1234", "seed")),
    ],
    "masks": [("deepbet", masked)],
    "sweep": [("optuna", imported("gen3d.sweep.search")), ("submitit", imported("gen3d.sweep.slurm"))],
    "export": [(name, lambda folder: require_onnx()) for name in ("onnx", "onnxscript", "onnxruntime")],
    "parquet": [("pyarrow", parquet)],
    "genetics": [
        (name, lambda folder, name=name: needed(name, folder / "people"))
        for name in ("bed_reader", "cyvcf2", "pgenlib")
    ],
}
"""By extra: a module of it, and what is done that needs it."""


@pytest.mark.parametrize("extra", USES)
def test_what_needs_an_extra_says_the_command_that_installs_it(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, action in ACTIONS[extra]:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)  # as where it is not installed
            said = ""
            try:
                action(tmp_path)
            except UserError as error:
                said = str(error)
            said += capsys.readouterr().out
        assert "pip install" in said, module
        assert f"gen3d[{extra}]" in said, module
