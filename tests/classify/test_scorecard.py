"""The scorecard of simulated predictions whose truth is known, and what is said about them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, mean_absolute_error, roc_auc_score

from gen3d.classify.scores.scorecard import COLUMNS, ScoreSettings, permutation_row, score
from gen3d.classify.scores.summary import summary
from gen3d.classify.scores.verdict import judge
from gen3d.cohort.target import Target
from gen3d.core import words as spell
from gen3d.core.errors import UserError

BINARY = Target("diagnosis", "categories", ("CN", "AD"))
STAGES = Target("stage", "ordered", ("none", "mild", "severe"))
AGE = Target("age_years", "number")
QUICK = ScoreSettings(bootstrap=300)
HEAD, VOLUME, COVARIATES, MEAN = "logistic", "hippocampus_ml", "covariates", "mean of the training people"

Array = NDArray[Any]


def headline(predictions: pd.DataFrame, target: Target) -> float:
    """The measure that the verdict on the first model is about."""
    verdict = judge(score(predictions, target, QUICK), target, str(predictions["model"].iloc[0]))
    assert verdict.row is not None
    return float(verdict.row["value"])


def frame(num: int, model: str, kind: str, repeat: int, fold: Array, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(123)  # the same people for every model
    return pd.DataFrame(
        {
            "key": [f"sub-{i:03d}" for i in range(num)],
            "subject": [f"sub-{i:03d}" for i in range(num)],
            "session": "",
            "site": rng.choice(["here", "there"], num),
            "age_years": rng.uniform(50, 90, num),
            "sex": rng.choice(["F", "M"], num),
            "model": model,
            "kind": kind,
            "repeat": repeat,
            "fold": fold,
            "split": "cross-validation",
            **columns,
        }
    )


def binary(effects: dict[str, float], num: int = 160, repeats: int = 2, seed: int = 0) -> pd.DataFrame:
    """Well-calibrated models of a binary target whose scores are `effect` SD apart; the first is the head."""
    rng = np.random.default_rng(seed)
    codes = np.arange(num) % 2
    folds = [rng.permutation(np.arange(num) % 5) for _ in range(repeats)]
    parts = []
    for place, (name, effect) in enumerate(effects.items()):
        person = rng.standard_normal(num)
        for repeat in range(repeats):
            chance = expit(effect * (codes * effect + person + 0.1 * rng.standard_normal(num) - effect / 2))
            own = {
                "y_true": np.array(BINARY.classes)[codes],
                "y_score": chance,
                "y_pred": np.array(BINARY.classes)[(chance >= 0.5).astype(int)],
                "threshold": 0.5,
                "p_CN": 1 - chance,
                "p_AD": chance,
            }
            parts.append(frame(num, name, "baseline" if place else "head", repeat, folds[repeat], **own))
    return pd.concat(parts, ignore_index=True)


def stages(num: int = 150, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    codes, fold = np.arange(num) % 3, np.zeros(num, dtype=int)
    parts = []
    for name, effect in ((HEAD, 2.0), (COVARIATES, 0.3)):
        logits = rng.standard_normal((num, 3)) + effect * np.eye(3)[codes]
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        names = np.array(STAGES.classes)
        own = {
            "y_true": names[codes],
            "y_score": chances @ np.arange(3),
            "y_pred": names[chances.argmax(axis=1)],
            "threshold": np.nan,
            **{f"p_{label}": chances[:, code] for code, label in enumerate(STAGES.classes)},
        }
        parts.append(frame(num, name, "head" if name == HEAD else "baseline", 0, fold, **own))
    return pd.concat(parts, ignore_index=True)


def ages(noise: float, num: int = 150) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    truth, fold = rng.uniform(50, 90, num), rng.permutation(np.arange(num) % 5)
    parts = []
    for name in (HEAD, MEAN):
        mean = np.array([truth[fold != index].mean() for index in range(5)])[fold]
        predicted = mean if name == MEAN else truth + noise * rng.standard_normal(num)
        own = {"y_true": truth, "y_score": predicted, "y_pred": predicted, "threshold": np.nan, "predicted": predicted}
        parts.append(frame(num, name, "head" if name == HEAD else "baseline", 0, fold, **own))
    return pd.concat(parts, ignore_index=True)


def value(tables: dict[str, pd.DataFrame], measure: str, model: str = HEAD, class_name: str = "") -> dict[str, Any]:
    table = tables["performance"]
    rows = table[(table["model"] == model) & (table["measure"] == measure) & (table["class"] == class_name)]
    assert len(rows) == 1
    return dict(rows.iloc[0])


@pytest.fixture(scope="module")
def good() -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    predictions = binary({HEAD: 1.6, VOLUME: 1.5, COVARIATES: 0.2})
    return predictions, score(predictions, BINARY, QUICK)


def test_tables_have_the_agreed_columns_and_measures(good: tuple[pd.DataFrame, dict[str, pd.DataFrame]]) -> None:
    tables = good[1]
    assert set(tables) == set(COLUMNS) - {"permutation"}
    for name, table in tables.items():
        assert tuple(table.columns) == COLUMNS[name]
        assert len(table)
    area = value(tables, "auc")
    assert area["low"] < norm.cdf(1.6 / math.sqrt(2 * 1.01)) < area["high"]
    assert (area["num_people"], area["num_positive"]) == (160, 80)
    measured = tables["performance"]
    assert (measured["low"] <= measured["value"]).all()
    assert (measured["value"] <= measured["high"]).all()
    slope = value(tables, "calibration_slope")
    assert slope["low"] < 1 < slope["high"]


def test_values_equal_sklearn_fold_by_fold(good: tuple[pd.DataFrame, dict[str, pd.DataFrame]]) -> None:
    predictions, tables = good
    own = predictions[predictions["model"] == HEAD]
    folds = [group for _, group in own.groupby(["repeat", "fold"])]
    pairs = [(group["y_true"] == "AD").sum() * (group["y_true"] == "CN").sum() for group in folds]
    areas = [roc_auc_score(group["y_true"] == "AD", group["p_AD"]) for group in folds]
    assert value(tables, "auc")["value"] == pytest.approx(np.average(areas, weights=pairs))
    assert headline(own, BINARY) == pytest.approx(np.average(areas, weights=pairs))
    both = [balanced_accuracy_score(group["y_true"], group["y_pred"]) for _, group in own.groupby("repeat")]
    assert value(tables, "balanced_accuracy")["value"] == pytest.approx(np.mean(both))


def test_counts_of_the_confusion_table_are_scans_not_repeats(
    good: tuple[pd.DataFrame, dict[str, pd.DataFrame]],
) -> None:
    confusion = good[1]["confusion"]
    own = confusion[confusion["model"] == HEAD]
    assert own["num"].sum() == pytest.approx(160)
    assert own[own["true"] == "AD"]["num"].sum() == pytest.approx(80)


def test_the_order_of_rows_does_not_matter(good: tuple[pd.DataFrame, dict[str, pd.DataFrame]]) -> None:
    predictions, tables = good
    order = np.random.default_rng(0).permutation(len(predictions))
    shuffled = predictions.iloc[order].sort_values("model", key=lambda names: names != HEAD, kind="stable")
    again = score(shuffled.reset_index(drop=True), BINARY, QUICK)
    keys = ["model", "measure"]
    first, second = (t["performance"].sort_values(keys).reset_index(drop=True) for t in (tables, again))
    pd.testing.assert_frame_equal(first, second)


def test_a_head_as_good_as_one_volume_is_said_to_be_no_better(
    good: tuple[pd.DataFrame, dict[str, pd.DataFrame]],
) -> None:
    verdict = judge(good[1], BINARY, HEAD)
    assert not verdict.doubts
    assert [each.baseline for each in verdict.unbeaten] == [VOLUME]
    assert [each.baseline for each in verdict.beaten] == [COVARIATES]
    assert [each.baseline for each in verdict.compared] == [VOLUME, COVARIATES]
    assert verdict.compared[1].p_delong < 0.01
    sentences = summary(good[1], BINARY, HEAD)
    assert sentences[0].startswith(
        "logistic separates AD from CN in 160 people (80 AD, 80 CN; cross-validation): AUC 0."
    )
    assert "is not better than hippocampus_ml alone (0." in sentences[0]
    assert "but better than 1 other baseline" in sentences[0]
    assert "beats" not in sentences[0]
    assert any(sentence.startswith("Labels were not permuted") for sentence in sentences)
    tests = next(sentence for sentence in sentences if sentence.startswith("logistic against"))
    assert tests.startswith("logistic against hippocampus_ml: DeLong p 0.")
    assert "corrected resampled t p 0." in tests
    differences = good[1]["differences"].set_index("against")
    assert differences.loc[VOLUME, "p_delong"] > 0.05
    assert differences.loc[COVARIATES, ["p_delong", "p_resampled"]].max() < 0.01
    assert differences.loc[COVARIATES, "low"] > 0


def test_beating_needs_every_baseline() -> None:
    tables = score(binary({HEAD: 2.0, VOLUME: 0.3, COVARIATES: 0.2}), BINARY, QUICK)
    assert {each.baseline for each in judge(tables, BINARY, HEAD).beaten} == {VOLUME, COVARIATES}
    assert "it beats both baselines, the closest being" in summary(tables, BINARY, HEAD)[0]
    worse = score(binary({HEAD: 0.8, VOLUME: 2.5}), BINARY, QUICK)
    verdict = judge(worse, BINARY, HEAD)
    assert (len(verdict.worse), verdict.unbeaten, verdict.beaten) == (1, (), ())
    assert "is worse than hippocampus_ml alone" in summary(worse, BINARY, HEAD)[0]
    alone = score(binary({HEAD: 2.0}), BINARY, QUICK)
    assert "compared with no baseline" in summary(alone, BINARY, HEAD)[0]


def test_nothing_to_find_is_called_so() -> None:
    tables = score(binary({HEAD: 0.0, VOLUME: 0.1}, seed=3), BINARY, QUICK)
    verdict = summary(tables, BINARY, HEAD)[0]
    assert verdict.startswith("No evidence that logistic separates AD from CN in 160 people")
    assert "covers chance" in verdict


def test_a_permutation_that_fails_overrules_the_interval(
    good: tuple[pd.DataFrame, dict[str, pd.DataFrame]],
) -> None:
    tables = dict(good[1])
    null = 0.5 + 0.3 * np.sin(np.arange(200))
    tables["permutation"] = pd.DataFrame([permutation_row(value(tables, "auc")["value"] - 0.2, null, HEAD)])
    assert tables["permutation"]["p"].iloc[0] > 0.05
    assert summary(tables, BINARY, HEAD)[0].startswith("No evidence that")
    tables["permutation"] = pd.DataFrame([permutation_row(0.87, 0.5 + 0.1 * np.sin(np.arange(999)), HEAD)])
    sentences = summary(tables, BINARY, HEAD)
    assert "permutation p 0.001" in sentences[0]
    assert any("permuted 999 times" in sentence for sentence in sentences)
    assert not any("not permuted" in sentence for sentence in sentences)


def test_permutation_of_errors_counts_small_values() -> None:
    row = permutation_row(4.0, np.linspace(8, 12, 99), HEAD, "mae")
    assert row["p"] == pytest.approx(0.01)
    assert row["null_mean"] == pytest.approx(10)
    assert tuple(row) == COLUMNS["permutation"]
    assert permutation_row(12.0, np.linspace(8, 12, 99), HEAD, "mae")["p"] == 1.0


@pytest.mark.parametrize(
    ("kept", "measure", "other"), [("AD", "sensitivity", "specificity"), ("CN", "specificity", "sensitivity")]
)
def test_external_people_of_one_class_give_one_rate_only(kept: str, measure: str, other: str) -> None:
    predictions = binary({HEAD: 1.5, VOLUME: 1.0}, repeats=1).assign(split="external", fold=0)
    tables = score(predictions[predictions["y_true"] == kept], BINARY, QUICK)
    assert value(tables, measure)["num_people"] == 80
    table = tables["performance"]
    assert table[table["measure"] != measure]["value"].isna().all()
    for name in ("roc", "predictive_values", "decision", "reliability"):
        assert tables[name].empty
    verdict = summary(tables, BINARY, HEAD, "external")[0]
    assert f"The external people are all {kept}, so only {measure} can be measured" in verdict
    assert f"no {other}, AUC or predictive value" in verdict


def test_external_people_of_both_classes_have_no_resampled_t() -> None:
    predictions = binary({HEAD: 1.5, VOLUME: 1.0}, repeats=1).assign(split="external", fold=0)
    tables = score(predictions, BINARY, QUICK)
    assert tables["differences"]["p_resampled"].isna().all()
    assert tables["differences"]["p_delong"].notna().all()
    sentences = summary(tables, BINARY, HEAD, "external")
    assert "; external)" in sentences[0]
    assert not any("permuted" in sentence for sentence in sentences)


def test_grades() -> None:
    predictions = stages()
    tables = score(predictions, STAGES, QUICK)
    own = predictions[predictions["model"] == HEAD]
    codes = STAGES.codes(own["y_true"])
    chances = own[list(STAGES.output_columns)].to_numpy()
    expected = roc_auc_score(codes, chances, multi_class="ovr", average="macro")
    assert value(tables, "macro_auc")["value"] == pytest.approx(expected)
    assert headline(own, STAGES) == pytest.approx(expected)
    kappa = cohen_kappa_score(codes, STAGES.codes(own["y_pred"]), weights="quadratic")
    assert value(tables, "kappa")["value"] == pytest.approx(kappa)
    mild = value(tables, "auc", class_name="mild")
    assert mild["value"] == pytest.approx(roc_auc_score(codes == 1, chances[:, 1]))
    assert mild["num_positive"] == 50
    error = np.abs(chances @ np.arange(3) - codes).mean()
    assert value(tables, "mean_absolute_grade_error")["value"] == pytest.approx(error)
    assert tables["roc"].empty
    assert tables["differences"]["measure"].tolist() == ["macro_auc"]
    sentences = summary(tables, STAGES, HEAD)
    assert sentences[0].startswith("logistic separates none, mild and severe (stage) in 150 people (50 none, 50 mild")
    assert any("mild" in sentence and "against the rest" in sentence for sentence in sentences)


def test_external_people_without_some_of_the_grades() -> None:
    predictions = stages().assign(split="external")
    two = predictions[predictions["y_true"] != "mild"]
    verdict = summary(score(two, STAGES, QUICK), STAGES, HEAD, "external")[0]
    assert verdict.endswith(
        "(50 none, 0 mild, 50 severe; external): none of the external people is mild, so no macro AUC exists."
    )
    one = predictions[predictions["y_true"] == "severe"]
    tables = score(one, STAGES, QUICK)
    right = (one[one["model"] == HEAD]["y_pred"] == "severe").mean()
    verdict = summary(tables, STAGES, HEAD, "external")[0]
    assert f"all severe, so only the share predicted to be severe can be measured ({spell.figure(right)} [" in verdict


def test_few_people_prove_nothing_without_permutations() -> None:
    tables = score(binary({HEAD: 3.0}, num=16, repeats=1).assign(fold=0), BINARY, QUICK)
    assert value(tables, "auc")["low"] > 0.5
    verdict = summary(tables, BINARY, HEAD)[0]
    assert verdict.startswith("No evidence that logistic separates AD from CN")
    assert "fewer than 10 people of a class" in verdict
    tables["permutation"] = pd.DataFrame([permutation_row(0.97, 0.5 + 0.3 * np.sin(np.arange(999)), HEAD)])
    assert summary(tables, BINARY, HEAD)[0].startswith("logistic separates AD from CN")


def test_numbers_are_judged_against_the_mean_of_the_training_people() -> None:
    predictions = ages(4.0)
    tables = score(predictions, AGE, QUICK)
    own = predictions[predictions["model"] == HEAD]
    assert value(tables, "mae")["value"] == pytest.approx(mean_absolute_error(own["y_true"], own["predicted"]))
    assert tables["differences"]["high"].iloc[0] < 0
    assert math.isnan(tables["differences"]["p_delong"].iloc[0])
    assert math.isnan(value(tables, "pearson", MEAN)["value"])
    assert value(tables, "r2", MEAN)["value"] < 0
    verdict = summary(tables, AGE, HEAD)[0]
    assert verdict.startswith("logistic predicts age_years in 150 people (cross-validation): mean absolute error 3.")
    assert "beats the one baseline that was run, the mean of the training people (" in verdict
    useless = summary(score(ages(40.0), AGE, QUICK), AGE, HEAD)[0]
    assert useless.startswith("No evidence that logistic predicts age_years in")
    assert "worse than the mean of the training people" in useless


def test_models_are_compared_on_the_scans_that_both_predicted() -> None:
    predictions = binary({HEAD: 1.5, VOLUME: 1.5})
    unmeasured = predictions["key"].isin([f"sub-{i:03d}" for i in range(40)]) & (predictions["model"] == VOLUME)
    tables = score(predictions[~unmeasured], BINARY, QUICK)
    shared = score(predictions[~predictions["key"].isin(predictions[unmeasured]["key"])], BINARY, QUICK)
    assert tables["differences"]["num_people"].iloc[0] == 120
    assert tables["differences"]["difference"].iloc[0] == pytest.approx(shared["differences"]["difference"].iloc[0])
    assert tables["differences"]["p_delong"].iloc[0] == pytest.approx(shared["differences"]["p_delong"].iloc[0])
    assert value(tables, "auc")["num_people"] == 160


def test_sessions_of_a_person_are_one_person() -> None:
    once = binary({HEAD: 1.0}, repeats=1)
    twice = pd.concat([once, once.assign(key=once["key"] + "_2", session="2")], ignore_index=True)
    first, second = score(once, BINARY, QUICK), score(twice, BINARY, QUICK)
    for measure in ("auc", "sensitivity", "brier", "calibration_slope"):
        a, b = value(first, measure), value(second, measure)
        assert [b[name] for name in ("value", "low", "high", "num_people")] == pytest.approx(
            [a[name] for name in ("value", "low", "high", "num_people")], abs=1e-6
        )
    pd.testing.assert_frame_equal(first["predictive_values"], second["predictive_values"])


def test_subgroups() -> None:
    predictions = binary({HEAD: 1.5}, repeats=1)
    predictions.loc[predictions["key"].isin([f"sub-{i:03d}" for i in range(6)]), "site"] = "tiny"
    predictions.loc[6, "age_years"] = np.nan
    predictions.loc[7, "age_years"] = 60.0
    groups = score(predictions, BINARY, QUICK)["subgroups"]
    by_age = groups[groups["column"] == "age_years"]
    assert list(dict.fromkeys(by_age["group"])) == ["<60", "60 to <70", "70 to <80", ">=80"]
    areas = groups[groups["measure"] == "auc"].set_index("group")
    tested = predictions[predictions["age_years"].between(60, 70, inclusive="left")]
    assert areas.loc["60 to <70", "num_people"] == len(tested)
    assert areas.loc[["<60", "60 to <70", "70 to <80", ">=80"], "num_people"].sum() == 159
    assert math.isnan(areas.loc["tiny", "value"])
    assert areas.loc["tiny", "num_people"] == 6
    women = predictions[predictions["sex"] == "F"]
    assert areas.loc["F", "value"] == pytest.approx(headline(women, BINARY))
    assert areas.loc["F", "low"] < areas.loc["F", "value"] < areas.loc["F", "high"]


def test_groups_that_nobody_knows_are_left_out_and_numbers_are_names() -> None:
    predictions = binary({HEAD: 1.5}, repeats=1).assign(site=np.nan, sex="", age_years=np.nan)
    tables = score(predictions, BINARY, QUICK)
    assert tables["subgroups"].empty
    assert tuple(tables["subgroups"].columns) == COLUMNS["subgroups"]
    numbered = predictions.assign(site=np.where(np.arange(len(predictions)) < 80, 1.0, 2.0))
    assert set(score(numbered, BINARY, QUICK)["subgroups"]["group"]) == {"1", "2"}


def test_scans_of_unknown_truth_are_left_out() -> None:
    predictions = binary({HEAD: 1.5}, repeats=1)
    predictions.loc[:9, "y_true"] = ""
    assert value(score(predictions, BINARY, QUICK), "auc")["num_people"] == 150
    with pytest.raises(UserError, match="nobody in the predictions has a known diagnosis"):
        score(predictions.assign(y_true=""), BINARY, QUICK)


def test_folds_of_one_class_give_no_area_and_a_sentence() -> None:
    predictions = binary({HEAD: 1.5, VOLUME: 1.0}, repeats=1)
    predictions["fold"] = (predictions["y_true"] == "AD").astype(int)
    tables = score(predictions, BINARY, QUICK)
    assert math.isnan(value(tables, "auc")["value"])
    assert value(tables, "sensitivity")["value"] > 0.5
    verdict = summary(tables, BINARY, HEAD)[0]
    assert verdict.startswith("Unknown whether logistic separates AD from CN")
    assert "no fitted model was tested on people of every class" in verdict


def test_separated_classes_have_an_interval_and_no_slope() -> None:
    predictions = binary({HEAD: 12.0, VOLUME: 12.0}, repeats=1)
    tables = score(predictions, BINARY, QUICK)
    area = value(tables, "auc")
    assert (area["value"], area["high"]) == (1.0, 1.0)
    assert 0.9 < area["low"] < 1
    assert math.isnan(value(tables, "calibration_slope")["value"])
    sentences = summary(tables, BINARY, HEAD)
    assert "is not better than hippocampus_ml alone (1.00; difference 0.00 [0.00, 0.00])" in sentences[0]
    assert any("separated completely" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ScoreSettings(prevalences=(3.0,)), "prevalences=3 is not a share"),
        (ScoreSettings(subgroups=("scanner",)), "subgroups=scanner is no column"),
        (ScoreSettings(age_bands=(70.0, 60.0)), "must rise"),
    ],
)
def test_wrong_settings_give_an_error(settings: ScoreSettings, words: str) -> None:
    with pytest.raises(UserError, match=words):
        score(binary({HEAD: 1.0}, repeats=1), BINARY, settings)


def test_two_splits_are_not_mixed() -> None:
    predictions = binary({HEAD: 1.0}, repeats=1)
    predictions.loc[:10, "split"] = "external"
    with pytest.raises(UserError, match="score them apart"):
        score(predictions, BINARY, QUICK)


def test_a_class_with_fewer_than_five_people_is_not_evaluable_and_the_page_says_so() -> None:
    generator = np.random.default_rng(0)
    grades = np.repeat(["0", "0.5", "1", "2"], [40, 20, 12, 3])
    target = Target("cdr", "ordered", ("0", "0.5", "1", "2"))
    subjects = [f"p{index:03d}" for index in range(len(grades))]
    frame = pd.DataFrame(
        {"key": subjects, "subject": subjects, "model": "linear", "kind": "head", "repeat": 0, "fold": 0}
    )
    outputs = np.eye(4)[target.codes(pd.Series(grades)).astype(int)] + 0.8 * generator.random((len(grades), 4))
    outputs /= outputs.sum(axis=1, keepdims=True)
    frame[list(target.output_columns)] = outputs
    frame["y_true"], frame["y_pred"] = grades, np.array(target.classes)[outputs.argmax(axis=1)]
    frame["split"], frame["sex"], frame["site"], frame["age_years"] = "cross-validation", "F", "A", 70.0
    tables = score(frame, target, ScoreSettings(bootstrap=100, seed=0))
    recalls = tables["performance"].query("measure == 'recall'").set_index("class")
    assert recalls["num_positive"].tolist() == [40, 20, 12, 3]
    assert math.isnan(recalls.loc["2", "value"])
    assert recalls.loc["1", "low"] < recalls.loc["1", "value"] <= recalls.loc["1", "high"]
    sentences = " ".join(summary(tables, target, "linear"))
    assert "2 not evaluable (3 people)" in sentences
    assert "Not evaluable: 2 (3 people), with fewer than 5 tested people" in sentences
    assert "always saying the most frequent class is right for 0.53" in sentences
