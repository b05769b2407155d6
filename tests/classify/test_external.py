"""A test on other people: the record names the people that were tested, and says which baselines were run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.classify import Classify
from gen3d.cohort.manifest import read_manifest, subject_hash
from gen3d.core.errors import UserError
from tests.classify.test_classify import NUM, QUICK, classify, people, performance
from tests.cohorts import write_cohort
from tests.latents_folder import write_latents

ASKED = QUICK | {"repeats": 1, "bootstrap": 100, "volumes": []}


def others() -> tuple[np.ndarray, pd.DataFrame]:
    values, table = people(seed=5)
    table["subject"] = [f"e{i:03d}" for i in range(NUM)]
    table["key"] = [f"sub-{subject}_ses-1" for subject in table["subject"]]
    return values, table


@pytest.fixture(scope="module")
def waived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head whose study waived that its model saw p0003, and latents of other people of whom it saw e001."""
    root = tmp_path_factory.mktemp("waived")
    seen = {subject_hash("p0003"): "vae (train)", subject_hash("e001"): "vae (train)"}
    write_latents(root / "latents", *people(), seen=seen)
    write_latents(root / "others", *others(), seen=seen)
    classify(root / "head", root / "latents", **ASKED | {"seen": "waive"})
    return root


def test_the_waiver_names_the_tested_people_and_not_the_training_people(waived: Path, tmp_path: Path) -> None:
    asked = {"fit": waived / "head", "external": waived / "others"}
    with pytest.raises(UserError, match=r"1 of 80 people \(e001\) were seen"):
        classify(tmp_path / "refused", waived / "latents", **asked)
    metrics = classify(tmp_path / "external", waived / "latents", **asked, seen="waive")
    (waiver,) = metrics["guard"]["waivers"]
    assert "1 of 80 people (e001)" in waiver
    assert "p0003" not in waiver
    assert any("when the head was fitted" in note and "p0003" in note for note in metrics["people"]["left_out"])
    left = classify(tmp_path / "left", waived / "latents", **asked, seen="leave_out")
    assert left["guard"] | {"waivers": [], "num_seen": 1, "seen_policy": "leave_out"} == left["guard"]
    assert left["people"]["num_people"] == NUM - 1


def test_a_dry_run_names_the_people_that_would_be_tested(waived: Path, tmp_path: Path) -> None:
    settings = ASKED | {"latents": waived / "latents", "fit": waived / "head", "external": waived / "others"}
    study = Classify.model_validate(settings | {"out": tmp_path / "out", "seen": "leave_out"})
    plan = " ".join(study.plan())
    assert "tests the head on 79 other people (CN 40, AD 39)" in plan
    assert "e001" in plan
    with pytest.raises(UserError, match="e001"):
        Classify.model_validate(settings | {"out": tmp_path / "out"}).plan()


def test_a_training_person_under_another_id_is_refused_and_never_merged(waived: Path, tmp_path: Path) -> None:
    values, table = others()
    values[3] = people()[0][10] + 0.1
    renamed = write_latents(tmp_path / "renamed", values, table)
    asked = {"fit": waived / "head", "external": renamed}
    for policy in ({}, {"duplicates": "merge"}):
        with pytest.raises(UserError, match=r"e003 and p0010 .*leave these people out of external="):
            classify(tmp_path / "same", waived / "latents", **asked, **policy)
    assert not (tmp_path / "same").exists(), "nothing is begun before the people are checked"
    metrics = classify(tmp_path / "kept", waived / "latents", **asked, duplicates="waive")
    assert "e003 and p0010" in metrics["guard"]["waivers"][0]


def test_a_missing_voxel_baseline_is_said_next_to_the_verdict(waived: Path, tmp_path: Path) -> None:
    metrics = classify(
        tmp_path / "out", waived / "latents", fit=waived / "head", external=waived / "others", seen="leave_out"
    )
    assert metrics["summary"][1] == "Not compared with plain voxels: the voxel-wise baseline was switched off."
    assert not any(f"all {num} baselines," in metrics["summary"][0] for num in range(9))


def _of_cohort(folder: Path, cohort: Path, seed: int) -> Path:
    """Latents of a prepared cohort that hold no disease at all."""
    table = read_manifest(cohort)
    return write_latents(folder, np.random.default_rng(seed).standard_normal((len(table), 24)), table)


def test_voxels_are_a_baseline_of_an_external_test_too(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"repeats": 1, "folds": 3, "voxels": True, "volumes": [], "covariates": ["age_years"]}
    cohorts = [
        write_cohort(tmp_path / prefix, num, num, seed, effect=-0.6, prefix=prefix)
        for seed, (prefix, num) in enumerate({"p": 12, "e": 9}.items())
    ]
    latents = [_of_cohort(tmp_path / f"latents{seed}", cohort, seed) for seed, cohort in enumerate(cohorts)]
    fitted = classify(tmp_path / "head", latents[0], prepared=cohorts[0], **settings)
    assert "Not compared" not in " ".join(fitted["summary"])
    asked = {"fit": tmp_path / "head", "external": latents[1], "bootstrap": 100}
    tested = {"latents": latents[0], "target": "diagnosis", "out": tmp_path / "out", "prepared": cohorts} | asked
    Classify.model_validate(tested).run()
    predicted = pd.read_csv(tmp_path / "out" / "predictions.tsv", sep="\t")
    ill = predicted["y_true"] != "CN"
    voxels = predicted[predicted["model"] == "voxels (T1w)"]
    assert set(voxels["subject"].str[0]) == {"e"}
    assert (voxels["y_pred"] == voxels["y_true"]).mean() > 0.8
    assert ill.any()
    without = Classify.model_validate(tested | {"prepared": None, "out": tmp_path / "without"})
    without.run()
    text = (tmp_path / "without" / "metrics.json").read_text()
    assert "Not compared with plain voxels: the voxel-wise baseline could not be run (the latents do not say" in text
    with pytest.raises(UserError, match="prepared=FOLDER"):
        Classify.model_validate(tested | {"prepared": None, "out": tmp_path / "asked", "voxels": True}).run()


def test_performance_is_that_of_the_external_people(waived: Path, tmp_path: Path) -> None:
    metrics = classify(
        tmp_path / "out", waived / "latents", fit=waived / "head", external=waived / "others", seen="leave_out"
    )
    assert performance(metrics, "linear")["num_people"] == NUM - 1
