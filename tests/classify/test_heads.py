"""Heads against known truth: Bayes' limit, calibration, the null, and what may not enter a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.special import logit, ndtr
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from gen3d.classify.heads.inner_folds import inner_folds
from gen3d.classify.heads.learning import Learner
from gen3d.classify.heads.residual_recipe import ResidualRecipe
from gen3d.classify.heads.settings import (
    BoostingSettings,
    HeadSettings,
    LinearSettings,
    MlpSettings,
    ResidualSettings,
    SvmSettings,
    TableHead,
)
from gen3d.classify.study.recipes import FeatureRecipe, head_recipe, recipe_of
from gen3d.classify.study.reducing import WHITENING, Reduction
from gen3d.cohort.target import Rows, Target
from gen3d.core.errors import UserError
from gen3d.harmonise.recipe import Harmonisation
from gen3d.maths.stats import auroc

BINARY = Target("diagnosis", "categories", ("CN", "AD"))
THREE = Target("diagnosis", "categories", ("CN", "MCI", "AD"))
GRADES = Target("cdr", "ordered", ("0", "0.5", "1"))
AGE = Target("age_years", "number")
HEADS: tuple[TableHead, ...] = (
    LinearSettings(),
    SvmSettings(costs=(0.01, 0.1)),
    BoostingSettings(num_trees=(30, 60)),
    MlpSettings(penalties=(0.1, 0.03)),
)
heads = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.kind)
Values = NDArray[np.float64]


def _people(num: int) -> NDArray[np.int64]:
    return np.arange(num)


def _two_gaussians(
    num: int, seed: int, distance: float = 1.5, share: float = 0.5, width: int = 8
) -> tuple[Values, Values]:
    """Classes `distance` standard deviations apart along one direction, [num, width]."""
    generator = np.random.default_rng(seed)
    codes = (generator.random(num) < share).astype(np.float64)
    direction = np.ones(width) / np.sqrt(width)
    return generator.standard_normal((num, width)) + distance * codes[:, None] * direction, codes


def _rows(values: Any, seed: int = 0, **columns: Any) -> Rows:
    num = len(values)
    generator = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "subject": [f"{i:03d}" for i in range(num)],
            "site": [f"0{i % 2 + 1}" for i in range(num)],
            "age_years": generator.uniform(55, 90, num),
            "sex": generator.choice(["F", "M"], num),
            "diagnosis": "",
        }
        | columns
    )
    return Rows(np.asarray(values), table, (values.shape[1],), (values.shape[1],))


@heads
def test_two_gaussians_are_told_nearly_as_well_as_possible_and_with_honest_probabilities(head: TableHead) -> None:
    values, codes = _two_gaussians(500, 0, share=0.25)
    new, truth = _two_gaussians(8000, 1, share=0.25)
    learned = Learner(head).learn(values, codes, _people(500), BINARY, 0)
    outputs = learned.outputs(new)
    np.testing.assert_allclose(outputs.sum(axis=1), 1)
    possible = ndtr(1.5 / np.sqrt(2))
    assert (
        possible - (0.02 if head.kind in ("linear", "svm") else 0.06)
        < auroc(outputs[:, 1], truth == 1)
        < possible + 0.01
    )
    # Calibrated to the share in training, although the fit balances the classes.
    assert abs(outputs[:, 1].mean() - 0.25) < 0.03
    inputs = logit(outputs[:, 1:].clip(1e-9, 1 - 1e-9))
    slope = LogisticRegression(C=1e6).fit(inputs, truth).coef_[0, 0]
    assert 0.75 < slope < 1.35
    assert learned.threshold == codes.mean()


@heads
def test_where_there_is_nothing_people_held_out_are_told_by_chance(head: TableHead) -> None:
    found = []
    for seed in range(5):
        values, codes = _two_gaussians(100, seed, distance=0)
        new, truth = _two_gaussians(1000, 100 + seed, distance=0)
        outputs = Learner(head).learn(values, codes, _people(100), BINARY, seed).outputs(new)[:, 1]
        found.append(auroc(outputs, truth == 1))
        assert abs(outputs - codes.mean()).max() < 0.35
    # An AUC of 1000 people has a standard error of 0.018.
    assert abs(np.mean(found) - 0.5) < 3.5 * 0.018 / np.sqrt(5)


@heads
def test_three_classes_have_probabilities_that_add_up(head: TableHead) -> None:
    generator = np.random.default_rng(0)
    codes = generator.choice(3, 240, p=[0.5, 0.3, 0.2]).astype(np.float64)
    centres = np.array([[0, 0, 0, 0], [2, 0, 0, 0], [0, 2, 0, 0]])
    values = generator.standard_normal((240, 4)) + centres[codes.astype(int)]
    outputs = Learner(head).learn(values[:160], codes[:160], _people(160), THREE, 0).outputs(values[80:])
    assert outputs.shape == (160, 3)
    np.testing.assert_allclose(outputs.sum(axis=1), 1)
    np.testing.assert_allclose(outputs.mean(axis=0), np.bincount(codes[:160].astype(int)) / 160, atol=0.1)
    assert np.mean(outputs[80:].argmax(axis=1) == codes[160:]) > 0.6


@heads
def test_ordered_grades_are_proper_and_better_than_chance(head: TableHead) -> None:
    generator = np.random.default_rng(1)
    severity = generator.standard_normal(300)
    codes = np.digitize(severity, [0.2, 1.0]).astype(np.float64)
    values = np.column_stack([severity + 0.7 * generator.standard_normal(300), *generator.standard_normal((3, 300))])
    outputs = Learner(head).learn(values[:180], codes[:180], _people(180), GRADES, 0).outputs(values[180:])
    assert (outputs >= 0).all()
    np.testing.assert_allclose(outputs.sum(axis=1), 1)
    grade = outputs @ np.arange(3)
    assert np.corrcoef(grade, codes[180:])[0, 1] > 0.4
    error, chance = (np.mean((guess - codes[180:]) ** 2) for guess in (grade, codes[:180].mean()))
    assert error < 0.85 * chance


@heads
def test_a_number_is_recovered_with_its_slope(head: TableHead) -> None:
    generator = np.random.default_rng(2)
    age = generator.uniform(50, 90, 700)
    values = np.column_stack(
        [(age - 70) / 10 + 0.3 * generator.standard_normal(700), *generator.standard_normal((3, 700))]
    )
    learned = Learner(head).learn(values[:300], age[:300], _people(300), AGE, 0)
    predicted = learned.outputs(values[300:])[:, 0]
    assert np.isnan(learned.threshold)
    assert learned.state()["calibration"] == []
    assert abs(np.mean(predicted - age[300:])) < 1
    assert np.mean(np.abs(predicted - age[300:])) < 3.6  # 3 years of noise: 2.4 years of mean error at best
    assert 0.85 < np.polyfit(predicted, age[300:], 1)[0] < 1.15


@heads
def test_the_same_seed_gives_the_same_head_and_its_state_is_enough_to_fit_it_again(head: TableHead) -> None:
    values, codes = _two_gaussians(80, 3, width=5)
    new, _ = _two_gaussians(50, 4, width=5)
    learner = Learner(head, threshold=0.3)
    first, second = (learner.learn(values, codes, _people(80), BINARY, 7) for _ in range(2))
    again = learner.relearn(values, codes, _people(80), BINARY, 7, first.state())
    np.testing.assert_array_equal(first.outputs(new), second.outputs(new))
    np.testing.assert_array_equal(first.outputs(new), again.outputs(new))
    assert again.threshold == first.threshold == 0.3
    assert again.state() == first.state()


def test_units_of_the_inputs_do_not_matter() -> None:
    values, codes = _two_gaussians(90, 5)
    outputs = [
        Learner(head).learn(size * values + 3 * size, codes, _people(90), BINARY, 0).outputs(size * values + 3 * size)
        for head in (LinearSettings(), SvmSettings())
        for size in (1.0, 1e-4, 1e4)
    ]
    for plain, *scaled in (outputs[:3], outputs[3:]):
        np.testing.assert_allclose(scaled, [plain, plain], atol=1e-4)


def test_order_of_a_separation_is_kept_by_every_pair_of_grades() -> None:
    """Probabilities of exceeding that cross are bounded by their running minimum, so no grade gets less than nothing."""
    generator = np.random.default_rng(6)
    codes = np.repeat([0.0, 1.0, 2.0], 12)
    values = generator.standard_normal((36, 10))
    outputs = Learner(LinearSettings()).learn(values, codes, _people(36), GRADES, 0).outputs(5 * values)
    assert outputs.min() >= 0
    np.testing.assert_allclose(outputs.sum(axis=1), 1)


def test_components_are_those_of_principal_component_analysis_partly_whitened() -> None:
    generator = np.random.default_rng(0)
    for shape in ((40, 120), (120, 40)):
        values = generator.standard_normal(shape) * np.geomspace(3, 0.3, shape[1])
        found = Reduction(components=5).fit(_rows(values)).apply(_rows(values))
        scores = PCA(5, svd_solver="full").fit_transform(values) / np.sqrt(values.var(axis=0).sum())
        expected = scores / scores.std(axis=0) ** WHITENING
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    few = _rows(generator.standard_normal((6, 50)))
    assert Reduction(components=30).fit(few).apply(few).shape == (6, 5)


def test_a_wide_source_in_large_units_does_not_drown_a_narrow_one() -> None:
    generator = np.random.default_rng(1)
    severity = generator.standard_normal(80)
    narrow = severity[:, None] + 0.1 * generator.standard_normal((80, 2))
    wide = 1000 * generator.standard_normal((80, 400))
    rows = Rows(np.hstack([wide, narrow, np.full((80, 3), 7.0)]), _rows(narrow).table, (400, 2, 3), (405,))
    first = Reduction(components=1).fit(rows).apply(rows)[:, 0]
    assert abs(np.corrcoef(first, severity)[0, 1]) > 0.95


def test_scans_are_reduced_one_by_one_and_people_to_be_tested_leave_no_trace() -> None:
    values, codes = _two_gaussians(60, 7, width=20)
    values[::7, 3] = np.nan
    train, test = np.arange(40), np.arange(40, 60)
    reduction = (5, ("age_years", "sex"), Harmonisation())
    recipe = recipe_of(LinearSettings(), *reduction)
    outputs = []
    for change in (0.0, 1e3):
        rows = _rows(values)
        changed = values.copy()
        changed[test] += change
        rows.table.loc[test, "age_years"] += change
        fold = Rows(changed, rows.table, rows.blocks, rows.shape)
        reducer = recipe.reduce(fold.take(train))
        learned = recipe.learn(reducer.apply(fold.take(train)), codes[train], train, BINARY, 0)
        outputs.append(learned.outputs(reducer.apply(fold.take(train))))
        together = reducer.apply(fold.take(test))
        alone = np.vstack([reducer.apply(fold.take(test[i : i + 1])) for i in range(len(test))])
        np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(*outputs)
    assert recipe.features_description == (
        "5 principal components of latents, harmonised by site, without age_years and sex"
    )


def test_a_missing_value_is_the_mean_of_training_people() -> None:
    values = np.random.default_rng(0).standard_normal((30, 4))
    reducer = Reduction(components=None).fit(_rows(values))
    missing = values[:1].copy()
    missing[0, 2] = np.nan
    assert reducer.apply(_rows(missing))[0, 2] == pytest.approx(0, abs=1e-12)
    holes = values.copy()
    holes[3:, 1] = np.nan
    assert np.isfinite(Reduction(components=3).fit(_rows(holes)).apply(_rows(holes))).all()


def test_confounds_are_learned_from_controls_so_that_the_disease_is_not_taken_for_age() -> None:
    generator = np.random.default_rng(3)
    ill = np.arange(200) % 2 == 1
    age = generator.uniform(55, 75, 200) + 15 * ill
    latent = 0.1 * age + 2.0 * ill + 0.1 * generator.standard_normal(200)
    values = np.column_stack([latent, generator.standard_normal(200)])
    diagnosis = np.where(ill, "AD", "CN")
    for known, effect in ((True, 2.0), (False, None)):
        rows = _rows(values, age_years=age, diagnosis=diagnosis if known else "")
        reducer = Reduction(components=None, confounds=("age_years",)).fit(rows)
        assert reducer.cleaning.learned_from == ("controls" if known else "everybody")
        left = reducer.cleaning.apply(rows)[:, 0]
        if effect is not None:
            assert left[ill].mean() - left[~ill].mean() == pytest.approx(effect, abs=0.15)
            assert abs(np.corrcoef(left[~ill], age[~ill])[0, 1]) < 1e-8
        else:  # with everybody, some of the disease goes with age
            assert left[ill].mean() - left[~ill].mean() < 1.7


def test_harmonisation_is_fitted_on_training_people() -> None:
    generator = np.random.default_rng(4)
    values = generator.standard_normal((80, 6))
    values[1::2] += 5
    harmonised, plain = (
        Reduction(3, harmonisation=harmonisation).fit(_rows(values)).apply(_rows(values))
        for harmonisation in (Harmonisation(keep=()), None)
    )
    site = np.arange(80) % 2 == 1
    assert auroc(plain[:, 0], site) in (0.0, 1.0)
    assert 0.3 < auroc(harmonised[:, 0], site) < 0.7


def test_people_are_never_apart_and_every_inner_fold_has_every_class() -> None:
    generator = np.random.default_rng(5)
    groups = np.repeat(np.arange(40), 3)
    codes = np.repeat(generator.permutation(np.repeat([0.0, 1.0, 2.0], [20, 12, 8])), 3)
    folds = inner_folds(codes, groups, THREE, 0)
    assert set(folds) == {0, 1, 2, 3}  # 8 people of the rarest class: 2 in each of 4
    for person in range(40):
        assert len(set(folds[groups == person])) == 1
    for fold in range(4):
        assert {float(code) for code in codes[folds == fold]} == {0.0, 1.0, 2.0}
    ages = generator.uniform(50, 90, 53)
    dealt = inner_folds(ages, np.arange(53), AGE, 0)
    means = [ages[dealt == fold].mean() for fold in range(5)]
    assert np.ptp(means) < 4


@pytest.mark.parametrize(
    ("codes", "target", "sentence"),
    [
        (np.repeat([0.0, 1.0], [20, 3]), BINARY, "3 people have diagnosis AD in a training fold"),
        (np.zeros(20), BINARY, "nobody in a training fold has diagnosis AD"),
        (np.repeat([0.0, 2.0], 10), THREE, "nobody in a training fold has diagnosis MCI"),
        (np.array([60.0, 70.0, 80.0]), AGE, "age_years is known for 3 people"),
        (np.full(20, 70.0), AGE, "age_years is 70 for everybody"),
    ],
)
@heads
def test_too_little_to_learn_from_is_one_sentence(
    head: TableHead, codes: Values, target: Target, sentence: str
) -> None:
    values = np.random.default_rng(0).standard_normal((len(codes), 3))
    with pytest.raises(UserError, match=sentence):
        Learner(head).learn(values, codes, _people(len(codes)), target, 0)


def test_features_that_are_the_same_for_everybody_are_one_sentence() -> None:
    for values in (np.zeros((20, 5)), np.full((20, 5), 0.1), np.full((20, 5), np.nan)):
        with pytest.raises(UserError, match="identical for every training person"):
            Reduction().fit(_rows(values))


def test_a_confound_that_the_table_has_not_is_one_sentence() -> None:
    values = np.random.default_rng(0).standard_normal((20, 5))
    with pytest.raises(UserError, match="no column etiv"):
        Reduction(confounds=("etiv",)).fit(_rows(values))


def test_settings_are_told_apart_by_kind() -> None:
    adapter: TypeAdapter[HeadSettings] = TypeAdapter(HeadSettings)
    assert adapter.validate_python({"kind": "svm", "costs": [1.0]}) == SvmSettings(costs=(1.0,))
    assert isinstance(adapter.validate_python({"kind": "residual"}), ResidualSettings)
    for wrong in ({"kind": "forest"}, {"kind": "linear", "penalties": [0.0]}, {"kind": "linear", "penalties": []}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
    assert isinstance(head_recipe(ResidualSettings(), 30, (), None, "prevalence"), ResidualRecipe)
    assert isinstance(head_recipe(SvmSettings(), 30, (), None, "prevalence"), FeatureRecipe)
