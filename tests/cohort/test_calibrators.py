"""How many controls calibrate is known before training, and says what maps can and cannot show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.calibrators import FEWEST_FOR_RANKS, calibration_outlook


def cohort(train: int, calibration: int, site: str = "a", base: int = 0, sexes: str = "FM") -> pd.DataFrame:
    roles = ["train"] * train + ["calibration"] * calibration + ["test"] * 5 + ["evaluation"] * 3
    num = len(roles)
    return pd.DataFrame(
        {
            "subject": [f"{site}{index + base}" for index in range(num)],
            "site": site,
            "sex": [sexes[index % len(sexes)] for index in range(num)],
            "age_years": np.linspace(50, 80, num),
            "role": roles,
        }
    )


def test_one_member_is_calibrated_by_the_calibration_set_alone() -> None:
    outlook = calibration_outlook(cohort(27, 11), cross_fit=1)
    assert outlook.num == 11
    first, *rest = outlook.sentences()
    assert "11 controls will calibrate maps" in first
    assert "1/12" in first
    assert "no single person" in first
    assert "with cross_fit=3 all 38 would" in first
    assert any("left out" in line and "sex" in line for line in rest)  # 11 people carry two columns


def test_a_cross_fitted_run_is_calibrated_by_all() -> None:
    outlook = calibration_outlook(cohort(27, 11), cross_fit=3)
    assert outlook.num == 38
    first, *rest = outlook.sentences()
    assert first == "38 controls will calibrate maps (smallest p of one person by ranks 1/39)"
    assert not any("no single person" in line for line in rest)


@pytest.mark.parametrize(("num", "said"), [(FEWEST_FOR_RANKS - 1, True), (FEWEST_FOR_RANKS, False)])
def test_nineteen_controls_are_what_ranks_need(num: int, said: bool) -> None:
    text = " ".join(calibration_outlook(cohort(20, num), cross_fit=1).sentences())
    assert ("no single person" in text) is said
    assert 1 / (FEWEST_FOR_RANKS + 1) <= 0.05 < 1 / FEWEST_FOR_RANKS


def test_too_few_to_calibrate_at_all_is_said_before_the_training() -> None:
    assert "needs at least 8" in calibration_outlook(cohort(20, 5), cross_fit=1).sentences()[0]


def test_a_site_with_too_few_controls_is_named() -> None:
    both = pd.concat([cohort(20, 20), cohort(1, 1, site="b")], ignore_index=True)
    outlook = calibration_outlook(both, cross_fit=3)
    assert outlook.closed_sites == {"b": 2}
    assert outlook.num == 40
    assert any(line.startswith("site b: 2 calibrating controls, 3 are needed") for line in outlook.sentences())
    assert not any("cross_fit" in line for line in outlook.sentences())  # it is cross-fitted already


def test_a_site_of_patients_alone_is_named() -> None:
    patients = cohort(0, 0, site="c").assign(role="evaluation")
    outlook = calibration_outlook(pd.concat([cohort(20, 20), patients], ignore_index=True), cross_fit=1)
    assert outlook.closed_sites == {"c": 0}


def test_twins_and_second_scans_do_not_count_as_people() -> None:
    people = cohort(20, 10)
    again = people.assign(session="2")
    twins = people.assign(base="scan", role="evaluation")
    outlook = calibration_outlook(pd.concat([people, again, twins], ignore_index=True), cross_fit=1)
    assert outlook.num == 10
