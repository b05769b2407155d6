from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.study.features import Features
from gen3d.cohort.manifest import subject_hash
from gen3d.cohort.seen import clear, find_duplicates, groups_of, judge_duplicates
from gen3d.core.errors import UserError


def features(num: int, saw: dict[str, str]) -> Features:
    subjects = [f"p{i}" for i in range(num)]
    table = pd.DataFrame({"subject": subjects, "session": "1", "key": subjects})
    blind = np.array([[subject_hash(subject) not in saw for subject in subjects]])
    return Features(table, np.zeros((1, num, 3)), blind, (3,), (3,), ("k",), "latents", saw)


def test_nobody_seen_is_no_matter() -> None:
    cleared = clear(features(4, {}), "refuse")
    assert cleared.testable.all()
    assert cleared.num_seen == 0


def test_people_whom_the_model_learned_from_are_named() -> None:
    known = features(6, {subject_hash("p1"): "vae (train)", subject_hash("p4"): "vae (train)"})
    with pytest.raises(UserError, match=r"2 of 6 people \(p1, p4\) were seen by .*vae \(train\)"):
        clear(known, "refuse")
    left = clear(known, "leave_out")
    assert list(np.flatnonzero(left.usable)) == list(np.flatnonzero(left.testable)) == [0, 2, 3, 5]
    only = clear(known, "train_only")
    assert only.usable.all()
    assert list(np.flatnonzero(~only.testable)) == [1, 4]
    waived = clear(known, "waive")
    assert waived.testable.all()
    assert "p1, p4" in waived.waivers[0]


def test_people_whom_the_generator_saw_are_no_test_either() -> None:
    with pytest.raises(UserError, match="generator of synthetic"):
        clear(features(5, {}), "refuse", {subject_hash("p2"): "generator of synthetic (train)"})


def test_nobody_left_is_told_whatever_the_policy() -> None:
    everybody = features(3, {subject_hash(f"p{i}"): "vae (train)" for i in range(3)})
    for policy in ("refuse", "leave_out", "train_only"):
        with pytest.raises(UserError, match="nobody is left to test"):
            clear(everybody, policy)  # type: ignore[arg-type]


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
