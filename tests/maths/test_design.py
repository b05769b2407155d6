"""Covariates to columns: coding, what is dropped and why, and who is flagged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.maths.design import Design


def people(num: int, sites: tuple[str, ...] = ("A", "B")) -> tuple[list[float], list[str], list[str]]:
    rng = np.random.default_rng(num)
    ages = rng.uniform(18, 80, num)
    ages[:2] = 18, 80
    return list(ages), ["FM"[i % 2] for i in range(num)], [sites[(i // 2) % len(sites)] for i in range(num)]


def test_all_terms_and_their_coding() -> None:
    ages, sexes, sites = people(60, ("A", "B", "C"))
    design = Design.fit(ages, sexes, sites)
    assert design.columns == ("intercept", "age", "age2", "sex", "site A", "site B")
    assert design.dropped == {}
    mean = float(np.mean(ages))
    row = design.matrix([mean + 10, mean - 20], ["M", "F"], ["B", "C"])
    np.testing.assert_allclose(row, [[1, 1, 1, 0.5, 0, 1], [1, -2, 4, -0.5, -1, -1]], atol=1e-12)
    assert row.dtype == np.float64


def test_intercept_is_the_mean_over_sites() -> None:
    """Deviation coding: unbalanced sites with means 1, 2 and 6 give an intercept of 3."""
    sites = ["A"] * 20 + ["B"] * 6 + ["C"] * 4
    design = Design.fit([50.0] * 30, ["F"] * 30, sites)
    values = np.array([{"A": 1.0, "B": 2.0, "C": 6.0}[site] for site in sites])
    coefficients = np.linalg.lstsq(design.matrix([50.0] * 30, ["F"] * 30, sites), values)[0]
    np.testing.assert_allclose(coefficients, [3, -2, -1], atol=1e-9)


@pytest.mark.parametrize(
    ("num", "columns"),
    [
        (30, ("intercept", "age", "age2", "sex", "site A")),
        (24, ("intercept", "age", "sex", "site A")),
        (19, ("intercept", "age", "site A")),
        (14, ("intercept", "site A")),
        (8, ("intercept",)),
    ],
)
def test_few_people_drop_age2_then_sex_then_age_then_site(num: int, columns: tuple[str, ...]) -> None:
    design = Design.fit(*people(num))
    assert design.columns == columns
    assert all("people carry" in reason for term, reason in design.dropped.items() if term != "age2")
    assert design.matrix(*people(num)).shape == (num, len(columns))


def test_terms_without_variation_are_dropped_with_the_reason() -> None:
    design = Design.fit([60.0] * 40, ["F"] * 38 + ["M"] * 2, ["A"] * 40)
    assert design.columns == ("intercept",)
    assert "do not vary" in design.dropped["age"]
    assert design.dropped["sex"] == "38 F and 2 M; at least 3 of each are needed"
    assert design.dropped["site"] == "all people are of one site"


def test_a_term_that_says_the_same_as_another_is_dropped() -> None:
    ages, sexes, _ = people(40)
    design = Design.fit(ages, sexes, ["A" if sex == "F" else "B" for sex in sexes])
    assert "linear combination" in design.dropped["sex"]
    assert np.linalg.matrix_rank(design.matrix(ages, sexes, ["A", "B"] * 20)) == len(design.columns)


def test_only_terms_asked_for() -> None:
    design = Design.fit(*people(60), terms=("age",))
    assert design.columns == ("intercept", "age")
    assert design.dropped == {}


def test_small_and_unknown_sites() -> None:
    ages, sexes, sites = people(42)
    sites[40:] = ["tiny", "tiny"]
    design = Design.fit(ages, sexes, sites)
    assert design.sites == ("A", "B")
    assert [design.site_flag(site) for site in ("A", "tiny", "Z")] == [
        "",
        "site tiny has only 2 calibration controls and no term of its own",
        "site Z has no calibration controls",
    ]
    assert design.matrix([40], ["M"], ["Z"])[0, -1] == 0


def test_a_site_of_two_can_be_given_a_term() -> None:
    ages, sexes, sites = people(42)
    sites[40:] = ["tiny", "tiny"]
    design = Design.fit(ages, sexes, sites, min_site=2)
    assert design.sites == ("A", "B", "tiny")
    assert design.site_flag("tiny") == ""


def test_without_a_site_term_every_site_is_doubtful() -> None:
    design = Design.fit(*people(60), terms=("age",))
    assert design.site_flag("A") == "differences between sites are not in the model"


def test_ages_outside_and_missing_values_are_flagged_and_filled() -> None:
    ages, sexes, sites = people(60)
    design = Design.fit(ages, sexes, sites)
    flags = design.flags([93, float("nan"), 18.0, 80.0], ["F", None, "M", ""])
    assert flags[0] == "age 93 outside the calibrated 18 to 80 years"
    assert "age is missing" in flags[1]
    assert "sex is missing" in flags[1]
    assert flags[2] == ""
    assert flags[3] == "sex is missing, the mean was used"
    filled = design.matrix([None], [None], ["A"])[0]
    np.testing.assert_allclose(filled[1:4], [0, 0, design.sex_mean])


def test_json_round_trip_also_with_unknown_ages() -> None:
    for arguments in (people(60), ([None] * 20, [None] * 20, [None] * 20)):
        design = Design.fit(*arguments)
        again = Design.from_dict(json.loads(json.dumps(design.to_dict(), allow_nan=False)))
        np.testing.assert_array_equal(again.matrix([44], ["F"], ["B"]), design.matrix([44], ["F"], ["B"]))
        assert again.to_dict() == design.to_dict()
        assert again.flags([99], ["F"]) == design.flags([99], ["F"])
        assert again.site_flag("Q") == design.site_flag("Q")


def test_wrong_inputs_are_sentences() -> None:
    with pytest.raises(UserError, match="Unknown sex code 'x'"):
        Design.fit([1.0], ["x"], ["A"])
    with pytest.raises(UserError, match="Unknown covariate 'height'"):
        Design.fit([1.0], ["F"], ["A"], terms=("height",))
    with pytest.raises(UserError, match="same number"):
        Design.fit([], [], [])
