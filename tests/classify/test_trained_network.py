"""From scans to the verdict: a small network is trained fold by fold, and compared with voxels and covariates in its folds."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from gen3d.classify.classify import Classify
from gen3d.cohort.scores_folder import read_scores
from gen3d.models.supervised import classifier as classifier_module
from gen3d.train.train import Train
from tests.train.classifiers import classifier, mean_auc, write_people
from tests.train.small_network import small_network

EFFECT = -0.6


def test_a_trained_network_is_compared_in_its_own_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_module, "build_network", small_network)
    prepared = write_people(tmp_path / "prepared", EFFECT)
    run = Train.model_validate(classifier(prepared, tmp_path / "cnn", model={"shift": 1, "permuted": 1})).run()
    scores = read_scores(run)
    asked = {"heads": run, "prepared": prepared, "target": scores.target.name, "out": tmp_path / "h"}
    Classify.model_validate(asked | {"permutations": 20, "bootstrap": 100}).run()
    metrics = json.loads((tmp_path / "h" / "metrics.json").read_text())
    predictions = pd.read_csv(tmp_path / "h" / "predictions.tsv", sep="\t").query("model == 'cnn'")
    assert len(predictions)
    assert (predictions["fold"] == predictions["subject"].map(scores.fold_of)).all()
    (row,) = (row for row in metrics["tables"]["performance"] if row["model"] == "cnn" and row["measure"] == "auc")
    assert row["value"] == pytest.approx(mean_auc(scores), abs=0.05)
    assert {"voxels (T1w)", "covariates"} <= {model["name"] for model in metrics["models"]}
    (network,) = metrics["networks"]
    assert len(network["permuted"]) == 1
    assert network["folds"] == scores.folds
