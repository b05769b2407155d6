"""Columns of the cohort table as numbers: one coder, whose rules are the differences between its uses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.columns import PENALISED, Rules, fit_columns, read_cells
from gen3d.core.errors import UserError

TABLE = pd.DataFrame(
    {
        "site": ["1", "2", "3", "1", "2", "3"],
        "age_years": [60.0, 70.0, 80.0, np.nan, 70.0, 70.0],
        "scanner": ["A", "B", "A", "", "A", "B"],
        "grade": [1, 2, 1, 2, 1, 2],
        "lobe_ml": [1.0, 10.0, 100.0, 0.0, 10.0, 10.0],
        "head_ml": [2.0, 2.0, 2.0, 2.0, 2.0, np.nan],
        "same": [5.0] * 6,
    }
)


def test_numbers_are_told_from_words() -> None:
    assert read_cells(TABLE, "site").numbers is None, "a text column is words, even where it looks like numbers"
    assert read_cells(TABLE, "scanner").levels == ("A", "B")
    np.testing.assert_array_equal(read_cells(TABLE, "grade").numbers, TABLE["grade"])
    few = read_cells(TABLE, "grade", fewest_numbers=3)
    assert few.numbers is None
    assert few.levels == ("1", "2")
    np.testing.assert_array_equal(read_cells(TABLE, "scanner").known, [1, 1, 1, 0, 1, 1])


def test_numbers_are_standardised_and_words_become_indicators_of_all_but_the_first() -> None:
    code = fit_columns(TABLE, ("age_years", "site", "scanner"), Rules())
    matrix = code.matrix(TABLE)
    assert code.column_names == ["age_years", "site", "site", "scanner"]
    np.testing.assert_allclose(matrix.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(matrix[:, 0], [-np.sqrt(2.5), 0, np.sqrt(2.5), 0, 0, 0])
    np.testing.assert_allclose(matrix[:, 1], np.array([-1, 2, -1, -1, 2, -1]) / np.sqrt(2))
    assert matrix[3, 3] == 0, "a missing word is the mean person's"
    elsewhere = TABLE.assign(site="9", scanner="C")
    assert (code.matrix(elsewhere)[:, 1:] == 0).all(), "so is one that the fit has not seen"
    assert (fit_columns(TABLE, ("same",), Rules()).matrix(TABLE.assign(same=7.0)) == 0).all()
    assert fit_columns(TABLE, (), Rules()).matrix(TABLE).shape == (6, 0)


def test_the_rules_of_a_penalised_fit() -> None:
    code = fit_columns(TABLE, ("site", "scanner", "age_years", "lobe_ml"), PENALISED, head_size="head_ml")
    assert code.column_names == ["site"] * 3 + ["scanner"] + ["age_years"] * 2 + ["lobe_ml"] * 2
    matrix = code.matrix(TABLE)
    ratio = np.log([0.5, 5, 50, 5])
    np.testing.assert_allclose(matrix[[0, 1, 2, 4], 6], (ratio - ratio.mean()) / ratio.std())
    np.testing.assert_array_equal(matrix[[3, 5], 6], 0)  # a volume of 0, and one without a head size, are missing
    np.testing.assert_allclose(matrix[:, 7], np.where([0, 0, 0, 1, 0, 1], np.sqrt(2), -np.sqrt(0.5)))


def test_plain_indicators_and_a_column_for_what_is_missing() -> None:
    rules = Rules(standardise_words=False, flag_missing_above=0.0, flag_missing_words=True)
    matrix = fit_columns(TABLE, ("scanner", "age_years"), rules).matrix(TABLE)
    np.testing.assert_array_equal(matrix[:, 0], [0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(matrix[:, [1, 3]], [[0, 0], [0, 0], [0, 0], [1, 1], [0, 0], [0, 0]])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"age_years": [1.0, 2.0, 3.0, 4.0, 5.0, "old"]}, "adjust=age_years: 1 of 6 people have no value"),
        ({"site": ["1", "2", "", "1", "", "3"]}, "adjust=site: 2 of 6 people have no value"),
        ({"site": ["1", "7", "8", "1", "2", "3"]}, r"site 7 does not occur among the people of the fit \(1, 2, 3\)"),
    ],
)
def test_strict_rules_refuse_what_is_missing_or_new(change: dict[str, list[object]], sentence: str) -> None:
    complete = TABLE.assign(age_years=[60.0, 70.0, 80.0, 65.0, 70.0, 70.0])
    code = fit_columns(complete, ("age_years", "site"), Rules(strict=True), "adjust")
    with pytest.raises(UserError, match=sentence):
        code.matrix(complete.assign(**change))


def test_a_column_that_is_not_there_is_named_with_the_setting_that_names_it() -> None:
    with pytest.raises(UserError, match=r"^keep: the cohort table has no column iq; it has site, age_years"):
        fit_columns(TABLE, ("iq",), Rules(), "keep")


def test_a_column_of_numbers_with_one_word_is_refused_where_it_is_named() -> None:
    cells = [str(years) for years in range(8, 20)]
    table = pd.DataFrame({"education": [*cells, "20+"], "stage": ["1", "2", "3a"] * 4 + ["3b"]})
    with pytest.raises(UserError, match=r"keep=education: 12 cells are numbers, but 1 is not \('20\+'\)"):
        fit_columns(table, ["education"], Rules(), "keep")
    assert fit_columns(table, ["education"], Rules(allow_stray_words=True)).columns[0].levels is not None
    assert fit_columns(table, ["stage"], Rules(), "keep").columns[0].levels == ("1", "2", "3a", "3b")
