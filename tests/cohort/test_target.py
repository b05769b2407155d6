from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.target import as_label, make_target
from gen3d.core.errors import UserError


def test_classes_keep_their_order_and_others_have_no_code() -> None:
    column = pd.Series(["AD", "CN", "MCI", "", "CN"])
    target = make_target(column, "diagnosis", ["CN", "AD"], None)
    assert (target.task, target.classes, target.is_binary) == ("categories", ("CN", "AD"), True)
    np.testing.assert_equal(target.codes(column), [1, 0, np.nan, np.nan, 0])
    assert target.output_columns == ("p_CN", "p_AD")
    assert target.describe() == "diagnosis (AD against CN)"


def test_without_classes_controls_come_first() -> None:
    assert make_target(pd.Series(["AD", "DS", "control"]), "diagnosis", None, None).classes == ("control", "AD", "DS")
    assert make_target(pd.Series([1.0, 0.5, 0.0, 0.5]), "cdr", None, None).classes == ("0", "0.5", "1")


def test_numbers_and_grades() -> None:
    ages = pd.Series(np.arange(20.0, 40.0))
    assert make_target(ages, "age_years", None, None).task == "number"
    assert make_target(pd.Series([0, 1, 2, 1.0]), "grade", None, "ordered").classes == ("0", "1", "2")
    assert make_target(ages, "age_years", [20, 21], None).classes == ("20", "21")


def test_labels_are_compared_as_people_write_them() -> None:
    assert [as_label(value) for value in (1, 1.0, "1.0", " AD ", None, float("nan"), 0.5)] == [
        "1",
        "1",
        "1",
        "AD",
        "",
        "",
        "0.5",
    ]


@pytest.mark.parametrize(
    ("values", "classes", "task", "words"),
    [
        (["CN", "CN"], None, None, "only one class"),
        (["CN", "AD"], ["CN", "DS"], None, "nobody has diagnosis DS; the column holds AD 1, CN 1"),
        (["CN", "AD"], ["CN", "CN"], None, "names a class twice"),
        (["CN", "AD"], None, "number", "holds words"),
        (["", None], None, None, "empty for everybody"),
        ([3.0, 3.0], None, "number", "is 3 for everybody"),
        ([3.0, 4.0], [3, 4], "number", "takes no classes"),
    ],
)
def test_bad_targets_are_told(values: list[object], classes: list[object] | None, task: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_target(pd.Series(values), "diagnosis", classes, task)  # type: ignore[arg-type]


def test_codes_are_words_and_only_the_form_of_a_number_is_settled() -> None:
    words = ("007", "1e3", "1_000", "2180401", "166030", "12345678901234567", "10.50", "20+", "-0.0")
    assert [as_label(word) for word in words] == [*words[:6], "10.5", "20+", "0"]
    assert [as_label(number) for number in (2180401.0, 2180402, np.float64(166030), 0.1234567)] == [
        "2180401",
        "2180402",
        "166030",
        "0.1234567",
    ]


def test_a_column_of_numbers_with_one_word_in_it_is_told() -> None:
    column = pd.Series([str(years) for years in range(8, 20)] + ["20+"])
    with pytest.raises(UserError, match=r"target=education: 12 cells are numbers, but 1 is not \('20\+'\)"):
        make_target(column, "education", None, None)
    assert make_target(pd.Series(["1", "2", "3a", "3b"]), "stage", None, None).task == "categories"
