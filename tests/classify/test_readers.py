"""Readers of the same people, published readers, likelihood ratios, and the rule of medial temporal atrophy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from gen3d.classify.scores.readers import COLUMNS, published_readers, reader_table
from gen3d.classify.study.mta_rules import CUT_OFFS, MtaRecipe, is_possible
from gen3d.cohort.target import Rows, Target
from gen3d.core.errors import UserError
from gen3d.maths.predictive_value import Counts, even_prevalence, likelihood_ratios, predictive_values
from gen3d.maths.stats import auroc, mcnemar, wilson_interval, wilson_of_share
from tests.classify.test_classify import NUM, classify, people, performance
from tests.latents_folder import cohort_table, write_latents

DIAGNOSIS = Target("diagnosis", "categories", ("CN", "AD"))
ASKED = {"volumes": [], "covariates": ["age_years"], "repeats": 1}


def test_likelihood_ratios_equal_hand_values() -> None:
    """80 of 100 ill and 10 of 100 healthy people positive: LR+ = 8, LR- = 2/9 (Simel et al. 1991)."""
    positive, negative = likelihood_ratios(Counts(80, 20, 90, 10))
    assert (positive.value, negative.value) == (pytest.approx(8.0), pytest.approx(0.2 / 0.9))
    half = 1.959964 * math.sqrt(1 / 80 - 1 / 100 + 1 / 10 - 1 / 100)
    assert (positive.low, positive.high) == (
        pytest.approx(8 * math.exp(-half), rel=1e-5),
        pytest.approx(8 * math.exp(half), rel=1e-5),
    )
    assert even_prevalence(Counts(8000, 2000, 9000, 1000)).value == pytest.approx(1 / 9, abs=0.002)
    assert predictive_values(Counts(8000, 2000, 9000, 1000), 1 / 9)[0].value == pytest.approx(0.5, abs=0.01)
    perfect, _ = likelihood_ratios(Counts(10, 0, 10, 0))
    assert perfect.value == pytest.approx((10.5 / 11) / (0.5 / 11))
    assert math.isnan(likelihood_ratios(Counts(10, 0, 0, 0))[0].value)
    assert math.isnan(even_prevalence(Counts(0, 0, 5, 5)).value)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(3, 12) == pytest.approx(2 * binom.cdf(3, 15, 0.5))
    assert mcnemar(5, 5) == mcnemar(0, 0) == 1.0
    assert mcnemar(2, 9) == mcnemar(9, 2)


@pytest.mark.parametrize(("right", "num"), [(0, 7), (3, 7), (17, 20), (20, 20)])
def test_wilson_of_a_share_is_wilson_of_a_count(right: int, num: int) -> None:
    share, counted = wilson_of_share(right / num, num), wilson_interval(right, num)
    assert (share.low, share.high) == (pytest.approx(counted.low, abs=1e-12), pytest.approx(counted.high, abs=1e-12))


def predictions(num: int = 200, shift: float = 1.5, seed: int = 0) -> pd.DataFrame:
    """One model, one fitted network: log odds of people, half of them ill."""
    generator = np.random.default_rng(seed)
    ill = np.arange(num) % 2 == 1
    chance = 1 / (1 + np.exp(-(shift * ill + generator.standard_normal(num) - shift / 2)))
    subjects = [f"p{index:04d}" for index in range(num)]
    frame = pd.DataFrame({"key": subjects, "subject": subjects, "model": "cnn", "kind": "head", "repeat": 0, "fold": 0})
    frame["split"], frame["y_true"] = "cross-validation", np.where(ill, "AD", "CN")
    frame["p_AD"], frame["p_CN"] = chance, 1 - chance
    return frame.assign(y_pred=np.where(chance >= 0.5, "AD", "CN"))


def readings(frame: pd.DataFrame, readers: dict[str, float], seed: int = 1) -> pd.DataFrame:
    """Ratings of every person by readers of some skill (distance of the classes in SD); a positive rating means AD."""
    generator = np.random.default_rng(seed)
    ill = (frame["y_true"] == "AD").to_numpy()
    rows = []
    for reader, skill in readers.items():
        score = skill * (ill - 0.5) + generator.standard_normal(len(frame))
        rows.append(pd.DataFrame({"subject": frame["subject"], "reader": reader, "score": score, "call": score > 0.0}))
    return pd.concat(rows, ignore_index=True).astype({"call": float})


def test_a_reader_is_compared_on_the_same_people() -> None:
    frame = predictions()
    told = readings(frame, {"A": 0.3, "B": 3.0})
    table = reader_table(frame, DIAGNOSIS, "cnn", told, 500, 0).set_index("reader")
    assert list(table.index) == ["A", "B", ""]
    ill, right = frame["y_true"] == "AD", frame["y_true"] == frame["y_pred"]
    for reader, rows in told.groupby("reader"):
        row = table.loc[reader]
        assert row["auc"] == pytest.approx(auroc(rows["score"], ill))
        assert row["model_auc"] == pytest.approx(auroc(frame["p_AD"], ill))
        assert row["difference"] == pytest.approx(row["model_auc"] - row["auc"])
        called = rows["call"].to_numpy() == 1
        told_right = called == ill.to_numpy()
        alone = int((told_right & ~right).sum()), int((right & ~told_right).sum())
        assert (row["reader_only_right"], row["model_only_right"]) == alone
        assert row["p_mcnemar"] == pytest.approx(mcnemar(*alone))
        assert row["sensitivity"] == pytest.approx(called[ill].mean())
        assert row["specificity"] == pytest.approx(1 - called[~ill].mean())
    assert table.loc["A", "low"] > 0 > table.loc["B", "high"]
    assert table.loc["A", "p_delong"] < 0.05
    both = table.loc[""]
    assert both["auc"] == pytest.approx(table.loc[["A", "B"], "auc"].mean())
    # Two readers who differ by a third of the scale: drawn anew, the mean may be that of either.
    assert both["low"] < table.loc["B", "difference"] + 0.05
    assert both["high"] > table.loc["A", "difference"] - 0.05


def test_a_reader_of_some_people_is_compared_on_these() -> None:
    frame = predictions()
    told = readings(frame, {"A": 1.0}).iloc[:80]
    (row,) = reader_table(frame, DIAGNOSIS, "cnn", told, 200, 0).to_dict("records")
    assert (row["num_people"], row["num_positive"]) == (80, 40)
    assert row["model_auc"] == pytest.approx(auroc(frame["p_AD"][:80], frame["y_true"][:80] == "AD"))
    assert tuple(row) == COLUMNS


def test_equal_readers_differ_from_the_classifier_as_often_as_they_should() -> None:
    """The classifier is as good as the readers: over simulated studies the two-way interval covers 0."""
    covered = 0
    for seed in range(20):
        frame = predictions(120, 1.5, seed=100 + seed)
        told = readings(frame, {"A": 1.5, "B": 1.5, "C": 1.5}, seed=200 + seed)
        mean = reader_table(frame, DIAGNOSIS, "cnn", told, 200, seed).iloc[-1]
        covered += bool(mean["low"] <= 0 <= mean["high"])
    assert covered >= 17


def study(tmp_path: Path, shift: float = 2.0) -> tuple[Path, pd.DataFrame]:
    values, table = people(shift=shift)
    return write_latents(tmp_path / "latents", values, table), table


def write_readers(path: Path, table: pd.DataFrame, scores: Any) -> Path:
    pd.DataFrame({"subject": table["subject"], "reader": "R1", "score": scores}).to_csv(path, index=False)
    return path


def test_a_study_with_readers(tmp_path: Path) -> None:
    latents, table = study(tmp_path)
    ours = write_readers(tmp_path / "readers.csv", table, table["diagnosis"])
    metrics = classify(tmp_path / "h", latents, readers=ours, **ASKED)
    (row,) = metrics["tables"]["readers"]
    assert (row["auc"], row["sensitivity"], row["specificity"]) == (1.0, 1.0, 1.0)
    assert (row["model_only_right"], row["num_people"]) == (0, NUM)
    assert "Reader R1 (80 people): AUC 1.00 against" in " ".join(metrics["summary"])
    assert "published_readers" not in metrics["tables"]
    rated = write_readers(tmp_path / "rated.csv", table, np.where(table["diagnosis"] == "AD", 3, 1))
    asked = ASKED | {"readers": rated}
    (row,) = classify(tmp_path / "rated", latents, **asked)["tables"]["readers"]
    assert (row["auc"], row["p_mcnemar"]) == (1.0, None)  # ratings without a cut-off have no sensitivity
    (row,) = classify(tmp_path / "cut", latents, reader_threshold=2, **asked)["tables"]["readers"]
    assert (row["sensitivity"], row["specificity"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"subject": "x1"}, r"readers read other people \(x1\) than are tested here"),
        ({"score": "maybe"}, "'maybe' is neither a number nor one of the classes CN and AD"),
        ({"reader": None}, "has no column reader"),
    ],
)
def test_a_table_of_readers_that_cannot_be_compared_is_a_sentence(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    latents, table = study(tmp_path)
    rows = pd.DataFrame({"subject": table["subject"].head(1), "reader": "R1", "score": "1"}).assign(**change)
    path = tmp_path / "readers.csv"
    rows.dropna(axis=1).to_csv(path, index=False)
    with pytest.raises(UserError, match=sentence):
        classify(tmp_path / "h", latents, readers=path, **ASKED)


def test_readers_who_cannot_be_paired_are_refused(tmp_path: Path) -> None:
    latents, table = study(tmp_path)
    twice = pd.concat([table.head(2), table.head(1)])
    path = write_readers(tmp_path / "twice.csv", twice, 1)
    with pytest.raises(UserError, match="R1 read p0000 twice"):
        classify(tmp_path / "h", latents, readers=path, **ASKED)
    path = write_readers(tmp_path / "fine.csv", table, 1)
    with pytest.raises(UserError, match="two classes"):
        classify(tmp_path / "n", latents, readers=path, **ASKED | {"target": "hippocampus_ml", "task": "number"})


def test_published_readers_are_shown_for_their_question_alone_and_as_no_test(tmp_path: Path) -> None:
    assert len(published_readers(DIAGNOSIS)) == 6
    assert not len(published_readers(Target("sex", "categories", ("F", "M"))))
    assert not len(published_readers(Target("diagnosis", "categories", ("CN", "MCI", "AD"))))
    latents, _ = study(tmp_path)
    metrics = classify(tmp_path / "h", latents, **ASKED)
    assert "nothing is tested against them" in " ".join(metrics["summary"])
    first = metrics["tables"]["published_readers"][0]
    assert "median 89 %" in first["result"]
    assert first["population"]


def test_cut_offs_of_atrophy_follow_age() -> None:
    ages = np.array([44.0, 45.0, 64.9, 65.0, 75.0, 85.0, 94.9, 95.0, np.nan])
    expected = [np.nan, 1.5, 1.5, 1.5, 2.0, 2.5, 2.5, np.nan, np.nan]
    np.testing.assert_array_equal(CUT_OFFS["ferreira_2015"].of(ages), expected)
    np.testing.assert_array_equal(CUT_OFFS["memory_clinic_2021"].of(np.array([74.0, 75.0])), [1.0, 1.5])


def rated(num: int = 80) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    ill = np.arange(num) % 2 == 1
    table = cohort_table(num, diagnosis=np.where(ill, "AD", "CN"), age_years=generator.uniform(60, 85, num))
    table["mta"] = np.clip(np.round(2 * (1.2 + 1.0 * ill + 0.7 * generator.standard_normal(num))) / 2, 0, 4)
    return table


def test_the_answer_of_the_rule_is_the_published_one_and_not_learned() -> None:
    table = rated()
    codes, groups = (table["diagnosis"] == "AD").to_numpy(dtype=float), np.arange(len(table))
    recipe, rows = MtaRecipe("ferreira_2015"), Rows(np.empty((len(table), 0)), table)
    values = recipe.reduce(rows).apply(rows)
    learned = recipe.learn(values, codes, groups, DIAGNOSIS, 0)
    called = learned.outputs(values)[:, 1] >= learned.threshold
    by_hand = table["mta"].to_numpy() >= np.where(table["age_years"] < 75, 1.5, 2.0)
    np.testing.assert_array_equal(called, by_hand)
    assert is_possible(table, codes, DIAGNOSIS, "ferreira_2015")
    assert not is_possible(table.assign(mta=np.nan), codes, DIAGNOSIS, "ferreira_2015")
    with pytest.raises(UserError, match="holds 7, but the rating goes from 0 to 4"):
        recipe.reduce(rows).apply(Rows(rows.values, table.assign(mta=7)))


def test_the_rule_is_a_baseline_of_those_who_were_rated(tmp_path: Path) -> None:
    table = rated()
    values = np.random.default_rng(1).standard_normal((len(table), 6))
    unrated = [0, 1, 2]
    table.loc[unrated, "mta"] = np.nan
    latents = write_latents(tmp_path / "latents", values, table)
    metrics = classify(tmp_path / "h", latents, **ASKED)
    assert performance(metrics, "mta rule")["num_people"] == len(table) - len(unrated)
    assert performance(metrics, "mta rule")["value"] > 0.7
    predicted = pd.read_csv(tmp_path / "h" / "predictions.tsv", sep="\t").query("model == 'mta rule'")
    assert predicted["y_pred"].isna().sum() == predicted["y_score"].isna().sum() == len(unrated)
    known = predicted.dropna(subset=["y_score"]).merge(table[["key", "mta"]], on="key")
    by_hand = np.where(known["mta"] >= np.where(known["age_years"] < 75, 1.5, 2.0), "AD", "CN")
    assert (known["y_pred"] == by_hand).all()
    chosen = table.assign(grade=np.minimum(table["mta"].round(), 3))
    graded = write_latents(tmp_path / "graded", np.c_[values, chosen["grade"].fillna(0) * 3], chosen)
    asked = ASKED | {"target": "grade", "task": "ordered", "bootstrap": 100}
    ordered = classify(tmp_path / "ordered", graded, **asked)
    assert performance(ordered, "linear", "kappa")["value"] > 0.7
    assert json.loads((tmp_path / "ordered" / "metrics.json").read_text())["target"]["task"] == "ordered"


def test_readers_of_external_people_are_those_of_the_tested(tmp_path: Path) -> None:
    latents, table = study(tmp_path)
    classify(tmp_path / "h", latents, **ASKED)
    values, others = people(seed=7)
    others["subject"] = [f"e{index:03d}" for index in range(NUM)]
    others["key"] = [f"sub-{subject}_ses-1" for subject in others["subject"]]
    external = write_latents(tmp_path / "others", values, others)
    asked = ASKED | {"fit": tmp_path / "h", "external": external}
    theirs = write_readers(tmp_path / "theirs.csv", others, others["diagnosis"])
    (row,) = classify(tmp_path / "e", latents, readers=theirs, **asked)["tables"]["readers"]
    assert (row["num_people"], row["auc"]) == (NUM, 1.0)
    with pytest.raises(UserError, match=r"read other people \(p0000"):
        classify(tmp_path / "r", latents, readers=write_readers(tmp_path / "ours.csv", table, "AD"), **asked)
