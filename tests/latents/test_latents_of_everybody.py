"""A family that learned from everybody in folds: everybody can be told, and nobody can be judged by it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from gen3d.anomaly.anomaly import Anomaly
from gen3d.classify.classify import Classify
from gen3d.core.errors import UserError
from gen3d.latents.encode import Encode
from gen3d.train.train import Train
from tests.cohorts import write_cohort


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort with a strong planted effect, and a family of PCAs of all its people."""
    root = tmp_path_factory.mktemp("everybody")
    cohort = write_cohort(root / "cohort", num_controls=24, num_patients=24, effect=-0.6)
    model = {"kind": "pca", "num_components": 8}
    keys = {"prepared": cohort, "model": model, "cross_fit": 3, "patients": 1.0, "track": []}
    Train.model_validate(keys | {"out": root / "run"}).run()
    Encode.model_validate({"prepared": cohort, "run": root / "run", "out": root / "latents"}).run()
    return root


def test_everybody_is_tested_by_a_member_that_never_saw_them(everybody: Path, tmp_path: Path) -> None:
    asked = {"target": "diagnosis", "classes": ["control", "AD"], "permutations": 0, "bootstrap": 200, "repeats": 1}
    Classify.model_validate(asked | {"latents": everybody / "latents", "out": tmp_path / "head"}).run()
    metrics = json.loads((tmp_path / "head" / "metrics.json").read_text())
    predictions = pd.read_csv(tmp_path / "head" / "predictions.tsv", sep="\t").query("model == 'linear'")
    assert len(predictions) == 48
    assert metrics["guard"]["num_seen"] == 0
    auc = {row["model"]: row["value"] for row in metrics["tables"]["performance"] if row["measure"] == "auc"}
    assert auc["linear"] > 0.75
    assert auc["voxels (local volume)"] > 0.9  # six tenths of the volume of a region is gone
    assert auc["covariates"] < 0.75


def test_a_run_that_learned_from_patients_maps_nobody(everybody: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained on patients too"):
        Anomaly.model_validate(
            {"prepared": everybody / "cohort", "run": everybody / "run", "out": tmp_path / "maps"}
        ).run()
