"""People who are in a cohort under two ids."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.cohort.duplicates import find_duplicates, groups_of, judge_duplicates
from gen3d.core.errors import UserError


def cohort(seed: int, num: int = 60, dimensions: int = 80) -> tuple[np.ndarray, np.random.Generator]:
    """People whose features share a strong common factor (age), as brains do."""
    generator = np.random.default_rng(seed)
    ages = generator.standard_normal((num, 1))
    return ages * generator.standard_normal(dimensions) + generator.standard_normal((num, dimensions)), generator


def test_the_same_person_under_two_ids_is_found() -> None:
    values, generator = cohort(0)
    again = values[[7, 20]] + 0.5 * generator.standard_normal((2, values.shape[1]))  # a second scan: r about .9
    names = [f"p{i}" for i in range(60)] + ["x", "y"]
    found = find_duplicates(np.concatenate([values, again]), names)
    assert {(pair.first, pair.second) for pair in found} == {("p7", "x"), ("p20", "y")}
    groups = groups_of(names, found)
    assert groups[7] == groups[60]
    assert groups[20] == groups[61]
    assert len(set(groups)) == 60
    with pytest.raises(UserError, match="2 pair"):
        judge_duplicates(found, "refuse")
    assert "kept together" in judge_duplicates(found, "merge")[0]


def test_unrelated_people_are_not_taken_for_one() -> None:
    alarms = [bool(find_duplicates(cohort(seed)[0], [f"p{i}" for i in range(60)])) for seed in range(60)]
    assert np.mean(alarms) <= 0.05


def test_sessions_of_one_person_are_no_duplicates() -> None:
    values, _ = cohort(1)
    names = [f"p{i}" for i in range(60)]
    assert find_duplicates(np.concatenate([values, values[:5]]), names + names[:5]) == []
