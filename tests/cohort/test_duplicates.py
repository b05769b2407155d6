"""People who are in a cohort under two ids."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort import duplicates
from gen3d.cohort.duplicates import Pair, equal_scans, find_duplicates, groups_of, judge_duplicates
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


@pytest.mark.parametrize(
    ("num", "copies", "noise"), [(40, 15, 0.0), (40, 20, 0.0), (90, 30, 0.5), (40, 40, 0.5), (60, 20, 0.5)]
)
def test_people_twice_are_found_whatever_their_share(num: int, copies: int, noise: float) -> None:
    values, generator = cohort(3, num)
    again = values[:copies] + noise * generator.standard_normal((copies, values.shape[1]))
    names = [f"p{i:02d}" for i in range(num)] + [f"q{i:02d}" for i in range(copies)]
    found = {(pair.first, pair.second) for pair in find_duplicates(np.concatenate([values, again]), names)}
    wanted = {(f"p{i:02d}", f"q{i:02d}") for i in range(copies)}
    assert not found - wanted
    assert len(found) >= copies if noise == 0 else len(found) >= 0.9 * copies


def test_one_person_under_three_ids_is_one_person() -> None:
    values, generator = cohort(4)
    again = values[[7, 7]] + 0.3 * generator.standard_normal((2, values.shape[1]))
    names = [f"p{i}" for i in range(60)] + ["x", "y"]
    groups = groups_of(names, find_duplicates(np.concatenate([values, again]), names))
    assert groups[7] == groups[60] == groups[61]
    assert len(set(groups)) == 60


def test_equal_features_are_found_among_few_people_and_in_few_dimensions() -> None:
    values = np.random.default_rng(5).standard_normal((6, 4))
    values[5], values[3:5] = values[1], 0.0
    assert [(p.first, p.second) for p in find_duplicates(values, list("abcdef"))] == [("b", "f")]
    assert find_duplicates(np.ones((6, 2)), list("abcdef")) == []


def test_equal_scans_are_found_by_their_hashes() -> None:
    table = pd.DataFrame({"subject": list("aabc"), "key": list("1234"), "scan_hash": ["v1", "v2", "v2", "v1"]})
    assert [(pair.first, pair.second) for pair in equal_scans(table)] == [("a", "b"), ("a", "c")]


def test_people_under_two_ids_are_found_among_many_by_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal((300, 3000)) + 2.0 * generator.standard_normal((300, 1))
    values[250] = values[17] + 0.2 * generator.standard_normal(3000)
    names = [f"p{row:03d}" for row in range(300)]
    monkeypatch.setattr(duplicates, "MOST_WHOLE", 100)
    assert [(pair.first, pair.second) for pair in find_duplicates(values, names)] == [("p017", "p250")]
    assert [(pair.first, pair.second) for pair in find_duplicates(values[:, :150], names)] == [("p017", "p250")]
    assert not find_duplicates(np.delete(values, 250, axis=0), names[:299])


def test_ids_of_one_person_have_one_number_however_long_the_chain() -> None:
    names = [f"p{row}" for row in range(6)]
    pairs = [Pair("p4", "p5", 1, 1), Pair("p1", "p4", 1, 1), Pair("p0", "p3", 1, 1)]
    assert groups_of(names, pairs).tolist() == [0, 1, 2, 0, 1, 1]
