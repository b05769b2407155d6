"""Trained classifiers in a study: their folds are those of everybody, and nobody is tested by a network that saw the person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.classify.classify import Classify
from gen3d.classify.heads.network_recipe import NetworkRecipe
from gen3d.cohort.manifest import read_manifest, subject_hash
from gen3d.cohort.scores_folder import write_scores
from gen3d.cohort.target import Target
from gen3d.core.errors import UserError
from gen3d.models.supervised import classifier as classifier_module
from gen3d.train.train import Train
from tests.classifier_run import deal, write_run
from tests.classify.test_classify import NUM, QUICK, classify, people, performance
from tests.cohorts import write_cohort
from tests.latents_folder import write_latents
from tests.sealing import reseal
from tests.train.classifiers import classifier
from tests.train.small_network import small_network

DIAGNOSIS = Target("diagnosis", "categories", ("CN", "AD"))
FOLDS = 4


def logits(table: pd.DataFrame, shift: float, seed: int = 1) -> NDArray[np.float64]:
    """Logits of both classes; those of AD people are `shift` SD higher."""
    generator = np.random.default_rng(seed)
    ill = (table["diagnosis"] == "AD").to_numpy()
    difference = shift * ill + generator.standard_normal(len(table))
    return np.stack([-difference / 2, difference / 2], axis=1)


def cohort(root: Path, shift: float = 0.0, **settings: Any) -> tuple[Path, pd.DataFrame]:
    values, table = people(shift=shift)
    return write_latents(root / "latents", values, table, **settings), table


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], pd.DataFrame]:
    """A network of real skill beside heads on latents without any."""
    root = tmp_path_factory.mktemp("networks")
    latents, table = cohort(root)
    values, generator = logits(table, 2.0), np.random.default_rng(5)
    permuted = [generator.standard_normal((NUM, 2)) for _ in range(3)]
    twin = logits(table, 0.0, seed=3)
    run = write_run(root / "cnn", table, DIAGNOSIS, values, deal(table, FOLDS, "diagnosis"), twin, permuted)
    metrics = classify(root / "head", latents, heads=[run, "linear"], permutations=100)
    return root, metrics, table


def test_the_folds_of_the_network_are_those_of_every_model(planted: tuple[Path, dict[str, Any], pd.DataFrame]) -> None:
    root, metrics, table = planted
    predictions = pd.read_csv(root / "head" / "predictions.tsv", sep="\t")
    expected = dict(zip(table["key"], deal(table, FOLDS, "diagnosis"), strict=True))
    assert (predictions["fold"] == predictions["key"].map(expected)).all()
    assert predictions["repeat"].eq(0).all()
    assert (predictions.groupby("model")["key"].nunique() == NUM).all()
    assert {"cnn", "linear", "cnn random twin", "covariates", "hippocampus_ml"} <= set(predictions["model"])
    kinds = {row["name"]: row["kind"] for row in metrics["models"]}
    assert (kinds["cnn"], kinds["cnn random twin"]) == ("head", "baseline")


def test_the_first_sentence_says_whether_it_beats_its_baselines_and_its_twin(
    planted: tuple[Path, dict[str, Any], pd.DataFrame],
) -> None:
    _, metrics, _ = planted
    verdict = metrics["summary"][0]
    assert verdict.startswith("cnn separates AD from CN")
    assert "beats all" in verdict
    assert "the same network from random weights reaches" in verdict
    assert "which it beats (difference" in verdict
    assert performance(metrics, "cnn")["value"] > 0.85  # 2 SD apart: 0.92
    assert performance(metrics, "cnn random twin")["low"] < 0.5 < performance(metrics, "cnn random twin")["high"]


def test_scores_are_calibrated_on_validation_people(planted: tuple[Path, dict[str, Any], pd.DataFrame]) -> None:
    _, metrics, _ = planted
    slope = performance(metrics, "cnn", "calibration_slope")
    assert slope["low"] < 1 < slope["high"]
    (model,) = (row for row in metrics["models"] if row["name"] == "cnn")
    assert model["settings"][0]["settings"] == "validation people=20"


def test_permuted_labels_leave_scores_as_they_are_and_the_page_says_so(
    planted: tuple[Path, dict[str, Any], pd.DataFrame],
) -> None:
    _, metrics, _ = planted
    (row,) = metrics["tables"]["permutation"]
    assert (row["fixed_scores"], row["p"]) == (1, pytest.approx(1 / 101))
    assert row["null_mean"] == pytest.approx(0.5, abs=0.03)
    text = " ".join(metrics["summary"])
    assert "Its scores stayed as they are" in text
    (network,) = metrics["networks"]
    values = [item["value"] for item in network["permuted"]]
    assert len(values) == 3
    assert all(0.3 < value < 0.7 for value in values)
    assert "3 networks of cnn trained with permuted labels: AUC" in text
    assert text.count("(80 people)") >= 3
    assert f"in which cnn was trained ({FOLDS}, once)" in text


def test_a_network_as_primary_classifier_keeps_no_head(planted: tuple[Path, dict[str, Any], pd.DataFrame]) -> None:
    root, metrics, _ = planted
    assert metrics["head_kept"] is False
    assert "no head is kept here" in metrics["head"]
    assert not (root / "head" / "head").exists()
    second = classify(root / "second", root / "latents", heads=["linear", root / "cnn"])
    assert second["head_kept"] is True
    values, table = people(seed=4, shift=0.0)
    table["subject"] = [f"e{i:03d}" for i in range(NUM)]
    others = write_latents(root / "others", values, table.drop(columns="key"))
    external = classify(root / "external", root / "latents", fit=root / "second", external=others, volumes=[])
    assert {row["name"] for row in external["models"]} == {"linear", "covariates"}
    with pytest.raises(UserError, match="first classifier is a trained network"):
        classify(root / "refused", root / "latents", fit=root / "head", external=others)


def test_an_interrupted_study_with_a_network_ends_alike(
    planted: tuple[Path, dict[str, Any], pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, _ = planted
    from gen3d.classify import classify as classification

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    asked = {"heads": [root / "cnn"], "permutations": 20, "bootstrap": 100}
    whole = classify(tmp_path / "whole", root / "latents", **asked)
    with monkeypatch.context() as patch:
        patch.setattr(classification, "_permutation", stopped)
        with pytest.raises(KeyboardInterrupt):
            classify(tmp_path / "head", root / "latents", **asked)
    again = classify(tmp_path / "head", root / "latents", **asked)
    assert (again["tables"], again["networks"]) == (whole["tables"], whole["networks"])


def test_the_run_is_part_of_the_key(tmp_path: Path) -> None:
    latents, table = cohort(tmp_path)
    folds = deal(table, FOLDS, "diagnosis")
    run = write_run(tmp_path / "cnn", table, DIAGNOSIS, logits(table, 0.0), folds)
    request = Classify.model_validate(QUICK | {"latents": latents, "out": tmp_path / "h", "heads": [run]})
    assert request.reads()["heads"] == [run]
    assert [head.kind for head in request.heads] == ["run"]


def test_a_network_without_skill_is_called_so(tmp_path: Path) -> None:
    """Six null networks: the interval covers chance as often as it says, and the first sentence claims nothing."""
    values, table = people(shift=0.0)
    latents, folds = write_latents(tmp_path / "latents", values, table), deal(table, FOLDS, "diagnosis")
    covered = []
    for seed in range(6):
        run = write_run(tmp_path / f"n{seed}", table, DIAGNOSIS, logits(table, 0.0, seed=20 + seed), folds)
        asked = {"heads": [run], "permutations": 50, "volumes": [], "covariates": ["age_years"], "bootstrap": 200}
        metrics = classify(tmp_path / f"h{seed}", latents, **asked)
        row = performance(metrics, f"n{seed}")
        covered.append(row["low"] <= 0.5 <= row["high"])
        if covered[-1]:
            assert metrics["summary"][0].startswith(f"No evidence that n{seed} separates AD from CN")
            assert "not better than" in metrics["summary"][0]
    assert sum(covered) >= 5


def test_a_network_that_saw_a_tested_person_is_refused(tmp_path: Path) -> None:
    """By the hashes of whom it saw, whatever its table of scores says: by id, and by the scan under another id."""
    latents, table = cohort(tmp_path)
    folds = deal(table, FOLDS, "diagnosis")
    leaks = [[int(np.flatnonzero(folds == 0)[0])], [], [], []]
    run = write_run(tmp_path / "leaking", table, DIAGNOSIS, logits(table, 3.0), folds, also_saw=leaks)
    with pytest.raises(UserError, match=r"leaking: 1 people \(p0000\).*held out.*fold 1.*trained on them"):
        classify(tmp_path / "refused", latents, heads=[run])
    scans = [f"v{index:063d}" for index in range(NUM)]
    hashed = table.assign(scan_hash=scans)
    renamed = hashed.assign(subject=[f"q{i:04d}" for i in range(NUM)])
    renamed["key"] = [f"sub-{subject}_ses-1" for subject in renamed["subject"]]
    values, _ = people(shift=0.0)
    twice = pd.concat([hashed, renamed.iloc[[1]]], ignore_index=True)
    both = write_latents(tmp_path / "both", np.concatenate([values, values[:1] + 9]), twice)
    fold_of = np.append(folds, (folds[1] + 1) % FOLDS)
    run = write_run(tmp_path / "twice", twice, DIAGNOSIS, logits(twice, 3.0), fold_of)
    with pytest.raises(UserError, match="trained on them or watched by them"):
        classify(tmp_path / "again", both, heads=[run], duplicates="merge")


@pytest.mark.parametrize(
    ("target", "asked", "sentence"),
    [
        (Target("diagnosis", "categories", ("AD", "CN")), {"classes": ["CN", "AD"]}, "predicts diagnosis"),
        (Target("sex", "categories", ("F", "M")), {}, r"predicts sex \(M against F\).*this study diagnosis"),
        (Target("diagnosis", "ordered", ("CN", "AD")), {"task": "categories"}, "as ordered grades"),
    ],
)
def test_a_network_for_another_question_is_refused(
    tmp_path: Path, target: Target, asked: dict[str, Any], sentence: str
) -> None:
    latents, table = cohort(tmp_path)
    run = write_run(tmp_path / "cnn", table, target, logits(table, 1.0), deal(table, FOLDS, "diagnosis"))
    with pytest.raises(UserError, match=sentence):
        classify(tmp_path / "refused", latents, heads=[run], **asked)


def test_a_network_for_other_labels_is_refused(tmp_path: Path) -> None:
    latents, table = cohort(tmp_path)
    labels = table["diagnosis"].copy()
    labels.iloc[7] = "CN"
    folds = deal(table, FOLDS, "diagnosis")
    run = write_run(tmp_path / "cnn", table, DIAGNOSIS, logits(table, 1.0), folds, labels=labels)
    with pytest.raises(UserError, match=r"another diagnosis of 1 people \(p0007\)"):
        classify(tmp_path / "refused", latents, heads=[run])


def test_two_networks_need_the_same_folds(tmp_path: Path) -> None:
    latents, table = cohort(tmp_path)
    folds = deal(table, FOLDS, "diagnosis")
    one = write_run(tmp_path / "one", table, DIAGNOSIS, logits(table, 1.0), folds)
    two = write_run(tmp_path / "two", table, DIAGNOSIS, logits(table, 0.5, 2), folds)
    other = write_run(tmp_path / "other", table, DIAGNOSIS, logits(table, 0.5, 2), (folds + 1) % FOLDS)
    metrics = classify(tmp_path / "both", latents, heads=[one, {"kind": "run", "run": two, "name": "second"}])
    assert {"one", "second"} <= {row["name"] for row in metrics["models"]}
    assert ("one", "second") in {(row["model"], row["against"]) for row in metrics["tables"]["differences"]}
    with pytest.raises(UserError, match=r"other: was not trained in the folds of .*one.*train it with folds="):
        classify(tmp_path / "refused", latents, heads=[one, other])


def test_a_family_of_latents_must_be_blind_in_the_same_folds(tmp_path: Path) -> None:
    values, table = people(shift=0.0)
    folds = deal(table, FOLDS, "diagnosis")
    hashes = [subject_hash(subject) for subject in table["subject"]]
    seen = [{name: "vae (train)" for name, fold in zip(hashes, folds, strict=True) if fold != k} for k in range(FOLDS)]
    seen[int(folds[5])][hashes[5]] = "vae (train)"  # one person whom the latents' model of that fold saw
    seen[(int(folds[5]) + 1) % FOLDS].pop(hashes[5])
    latents = write_latents(tmp_path / "latents", np.stack([values + k for k in range(FOLDS)]), table, seen=seen)
    run = write_run(tmp_path / "cnn", table, DIAGNOSIS, logits(table, 1.0), folds)
    metrics = classify(tmp_path / "h", latents, heads=[run, "linear"])
    assert metrics["people"]["num_people"] == NUM - 1
    assert any("p0005" in note and "model behind the latents" in note for note in metrics["people"]["left_out"])
    three = write_latents(tmp_path / "three", np.stack([values + k for k in range(3)]), table, seen=seen[:3])
    with pytest.raises(UserError, match="has 4 folds, but the latents are of a family of 3"):
        classify(tmp_path / "refused", three, heads=[run], seen="waive")


def test_people_that_the_network_does_not_know_are_left_out_and_those_it_only_learned_from_train_everybody(
    tmp_path: Path,
) -> None:
    values, table = people(shift=0.0)
    latents = write_latents(tmp_path / "latents", values, table)
    known = table.iloc[:70].reset_index(drop=True)
    folds = deal(known, FOLDS, "diagnosis")
    folds[:6] = -1
    run = write_run(tmp_path / "cnn", known, DIAGNOSIS, logits(known, 1.0), folds)
    metrics = classify(tmp_path / "h", latents, heads=[run, "linear"])
    assert metrics["people"]["num_people"] == 64
    assert sum(metrics["people"]["by_class"].values()) == 64
    notes = " ".join(metrics["people"]["left_out"])
    assert "10 people (p0070, p0071, p0072, p0073, p0074 and others) have no score of cnn" in notes
    assert "6 people (p0000, p0001, p0002, p0003, p0004 and others) were not held out by cnn" in notes


def test_a_run_that_tests_nobody_and_a_folder_that_is_no_run_are_sentences(tmp_path: Path) -> None:
    latents, table = cohort(tmp_path)
    run = write_run(tmp_path / "one", table, DIAGNOSIS, logits(table, 1.0), np.zeros(NUM, dtype=np.int64))
    with pytest.raises(UserError, match="nobody was held out to be tested; train with cross_fit=5"):
        classify(tmp_path / "refused", latents, heads=[run])
    with pytest.raises(UserError, match="latents"):
        classify(tmp_path / "refused", latents, heads=[latents])
    folds = deal(table, FOLDS, "diagnosis")
    run = write_run(tmp_path / "covariates", table, DIAGNOSIS, logits(table, 1.0), folds)
    with pytest.raises(UserError, match="is called covariates as a baseline is"):
        classify(tmp_path / "refused", latents, heads=[run])


def test_ordered_grades_and_numbers_of_a_network(tmp_path: Path) -> None:
    values, table = people(shift=0.0)
    generator = np.random.default_rng(2)
    grade = generator.integers(3, size=NUM)
    table["grade"], table["age_years"] = grade.astype(str), 60 + 10 * grade + generator.uniform(0, 5, NUM)
    latents = write_latents(tmp_path / "latents", values, table)
    folds = deal(table, FOLDS, "grade")
    latent = grade + 0.5 * generator.standard_normal(NUM)
    above = np.stack([4 * (latent - 0.5), 4 * (latent - 1.5)], axis=1)
    grades = write_run(tmp_path / "grades", table, Target("grade", "ordered", ("0", "1", "2")), above, folds)
    metrics = classify(tmp_path / "h", latents, heads=[grades], target="grade", covariates=["sex"], volumes=[])
    assert performance(metrics, "grades", "kappa")["value"] > 0.7
    assert metrics["target"]["task"] == "ordered"  # as the network was trained
    scores = np.stack([-np.abs(latent - place) * 3 for place in range(3)], axis=1)
    named = write_run(tmp_path / "named", table, Target("grade", "categories", ("0", "1", "2")), scores, folds)
    metrics = classify(tmp_path / "n", latents, heads=[named], target="grade", covariates=["sex"], volumes=[])
    assert performance(metrics, "named", "kappa")["value"] > 0.7  # grades all the same
    ages = table[["age_years"]].to_numpy() + 2 * generator.standard_normal((NUM, 1))
    age = write_run(tmp_path / "age", table, Target("age_years", "number"), ages, folds)
    metrics = classify(tmp_path / "a", latents, heads=[age], target="age_years", covariates=["sex"], volumes=[])
    assert performance(metrics, "age", "mae")["value"] == pytest.approx(2 * np.sqrt(2 / np.pi), abs=0.4)


def test_without_validation_people_the_shares_of_the_classes_stand_for_a_calibration() -> None:
    generator = np.random.default_rng(0)
    codes = (np.arange(4000) % 4 == 0).astype(np.float64)
    score = 2.0 * (codes - 0.5) + np.sqrt(2.0) * generator.standard_normal(
        4000
    )  # log odds of classes that weigh the same
    values = np.stack([np.zeros(4000), score], axis=1)
    recipe, groups = NetworkRecipe("cnn", ""), np.arange(4000)
    shares = recipe.learn(np.full((4000, 2), np.nan), codes, groups, DIAGNOSIS, 0)
    assert shares.num_people == 0
    fitted = recipe.learn(values, codes, groups, DIAGNOSIS, 0)
    assert fitted.num_people == 4000
    for learned in (shares, fitted):
        chance = learned.outputs(values)[:, 1]
        assert chance.mean() == pytest.approx(0.25, abs=0.02)
        assert codes[chance > 0.5].mean() > 0.5
    assert shares.outputs(values) == pytest.approx(fitted.outputs(values), abs=0.05)


def test_networks_alone_need_no_latents(tmp_path: Path) -> None:
    prepared = write_cohort(tmp_path / "prepared", num_controls=14, num_patients=14)
    table = read_manifest(prepared)
    folds = deal(table, FOLDS, "diagnosis")
    target = Target("diagnosis", "categories", ("control", "AD"))
    run = write_run(tmp_path / "cnn", table, target, logits(table, 2.0), folds)
    asked = QUICK | {"prepared": prepared, "heads": run, "bootstrap": 100, "voxels": True, "out": tmp_path / "h"}
    study = Classify.model_validate(asked)
    assert "latents" not in study.reads()
    assert "the 4 folds in which cnn was trained" in " ".join(study.plan())
    study.run()
    predictions = pd.read_csv(tmp_path / "h" / "predictions.tsv", sep="\t")
    assert {"cnn", "covariates", "voxels (T1w)"} <= set(predictions["model"])
    without = Classify.model_validate(asked | {"voxels": False, "out": tmp_path / "w"})
    assert "without latents and voxels" in " ".join(without.plan())
    for change, sentence in (
        ({"heads": [run, "linear"]}, "latents= is missing: the head linear learns from latents"),
        ({"prepared": None}, "give latents=, or prepared="),
        ({"confounds": ["age_years"]}, "confounds= is about latents"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Classify.model_validate(asked | change)


def test_each_fold_takes_the_run_that_its_validation_people_prefer(tmp_path: Path) -> None:
    """Of a good and a useless orientation the good one is taken everywhere, and what permuted labels would give is not shown."""
    latents, table = cohort(tmp_path)
    folds = deal(table, FOLDS, "diagnosis")
    good = write_run(tmp_path / "coronal", table, DIAGNOSIS, logits(table, 3.0), folds)
    poor = write_run(tmp_path / "axial", table, DIAGNOSIS, logits(table, 0.0, seed=8), folds)
    chosen = {"kind": "run", "run": poor, "or_run": [good], "name": "oriented"}
    metrics = classify(tmp_path / "head", latents, heads=[chosen, {"kind": "run", "run": good}], permutations=0)
    (first, second) = metrics["networks"]
    assert first["chosen"] == ["coronal"] * FOLDS
    assert second["chosen"] == []
    assert performance(metrics, "oriented")["value"] == pytest.approx(performance(metrics, "coronal")["value"])
    assert f"coronal in {FOLDS} folds" in " ".join(metrics["summary"])


def test_a_choice_never_looks_at_those_who_are_tested(tmp_path: Path) -> None:
    """The run that is right about everybody tested and wrong about everybody who watched is not taken."""
    latents, table = cohort(tmp_path)
    folds = deal(table, FOLDS, "diagnosis")
    fair = write_run(tmp_path / "fair", table, DIAGNOSIS, logits(table, 0.5), folds)
    lucky = write_run(tmp_path / "lucky", table, DIAGNOSIS, logits(table, 4.0, seed=2), folds)
    scores = pd.read_csv(lucky / "scores.tsv", sep="\t")
    watched = scores["part"] == "validation"
    scores.loc[watched, ["score_0", "score_1"]] *= -1
    write_scores(lucky, scores)
    reseal(lucky)
    chosen = {"kind": "run", "run": fair, "or_run": [lucky]}
    metrics = classify(tmp_path / "head", latents, heads=[chosen], permutations=0)
    assert metrics["networks"][0]["chosen"] == ["fair"] * FOLDS


@pytest.mark.parametrize(
    ("other", "message"),
    [({"fold_by": None}, "in the folds of"), ({"validation": 0}, "nobody only watched its training")],
)
def test_runs_that_cannot_be_chosen_between_are_refused(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    latents, table = cohort(tmp_path)
    folds = deal(table, FOLDS, "diagnosis")
    one = write_run(tmp_path / "one", table, DIAGNOSIS, logits(table, 1.0), folds)
    other_folds = deal(table, FOLDS, other.pop("fold_by", "diagnosis"))
    two = write_run(tmp_path / "two", table, DIAGNOSIS, logits(table, 1.0, seed=2), other_folds, **other)
    with pytest.raises(UserError, match=message):
        classify(tmp_path / "head", latents, heads=[{"kind": "run", "run": one, "or_run": [two]}])


def test_a_head_that_is_neither_a_kind_nor_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lineer is neither a head .* nor a folder of a trained classifier"):
        Classify.model_validate(
            {"latents": tmp_path, "heads": ["lineer"], "target": "diagnosis", "out": tmp_path / "o"}
        )
    missing = Classify.model_validate(
        {"latents": tmp_path, "heads": [str(tmp_path / "cnn")], "target": "diagnosis", "out": tmp_path / "o"}
    )
    assert missing.heads[0].kind == "run"


def dealt_anew(table: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Folds in which other people are held out together, of every class as many."""
    shuffled = table.sample(frac=1, random_state=seed)
    folds = pd.Series(deal(shuffled, FOLDS, "diagnosis"), index=shuffled.index)
    return folds.loc[table.index].to_numpy(dtype=np.int64)


