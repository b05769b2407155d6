"""Baselines on the cohort table and on voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVC

from gen3d.classify.heads.learning import Learner
from gen3d.classify.heads.settings import SvmSettings
from gen3d.classify.study import baselines
from gen3d.classify.study.baselines import ChanceNumber, TableRecipe, default_volumes, gram_factor, read_voxels
from gen3d.classify.study.recipes import FeatureRecipe, wide_recipe
from gen3d.classify.study.reducing import Reduction
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.target import Rows, Target
from gen3d.core.errors import UserError
from gen3d.maths.stats import auroc
from tests.cohorts import write_cohort

BINARY = Target("diagnosis", "categories", ("CN", "AD"))


def _cohort(num: int = 120) -> tuple[pd.DataFrame, np.ndarray]:
    generator = np.random.default_rng(0)
    ill = np.arange(num) % 3 == 0
    table = pd.DataFrame(
        {
            "subject": [f"{i}" for i in range(num)],
            "site": generator.choice(["1", "2", "3"], num),
            "age_years": generator.uniform(55, 90, num),
            "sex": generator.choice(["F", "M"], num),
            "brain_ml": generator.uniform(1000, 1500, num),
        }
    )
    table["hippocampus_ml"] = table["brain_ml"] * 0.005 * np.exp(0.1 * generator.standard_normal(num) - 0.25 * ill)
    return table, ill.astype(np.float64)


def _rows(table: pd.DataFrame) -> Rows:
    return Rows(np.empty((len(table), 0)), table)


def _auc(recipe: TableRecipe, table: pd.DataFrame, codes: np.ndarray) -> float:
    train, test = np.arange(len(table)) < 80, np.arange(len(table)) >= 80
    reducer = recipe.reduce(_rows(table[train]))
    learned = recipe.learn(reducer.apply(_rows(table[train])), codes[train], np.flatnonzero(train), BINARY, 0)
    return auroc(learned.outputs(reducer.apply(_rows(table[test])))[:, 1], codes[test] == 1)


def test_a_volume_tells_what_covariates_do_not_and_better_relative_to_the_head() -> None:
    table, codes = _cohort()
    plain = _auc(TableRecipe("hippocampus_ml", ("hippocampus_ml",)), table, codes)
    relative = _auc(TableRecipe("hippocampus_ml", ("hippocampus_ml",), head_size="brain_ml"), table, codes)
    assert relative > 0.9
    assert relative > plain > 0.75
    assert 0.25 < _auc(TableRecipe("covariates", ("age_years", "sex")), table, codes) < 0.75


def test_columns_become_standard_numbers() -> None:
    table, _ = _cohort()
    recipe = TableRecipe("all", ("age_years", "sex", "site", "hippocampus_ml"), head_size="brain_ml")
    found = recipe.reduce(_rows(table)).apply(_rows(table))
    assert found.shape == (120, 1 + 1 + 3 + 1)  # a text column is words, even where they look like numbers
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-9)
    ratio = np.log(table["hippocampus_ml"] / table["brain_ml"])
    np.testing.assert_allclose(found[:, -1], (ratio - ratio.mean()) / ratio.std(ddof=0))
    assert recipe.features_description == "age_years, sex, site, hippocampus_ml divided by brain_ml"


def test_a_missing_value_is_the_mean_and_says_so_where_many_are_missing() -> None:
    table, _ = _cohort()
    for share, columns in ((0.04, 1), (0.3, 2)):
        holes = table.copy()
        holes.loc[: int(120 * share) - 1, "age_years"] = np.nan
        reducer = TableRecipe("age", ("age_years",)).reduce(_rows(holes))
        found = reducer.apply(_rows(holes))
        assert found.shape == (120, columns)
        assert found[0, 0] == 0
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
        assert np.isfinite(reducer.apply(_rows(table))).all()


def test_a_word_not_met_in_training_and_a_column_that_does_not_vary_say_nothing() -> None:
    table, codes = _cohort()
    elsewhere = table.assign(site="9", sex="")
    recipe = TableRecipe("site", ("site", "sex"))
    assert (recipe.reduce(_rows(table)).apply(_rows(elsewhere)) == 0).all()
    constant = TableRecipe("age", ("age_years",))
    for same in (table.assign(age_years=np.nan), table.assign(age_years=70.0)):
        reducer = constant.reduce(_rows(same))
        assert (reducer.apply(_rows(table)) == 0).all()
    learned = constant.learn(reducer.apply(_rows(same)), codes, np.arange(120), BINARY, 0)
    np.testing.assert_allclose(learned.outputs(reducer.apply(_rows(table)))[:, 1], codes.mean(), atol=0.01)
    with pytest.raises(UserError, match="no column etiv"):
        TableRecipe("etiv", ("etiv",)).reduce(_rows(table))


def test_chance_is_the_mean_of_training_people_whatever_their_number_of_scans() -> None:
    recipe, target = ChanceNumber(), Target("age_years", "number")
    table = pd.DataFrame({"subject": list("aaab")})
    values = recipe.reduce(_rows(table)).apply(_rows(table))
    learned = recipe.learn(values, np.array([60.0, 60.0, 60.0, 80.0]), np.array([0, 0, 0, 1]), target, 0)
    assert learned.outputs(np.zeros((2, 0))).tolist() == [[70], [70]]
    assert np.isnan(learned.threshold)
    assert learned.settings == {}


def test_default_volumes_are_a_few_and_only_those_that_are_there() -> None:
    table, _ = _cohort()
    assert default_volumes(table) == ["hippocampus_ml"]
    names = ("lateral_ventricle", "amygdala", "entorhinal", "inferior_lateral_ventricle", "thalamus")
    rich = table.assign(**{f"{name}_ml": table["brain_ml"] for name in names})
    assert default_volumes(rich) == ["hippocampus_ml", "lateral_ventricle_ml", "amygdala_ml", "entorhinal_ml"]
    assert default_volumes(table.assign(hippocampus_ml=np.nan)) == []


def test_inner_products_of_the_factor_are_those_of_the_voxels_however_they_come() -> None:
    voxels = np.random.default_rng(0).standard_normal((12, 500)).astype(np.float32)
    factor = gram_factor((voxels[:, start : start + 130] for start in range(0, 500, 130)), 12)
    assert factor.shape == (12, 12)
    np.testing.assert_allclose(factor @ factor.T, voxels.astype(float) @ voxels.T.astype(float), rtol=1e-9, atol=1e-9)
    voxels[3, 7] = np.nan
    with pytest.raises(UserError, match="1 of 12 prepared scans"):
        gram_factor([voxels], 12)


def test_a_machine_on_the_factor_is_the_machine_on_the_voxels() -> None:
    generator = np.random.default_rng(1)
    codes = np.repeat([0.0, 1.0], [30, 20])
    voxels = 0.5 + generator.standard_normal((50, 900))
    voxels[:, :30] += 0.4 * codes[:, None]
    order = generator.permutation(50)
    train, test = order[:40], order[40:]
    factor = gram_factor([voxels[:, :400], voxels[:, 400:]], 50)
    table = pd.DataFrame({"subject": [str(i) for i in range(50)]})
    recipe = wide_recipe("voxels", "voxels")
    outputs = []
    for values in (factor, voxels):
        rows = Rows(values, table)
        reducer = recipe.reduce(rows.take(train))
        learned = recipe.learn(reducer.apply(rows.take(train)), codes[train], train, BINARY, 0)
        outputs.append(learned.outputs(reducer.apply(rows.take(test))))
    np.testing.assert_allclose(*outputs, atol=1e-6)

    # At one cost, the plane is scikit-learn's on the raw voxels, but for their unit of length and for where its zero lies.
    one = FeatureRecipe("voxels", Reduction(components=None), Learner(SvmSettings(costs=(0.1,))))
    rows = Rows(factor, table)
    reducer = one.reduce(rows.take(train))
    learned = one.learn(reducer.apply(rows.take(train)), codes[train], train, BINARY, 0)
    found = learned.scorer.scores(reducer.apply(rows.take(test)) / learned.scale)[0]
    unit = np.sqrt(voxels[train].var(axis=0).sum())
    centre = voxels[train].mean(axis=0)
    machine = SVC(kernel="linear", C=0.1, class_weight="balanced", tol=1e-8).fit(
        (voxels[train] - centre) / unit, codes[train]
    )
    expected = machine.decision_function((voxels[test] - centre) / unit)
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=1e-5)


def test_voxels_of_many_scans_are_sketched_and_tell_as_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = open_prepared(write_cohort(tmp_path / "cohort", num_controls=40, num_patients=40))
    table = prepared.manifest
    keys, codes = table["key"].tolist(), (table["diagnosis"] == "AD").to_numpy().astype(np.float64)
    train, test = np.arange(80) % 2 == 0, np.arange(80) % 2 == 1
    areas = []
    for most in (80, 79):
        monkeypatch.setattr(baselines, "MOST_WHOLE", most)
        voxels = read_voxels(prepared, keys)[1]
        assert voxels.sketched == (most < 80)
        recipe = wide_recipe(voxels.name, "voxels", "prevalence", voxels.sketched)
        rows = [Rows(voxels.of(table["key"][part]), table[part].reset_index(drop=True)) for part in (train, test)]
        reducer = recipe.reduce(rows[0])
        learned = recipe.learn(reducer.apply(rows[0]), codes[train], np.flatnonzero(train), BINARY, 0)
        areas.append(auroc(learned.outputs(reducer.apply(rows[1]))[:, 1], codes[test] == 1))
    assert min(areas) > 0.75
    assert areas[0] == pytest.approx(areas[1], abs=0.12)
