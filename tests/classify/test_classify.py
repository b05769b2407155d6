"""`gen3d classify` on latents whose classes, sites and people are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.classify import Classify
from gen3d.cli import main
from gen3d.cohort.manifest import subject_hash
from gen3d.core.errors import UserError
from gen3d.harmonise.harmonise import Harmonise
from tests.latents_folder import cohort_table, write_latents
from tests.sealing import reseal

NUM, WIDTH = 80, 24
QUICK = {"target": "diagnosis", "voxels": False, "permutations": 0, "bootstrap": 200, "repeats": 2}


def people(seed: int = 0, shift: float = 2.0, num: int = NUM, **columns: Any) -> tuple[np.ndarray, pd.DataFrame]:
    """Latents in which AD is `shift` SD away along one direction; hippocampus_ml says half as much."""
    generator = np.random.default_rng(seed)
    ill = np.arange(num) % 2 == 1
    values = generator.standard_normal((num, WIDTH))
    values[:, 3] += shift * ill
    table = cohort_table(
        num,
        diagnosis=np.where(ill, "AD", "CN"),
        age_years=generator.uniform(60, 85, num),
        sex=generator.choice(["F", "M"], num),
        hippocampus_ml=7 - 0.5 * shift * ill + generator.standard_normal(num),
        **columns,
    )
    return values, table


def classify(folder: Path, latents: Any, **settings: Any) -> dict[str, Any]:
    Classify.model_validate(QUICK | {"latents": latents, "out": folder} | settings).run()
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def performance(metrics: dict[str, Any], model: str, measure: str = "auc") -> dict[str, Any]:
    rows = metrics["tables"]["performance"]
    found: dict[str, Any] = next(row for row in rows if (row["model"], row["measure"]) == (model, measure))
    return found


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("planted")
    latents = write_latents(root / "latents", *people())
    metrics = classify(root / "head", latents, permutations=60, heads=["linear", "svm"])
    return root, metrics


def test_planted_classes_are_predicted_better_than_by_the_baselines(planted: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = planted
    head = performance(metrics, "linear")
    assert head["low"] > 0.75  # two Gaussians 2 SD apart: 0.92 with all the data in the world
    assert head["value"] > performance(metrics, "hippocampus_ml")["value"] > 0.6
    assert performance(metrics, "covariates")["low"] < 0.5
    assert {row["name"] for row in metrics["models"]} == {
        "linear",
        "svm",
        "covariates",
        "hippocampus_ml",
        "covariates and volumes",
    }
    assert metrics["tables"]["permutation"][0]["p"] == pytest.approx(1 / 61)
    assert 0.4 < metrics["tables"]["permutation"][0]["null_mean"] < 0.6
    assert metrics["people"]["by_class"] == {"CN": 40, "AD": 40}


def test_every_scan_is_predicted_once_per_model_and_repeat(planted: tuple[Path, dict[str, Any]]) -> None:
    root, metrics = planted
    table = pd.read_csv(root / "head" / "predictions.tsv", sep="\t")
    counts = table.groupby(["model", "repeat"])["key"].agg(["size", "nunique"])
    assert (counts == NUM).all().all()
    assert len(counts) == 2 * len(metrics["models"])
    assert (table["p_CN"] + table["p_AD"]).to_numpy() == pytest.approx(np.ones(len(table)), abs=1e-5)
    called = np.where(table["y_score"] >= table["threshold"], "AD", "CN")
    assert (called == table["y_pred"]).all()
    assert (root / "head" / "figures" / "performance.png").stat().st_size > 10_000
    assert not (root / "head" / ".parts").exists()


def test_a_second_run_of_a_finished_study_does_nothing(planted: tuple[Path, dict[str, Any]]) -> None:
    root, _ = planted
    before = (root / "head" / "metrics.json").stat().st_mtime_ns
    classify(root / "head", root / "latents", permutations=60, heads=["linear", "svm"])
    assert (root / "head" / "metrics.json").stat().st_mtime_ns == before


def test_an_interrupted_study_goes_on_and_ends_alike(
    planted: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, metrics = planted
    from gen3d.classify import classify as classification

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classification, "_permutation", stopped)
        with pytest.raises(KeyboardInterrupt):
            classify(tmp_path / "head", root / "latents", permutations=60, heads=["linear", "svm"])
    assert len(list((tmp_path / "head" / ".parts").glob("*.tsv"))) == len(metrics["models"])
    again = classify(tmp_path / "head", root / "latents", permutations=60, heads=["linear", "svm"])
    assert again["tables"] == metrics["tables"]


def test_classes_that_are_numbers_survive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, table = people()
    table["cdr"] = np.where(table["diagnosis"] == "AD", 0.5, 0.0)
    latents, asked = write_latents(tmp_path / "l", values, table), {"target": "cdr", "classes": [0, 0.5], "repeats": 1}
    from gen3d.classify import classify as classification

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classification, "_permutation", stopped)
        with pytest.raises(KeyboardInterrupt):
            classify(tmp_path / "h", latents, **asked)
    assert classify(tmp_path / "h", latents, **asked)["tables"] == classify(tmp_path / "w", latents, **asked)["tables"]


def test_the_test_people_s_labels_enter_nothing(tmp_path: Path) -> None:
    """Labels of the tested people of a fold are changed: their own scores in that fold may not move."""
    values, table = people()
    table["site"] = np.repeat(["A", "B"], NUM // 2)
    changed = table.copy()
    at_b = changed["site"] == "B"
    changed.loc[at_b, "diagnosis"] = changed.loc[at_b, "diagnosis"].map({"AD": "CN", "CN": "AD"})
    scores = []
    for name, frame in (("x", table), ("y", changed)):
        classify(tmp_path / name, write_latents(tmp_path / f"l{name}", values, frame), split="sites")
        found = pd.read_csv(tmp_path / name / "predictions.tsv", sep="\t").query("model == 'linear' and site == 'B'")
        scores.append(found["y_score"].to_numpy())
    np.testing.assert_array_equal(*scores)


def test_nothing_planted_is_chance(tmp_path: Path) -> None:
    covered = []
    for seed in range(6):
        latents = write_latents(tmp_path / f"l{seed}", *people(seed, shift=0.0))
        row = performance(classify(tmp_path / f"h{seed}", latents, seed=seed), "linear")
        covered.append(row["low"] <= 0.5 <= row["high"])
    assert sum(covered) >= 5


def test_a_person_the_model_saw_is_never_tested(tmp_path: Path) -> None:
    values, table = people()
    seen = {subject_hash("p0003"): "vae (train)", subject_hash("p0010"): "vae (train)"}
    latents = write_latents(tmp_path / "l", values, table, seen=seen)
    with pytest.raises(UserError, match=r"p0003, p0010.*vae \(train\)"):
        classify(tmp_path / "refused", latents)
    tested = {}
    for policy in ("leave_out", "train_only", "waive"):
        metrics = classify(tmp_path / policy, latents, seen=policy)
        predictions = pd.read_csv(tmp_path / policy / "predictions.tsv", sep="\t")
        tested[policy] = set(predictions["subject"])
        assert bool(metrics["guard"]["waivers"]) == (policy == "waive")
    assert {"p0003", "p0010"} & tested["leave_out"] == set()
    assert {"p0003", "p0010"} & tested["train_only"] == set()
    assert {"p0003", "p0010"} <= tested["waive"]


def test_people_who_were_harmonised_together_are_no_test(tmp_path: Path) -> None:
    values, table = people()
    table["site"] = np.where(np.arange(NUM) // 2 % 2 == 1, "B", "A")
    latents = write_latents(tmp_path / "l", values, table)
    harmonised = Harmonise(latents=(latents,), out=tmp_path / "h").run()
    with pytest.raises(UserError, match=r"80 of 80 people .* were seen by .*harmonised by site"):
        classify(tmp_path / "refused", harmonised)
    assert classify(tmp_path / "inside", latents, harmonise={"by": "site"})["people"]["num_people"] == NUM


def test_the_same_person_under_two_ids_is_noticed(tmp_path: Path) -> None:
    values, table = people()
    generator = np.random.default_rng(9)
    doubled = np.concatenate([values, values[:1] + 0.2 * generator.standard_normal((1, WIDTH))])
    extra = table.iloc[[0]].assign(subject="other", key="sub-other_ses-1")
    latents = write_latents(tmp_path / "l", doubled, pd.concat([table, extra], ignore_index=True))
    with pytest.raises(UserError, match="other and p0000"):
        classify(tmp_path / "refused", latents)
    classify(tmp_path / "merged", latents, duplicates="merge")
    predictions = pd.read_csv(tmp_path / "merged" / "predictions.tsv", sep="\t").query("model == 'linear'")
    pairs = predictions[predictions["subject"].isin(["other", "p0000"])].groupby("repeat")["fold"].nunique()
    assert (pairs == 1).all()


def test_sessions_follow_their_person(tmp_path: Path) -> None:
    values, table = people()
    later = table.iloc[:20].assign(session="2", key=[f"sub-{s}_ses-2" for s in table["subject"][:20]])
    generator = np.random.default_rng(3)
    both = np.concatenate([values, values[:20] + 0.3 * generator.standard_normal((20, WIDTH))])
    latents = write_latents(tmp_path / "l", both, pd.concat([table, later], ignore_index=True))
    metrics = classify(tmp_path / "all", latents, sessions="all")
    predictions = pd.read_csv(tmp_path / "all" / "predictions.tsv", sep="\t").query("model == 'linear'")
    assert (predictions.groupby(["repeat", "subject"])["fold"].nunique() == 1).all()
    assert (metrics["people"]["num_people"], metrics["people"]["num_scans"]) == (80, 100)
    first = classify(tmp_path / "first", latents)
    assert first["people"]["num_scans"] == 80
    assert "20 later sessions" in " ".join(first["people"]["left_out"])


def test_a_family_is_judged_in_the_space_of_the_member_that_never_saw_the_person(tmp_path: Path) -> None:
    """Each member knows the classes of those it saw by a direction of its own; used on them, it would be perfect."""
    values, table = people(shift=0.0)
    ill = (table["diagnosis"] == "AD").to_numpy()
    member_of = np.arange(NUM) // 2 % 4
    spaces = np.stack([values + 0.0 for _ in range(4)])
    seen = []
    for member in range(4):
        saw = member_of != member
        spaces[member, saw, 5] += 6.0 * ill[saw]
        seen.append({subject_hash(str(s)): "vae (train)" for s in table["subject"][saw]})
    metrics = classify(tmp_path / "h", write_latents(tmp_path / "l", spaces, table, seen=seen))
    row = performance(metrics, "linear")
    assert row["low"] <= 0.5 <= row["high"]
    assert metrics["head_kept"]
    assert metrics["head"].startswith("the 4 linear heads that were tested")
    assert sorted(path.name for path in (tmp_path / "h" / "head").iterdir()) == ["0", "1", "2", "3"]


def test_site_that_tells_the_classes_is_flagged_and_harmonised_away(tmp_path: Path) -> None:
    """AD is not in the latents; the scanner is, and the sites differ in how many are ill."""
    generator = np.random.default_rng(4)
    values, table = people(shift=0.0, num=160)
    ill = (table["diagnosis"] == "AD").to_numpy()
    at_b = generator.random(160) < np.where(ill, 0.85, 0.15)
    table["site"] = np.where(at_b, "B", "A")
    values += 2.0 * at_b[:, None]
    latents = write_latents(tmp_path / "l", values, table)
    plain = classify(tmp_path / "plain", latents)
    assert performance(plain, "linear")["low"] > 0.6
    assert performance(plain, "site")["low"] > 0.6
    assert any("The site alone predicts" in sentence for sentence in plain["summary"])
    clean = classify(tmp_path / "clean", latents, harmonise={"by": "site"})
    assert performance(clean, "linear")["value"] < performance(plain, "linear")["value"] - 0.15


def test_the_site_itself_can_be_the_target(tmp_path: Path) -> None:
    values, table = people(shift=0.0)
    at_b = np.arange(NUM) // 2 % 2 == 1
    table["site"] = np.where(at_b, "B", "A")
    values[:, 5] += 3.0 * at_b
    metrics = classify(tmp_path / "h", write_latents(tmp_path / "l", values, table), target="site", permutations=40)
    assert performance(metrics, "linear")["low"] > 0.8
    assert metrics["tables"]["permutation"][0]["p"] == pytest.approx(1 / 41)
    assert not any("scanner" in sentence for sentence in metrics["summary"])


def test_missing_values_that_predict_the_class_give_a_warning(tmp_path: Path) -> None:
    values, table = people(shift=0.0)
    table.loc[(table["diagnosis"] == "CN") & (np.arange(NUM) < 30), "age_years"] = np.nan
    metrics = classify(tmp_path / "h", write_latents(tmp_path / "l", values, table))
    assert any("age_years is missing in 38 % of CN, 0 % of AD" in sentence for sentence in metrics["summary"])


def test_external_people_are_predicted_by_the_kept_head(planted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, _ = planted
    values, table = people(seed=5)
    table["subject"] = [f"e{i:03d}" for i in range(NUM)]
    table["key"] = [f"sub-{s}_ses-1" for s in table["subject"]]
    others = write_latents(tmp_path / "others", values, table)
    asked = {"fit": root / "head", "external": others}
    metrics = classify(tmp_path / "external", root / "latents", **asked)
    assert [row["name"] for row in metrics["models"]][:2] == ["linear", "svm"]  # as the head was fitted
    assert performance(metrics, "linear")["low"] > 0.75
    assert set(pd.read_csv(tmp_path / "external" / "predictions.tsv", sep="\t")["split"]) == {"external"}
    all_ill = write_latents(tmp_path / "ill", values[1::2], table.iloc[1::2].reset_index(drop=True))
    one_class = classify(tmp_path / "one", root / "latents", **(asked | {"external": all_ill}))
    assert "sensitivity" in one_class["summary"][0]
    assert performance(one_class, "linear", "sensitivity")["value"] > 0.6
    assert performance(one_class, "linear", "auc")["value"] is None
    with pytest.raises(UserError, match=r"80 of 80 people .* were seen by the head to be tested"):
        classify(tmp_path / "overlap", root / "latents", **(asked | {"external": root / "latents"}))
    again = values.copy()
    again[3] = people()[0][10] + 0.1  # somebody the head learned from, under another id
    renamed = write_latents(tmp_path / "renamed", again, table)
    with pytest.raises(UserError, match="e003 and p0010"):
        classify(tmp_path / "same", root / "latents", **(asked | {"external": renamed}))
    other = write_latents(tmp_path / "other_run", values, table, run_key="another")
    with pytest.raises(UserError, match="not in one latent space: the run another is not the run k"):
        classify(tmp_path / "mixed", root / "latents", **(asked | {"external": other}))


def test_age_and_grades(tmp_path: Path) -> None:
    values, table = people(num=120)
    values[:, 0] = (table["age_years"] - 72) / 4 + 0.5 * values[:, 0]
    table["cdr"] = np.digitize(values[:, 1], [-0.3, 0.6]) / 2
    latents = write_latents(tmp_path / "l", values, table)
    age = classify(tmp_path / "age", latents, target="age_years")
    assert performance(age, "linear", "mae")["high"] < performance(age, "mean of the training people", "mae")["low"]
    grades = classify(tmp_path / "cdr", latents, target="cdr", classes=[0, 0.5, 1], task="ordered")
    assert performance(grades, "linear", "kappa")["low"] > 0.3


def test_synthetic_scans_are_learned_from_and_never_tested(tmp_path: Path) -> None:
    values, table = people()
    made, rows = people(seed=8, num=40)
    rows["subject"] = [f"syn{i:05d}" for i in range(40)]
    rows["key"] = [f"sub-{s}_ses-1" for s in rows["subject"]]
    rows["generator"] = "ldm"
    latents = write_latents(tmp_path / "l", values, table)
    synthetic = write_latents(tmp_path / "s", made, rows, seen={subject_hash("p0000"): "generator of s (train)"})
    with pytest.raises(UserError, match=r"p0000.*generator of s"):
        classify(tmp_path / "refused", latents, synthetic=synthetic)
    classify(tmp_path / "h", latents, synthetic=synthetic, seen="leave_out")
    tested = set(pd.read_csv(tmp_path / "h" / "predictions.tsv", sep="\t")["subject"])
    assert not any(subject.startswith("syn") for subject in tested)
    with np.load(tmp_path / "h" / "head" / "training.npz") as kept:
        assert len(kept["codes"]) == 79 + 40
    with pytest.raises(UserError, match="holds scans of people"):
        classify(
            tmp_path / "real", latents, synthetic=write_latents(tmp_path / "r", made, rows.drop(columns="generator"))
        )


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({"diagnosis": "CN"}, {}, "only one class"),
        ({}, {"target": "diagnose"}, "diagnose is not a column"),
        ({}, {"classes": ["CN", "DS"]}, "nobody has diagnosis DS"),
        ({}, {"folds": 60}, "fewer than the 60 folds"),
        ({"values": 1.0}, {}, "identical for everybody"),
        ({"values": np.nan}, {}, "NaN or infinite"),
        ({}, {"split": "sites"}, "needs two sites"),
        ({}, {"only": {"age_years": [10, 20]}}, "keeps nobody"),
        ({}, {"only": {"age_years": [84, 90]}}, "at least 10 are needed"),
        ({}, {"heads": ["residual"]}, "needs spatial latents"),
        ({}, {"voxels": True}, "prepared=FOLDER, or voxels=false"),
        ({}, {"volumes": ["amygdala_ml"]}, "amygdala_ml is not a column"),
    ],
)
def test_bad_input_is_one_sentence(
    change: dict[str, Any], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    values, table = people()
    values = values * 0 + change.pop("values") if "values" in change else values
    latents = write_latents(tmp_path / "l", values, table.assign(**change))
    with pytest.raises(UserError, match=words):
        classify(tmp_path / "h", latents, **settings)


def test_latents_of_two_models_are_not_one_space(tmp_path: Path) -> None:
    values, table = people()
    first = write_latents(tmp_path / "a", values[:40], table.iloc[:40].reset_index(drop=True))
    second = write_latents(tmp_path / "b", values[40:], table.iloc[40:].reset_index(drop=True), run_key="other")
    with pytest.raises(UserError, match="not in one latent space: the run other is not the run k"):
        classify(tmp_path / "h", [first, second])
    same = write_latents(tmp_path / "c", values[40:], table.iloc[40:].reset_index(drop=True))
    assert classify(tmp_path / "whole", [first, same])["people"]["num_people"] == NUM


def test_missing_labels_are_counted_and_left_out(tmp_path: Path) -> None:
    values, table = people()
    table.loc[:4, "diagnosis"] = ""
    table.loc[5:6, "diagnosis"] = "MCI"
    metrics = classify(tmp_path / "h", write_latents(tmp_path / "l", values, table), classes=["CN", "AD"])
    assert metrics["people"]["num_people"] == NUM - 7
    said = " ".join(metrics["people"]["left_out"])
    assert "5 people have no diagnosis" in said
    assert "2 people with another diagnosis (MCI)" in said


def test_a_table_of_labels_is_joined_by_person(tmp_path: Path) -> None:
    values, table = people()
    latents = write_latents(tmp_path / "l", values, table.drop(columns="diagnosis"))
    labels = table[["subject", "diagnosis"]].rename(columns={"diagnosis": "stage"}).sample(frac=1.0, random_state=0)
    labels.to_csv(tmp_path / "labels.csv", index=False)
    metrics = classify(tmp_path / "h", latents, target="stage", table=tmp_path / "labels.csv")
    assert performance(metrics, "linear")["low"] > 0.7
    labels.assign(subject="x" + labels["subject"]).to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(UserError, match="none of its subjects has features"):
        classify(tmp_path / "w", latents, target="stage", table=tmp_path / "wrong.csv")


def test_the_command_line_says_one_sentence_and_leaves_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = write_latents(tmp_path / "l", *people())
    out = tmp_path / "h"
    command = ["classify", f"latents={latents}", "target=diagnosis", "classes=[CN,DS]", f"out={out}", "voxels=false"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "nobody has diagnosis DS; the column holds AD 40, CN 40" in told
    assert "Traceback" not in told
    assert not (out / "metrics.json").exists()
    (latents / "seen.json").unlink()
    reseal(latents)
    assert main([part.replace("DS", "AD") for part in command]) == 2
    assert "seen.json: missing or damaged" in capsys.readouterr().err


def test_a_dry_run_says_who_would_be_predicted_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = write_latents(tmp_path / "l", *people())
    asked = [f"latents={latents}", "target=diagnosis", f"out={tmp_path / 'h'}", "voxels=false", "--dry-run"]
    assert main(["classify", *asked]) == 0
    told = capsys.readouterr()
    assert "predicts diagnosis (AD against CN) of 80 people (CN 40, AD 40) from 24 latents" in told.out + told.err
    assert not (tmp_path / "h").exists()