def test_trainings_with_other_seeds_are_repeats_of_the_cross_validation(tmp_path: Path) -> None:
    """Everybody is tested once in each, in its own folds; with intervals over people, not over rows."""
    latents, table = cohort(tmp_path)
    permuted = [np.random.default_rng(5).standard_normal((NUM, 2))]
    runs = [
        write_run(
            tmp_path / f"cnn{seed}", table, DIAGNOSIS, logits(table, 1.0, seed), dealt_anew(table, seed), None, permuted
        )
        for seed in (1, 2, 3)
    ]
    one = classify(tmp_path / "one", latents, heads=[runs[0], "linear"], permutations=50)
    head = {"kind": "run", "run": runs[0], "again": runs[1:]}
    metrics = classify(tmp_path / "all", latents, heads=[head, "linear"], permutations=50)
    predictions = pd.read_csv(tmp_path / "all" / "predictions.tsv", sep="\t")
    for model in ("cnn1", "linear", "covariates"):
        rows = predictions[predictions["model"] == model]
        assert len(rows) == 3 * NUM
        assert (rows.groupby("key")["repeat"].nunique() == 3).all()
    for repeat, seed in enumerate((1, 2, 3)):
        expected = dict(zip(table["key"], dealt_anew(table, seed), strict=True))
        rows = predictions[predictions["repeat"] == repeat]
        assert (rows["fold"] == rows["key"].map(expected)).all()
    alone = [performance(classify(tmp_path / f"a{run.name}", latents, heads=[run]), run.name)["value"] for run in runs]
    value = performance(metrics, "cnn1")
    assert value["value"] == pytest.approx(float(np.mean(alone)), abs=0.01)
    assert value["num_people"] == NUM
    narrower = (value["high"] - value["low"]) / (performance(one, "cnn1")["high"] - performance(one, "cnn1")["low"])
    assert 0.5 < narrower < 1.05, "three independent scores of the same people: between 1 / sqrt(3) and 1"
    (network,) = metrics["networks"]
    assert (network["folds"], network["repeats"]) == (FOLDS, 3)
    assert 0.3 < network["permuted"][0]["value"] < 0.7
    assert f"in which cnn1 was trained ({FOLDS}, 3 times with other seeds)" in " ".join(metrics["summary"])
    assert f"the {FOLDS} folds in which cnn1 was trained, 3 times with other seeds" in metrics["split"]


