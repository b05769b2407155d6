"""Conditions of a generative model as numbers: fitted on training people, refused when they differ."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.coding import Categorical, Coding, Numeric
from gen3d.core.errors import UserError

TABLE = pd.DataFrame(
    {
        "age_years": [60.0, 70.0, 80.0, np.nan],
        "sex": ["F", "M", "F", ""],
        "apoe": ["e3", "e4", "e3", "e2"],
        "score": ["1", "2", "n/a", "4"],
        "site": ["a", "a", "a", "a"],
        "empty": ["", "", "", ""],
    }
)


@pytest.fixture
def coding() -> Coding:
    return Coding.fit(TABLE, ("age_years", "sex", "apoe", "score"))


def test_numbers_are_standardised_and_categories_counted(coding: Coding) -> None:
    assert coding.covariates[0] == Numeric("age_years", 70.0, pytest.approx(np.std([60, 70, 80])), 60.0, 80.0)
    assert coding.covariates[1:3] == (Categorical("sex", ("F", "M")), Categorical("apoe", ("e2", "e3", "e4")))
    assert isinstance(coding.covariates[3], Numeric)
    coded = coding.encode(TABLE)
    assert coded.dtype == np.float32
    np.testing.assert_allclose(coded[:3, 0], np.array([-1, 0, 1]) * 10 / np.std([60, 70, 80]), rtol=1e-6)
    np.testing.assert_array_equal(coded[:, 1], [0, 1, 0, np.nan])
    np.testing.assert_array_equal(coded[:, 2], [1, 2, 1, 0])
    assert np.isnan(coded[3, 0])
    assert np.isnan(coded[2, 3])


def test_it_survives_a_file(coding: Coding) -> None:
    assert Coding.from_dict(json.loads(json.dumps(coding.to_dict()))) == coding


def test_a_model_without_conditions_codes_nothing() -> None:
    assert Coding().encode(TABLE).shape == (4, 0)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("age_years", 90, r"age_years=90 is outside the range 60 to 80 .* extrapolate=true"),
        ("age_years", "old", "age_years=old: a number is needed"),
        ("age_years", float("inf"), "age_years=inf: not a finite number"),
        ("sex", "X", "sex=X: the model knows F, M"),
        ("apoe", "E3", "did you mean e3"),
        ("agee", 70, "condition agee: the model is conditioned on .* Did you mean age_years"),
    ],
)
def test_what_the_model_never_saw_is_refused(coding: Coding, name: str, value: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        coding.check(name, value)


def test_known_values_unknown_and_extrapolation_on_purpose_pass(coding: Coding) -> None:
    for name, value in (("age_years", 60), ("age_years", "unknown"), ("sex", "M"), ("apoe", "unknown")):
        coding.check(name, value)
    coding.check("age_years", 90, extrapolate=True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("aeg_years", "no column of the cohort table; did you mean age_years"),
        ("site", "site, which has the one value a"),
        ("empty", "empty, which has no value at all"),
    ],
)
def test_a_column_that_says_nothing_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Coding.fit(TABLE, (name,))


def test_a_code_or_column_that_differs_is_refused(coding: Coding) -> None:
    with pytest.raises(UserError, match="apoe=e9: the model knows"):
        coding.encode(TABLE.assign(apoe="e9"))
    with pytest.raises(UserError, match="no column score, which the model is conditioned on"):
        coding.encode(TABLE.drop(columns="score"))


def test_sites_that_are_numbers_are_no_quantity_and_stray_words_are_told() -> None:
    table = pd.DataFrame(
        {"site": ["1", "2", "3"] * 4, "edu": [*map(str, range(8, 19)), "20+"], "scanner": [2180401.0, 7.0] * 6}
    )
    assert Coding.fit(table, ["site"])["site"] == Categorical("site", ("1", "2", "3"))
    with pytest.raises(UserError, match=r"model.conditions names edu: 11 cells are numbers, but 1 is not"):
        Coding.fit(table, ["edu"])