def test_what_is_no_repeat_is_refused(tmp_path: Path) -> None:
    latents, table = cohort(tmp_path)
    folds = dealt_anew(table, 1)
    one = write_run(tmp_path / "one", table, DIAGNOSIS, logits(table, 1.0), folds)
    same = write_run(tmp_path / "same", table, DIAGNOSIS, logits(table, 1.0, seed=2), FOLDS - 1 - folds)
    fewer = write_run(tmp_path / "fewer", table, DIAGNOSIS, logits(table, 1.0), np.where(folds == 3, 0, folds))
    other = write_run(tmp_path / "other", table, DIAGNOSIS, logits(table, 1.0), dealt_anew(table, 2))
    identity = json.loads((other / "artefact.json").read_text())["identity"]
    reseal(other, identity=identity | {"settings": {"width": 8}})
    for run, message in (
        (same, "holds out the same people together"),
        (fewer, "in another number of folds"),
        (other, "differs from .* in width, so it is no repeat of it"),
    ):
        with pytest.raises(UserError, match=message):
            classify(tmp_path / "head", latents, heads=[{"kind": "run", "run": one, "again": [run]}])
    again = write_run(tmp_path / "again", table, DIAGNOSIS, logits(table, 1.0), dealt_anew(table, 3))
    with pytest.raises(UserError, match=r"is one of 1 training, and .* of 2"):
        classify(tmp_path / "head", latents, heads=[{"kind": "run", "run": one, "again": [again]}, other])
    with pytest.raises(ValueError, match="give one of them"):
        classify(tmp_path / "head", latents, heads=[{"kind": "run", "run": one, "again": [again], "or_run": [same]}])


def test_folds_of_a_cross_fitted_family_cannot_be_dealt_anew(tmp_path: Path) -> None:
    values, table = people(shift=0.0)
    family, seen = np.stack([values + k for k in range(FOLDS)]), [dict[str, str]() for _ in range(FOLDS)]
    latents = write_latents(tmp_path / "latents", family, table, seen=seen)
    runs = [
        write_run(tmp_path / f"cnn{seed}", table, DIAGNOSIS, logits(table, 1.0, seed), dealt_anew(table, seed))
        for seed in (1, 2)
    ]
    with pytest.raises(UserError, match="again= deals folds anew, but the latents are of a family of 4"):
        classify(tmp_path / "head", latents, heads=[{"kind": "run", "run": runs[0], "again": runs[1:]}])


def test_two_trainings_by_the_verb_are_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `gen3d train` writes them: they differ in the seed and in nothing else that counts."""
    monkeypatch.setattr(classifier_module, "build_network", small_network)
    prepared = write_cohort(tmp_path / "cohort", 15, 15, seed=4, effect=-0.6)
    changes: dict[str, Any] = {"model": {"crop_around": [], "grid": None}, "optim": {"steps": 4}}
    runs = [
        Train.model_validate(classifier(prepared, tmp_path / f"cnn{seed}", **changes, seed=seed)).run()
        for seed in (0, 1)
    ]
    shorter = Train.model_validate(
        classifier(prepared, tmp_path / "shorter", **(changes | {"optim": {"steps": 3}}), seed=2)
    )
    others = [
        Train.model_validate(
            classifier(prepared, tmp_path / f"other{run.name}", **changes, cross_fit=1, folds=str(run))
        ).run()
        for run in runs
    ]
    heads = [{"kind": "run", "run": str(one), "again": [str(two)]} for one, two in (runs, others)]
    keys: dict[str, Any] = {"prepared": prepared, "target": "diagnosis", "voxels": False, **QUICK}
    out = Classify.model_validate({**keys, "heads": heads, "out": tmp_path / "heads"}).run()
    rows = pd.read_csv(out / "predictions.tsv", sep="\t")
    tested = {name: rows[rows["model"] == name].set_index(["key", "repeat"])["fold"] for name in ("cnn0", "othercnn0")}
    assert (tested["cnn0"].groupby("key").size() == 2).all()
    assert (tested["cnn0"].groupby("key").nunique() == 2).any(), "folds were dealt anew"
    pd.testing.assert_series_equal(tested["cnn0"].sort_index(), tested["othercnn0"].sort_index())
    refused = Classify.model_validate(
        {**keys, "heads": [{**heads[0], "again": [str(shorter.run())]}], "out": tmp_path / "refused"}
    )
    with pytest.raises(UserError, match=r"differs from .* in optim, so it is no repeat"):
        refused.run()
