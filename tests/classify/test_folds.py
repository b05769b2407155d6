from __future__ import annotations

import numpy as np
import pytest

from gen3d.classify.study.folds import Layout, leave_one_site_out, make_folds, one_site_classes
from gen3d.cohort.target import Target
from gen3d.core.errors import UserError

BINARY = Target("diagnosis", "categories", ("CN", "AD"))


def layout(
    codes: list[float], groups: list[int] | None = None, sites: list[str] | None = None, blind: np.ndarray | None = None
) -> Layout:
    num = len(codes)
    everybody = np.ones(num, dtype=bool)
    people = np.array(groups if groups is not None else range(num), dtype=np.int64)
    return Layout(
        np.array(codes, dtype=float),
        people,
        everybody,
        everybody,
        blind if blind is not None else np.ones((1, num), dtype=bool),
        sites or ["a"] * num,
    )


def test_people_are_never_apart_and_everybody_is_tested_once_per_repeat() -> None:
    groups = [person for person in range(30) for _ in range(1 + person % 3)]
    codes = [float(person % 2) for person in groups]
    here = layout(codes, groups)
    folds = make_folds(here, BINARY, 5, 3, seed=1)
    for repeat in range(3):
        tested = np.concatenate([fold.test for fold in folds if fold.repeat == repeat])
        np.testing.assert_equal(np.sort(tested), np.arange(len(groups)))
    for fold in folds:
        assert not set(here.groups[fold.train]) & set(here.groups[fold.test])
        assert len(fold.train) + len(fold.test) == len(groups)
        tested = [here.codes[here.groups == person][0] for person in set(here.groups[fold.test])]
        assert sorted(tested) == [0.0] * 3 + [1.0] * 3
    assert any(
        (a.test != b.test).any() for a, b in zip(folds[:5], folds[5:10], strict=True) if len(a.test) == len(b.test)
    )


def test_members_of_a_family_test_only_whom_they_never_saw() -> None:
    blind = np.zeros((3, 30), dtype=bool)
    for person in range(24):
        blind[person % 3, person] = True
    blind[:, 24:] = True  # seen by nobody
    folds = make_folds(layout([float(i % 2) for i in range(30)], blind=blind), BINARY, 5, 2, seed=0)
    assert {fold.member for fold in folds} == {0, 1, 2}
    for fold in folds:
        assert fold.number == fold.member
        assert blind[fold.member, fold.test].all()
    assert len(folds) == 6
    once = make_folds(layout([float(i % 2) for i in range(24)], blind=blind[:, :24]), BINARY, 5, 2, seed=0)
    assert len(once) == 3  # nothing is left to deal out anew


def test_train_only_people_are_learned_from_and_never_tested() -> None:
    here = layout([float(i % 2) for i in range(20)])
    testable = np.arange(20) >= 8
    folds = make_folds(
        Layout(here.codes, here.groups, testable, here.usable, here.blind, here.sites), BINARY, 3, 1, seed=0
    )
    np.testing.assert_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(8, 20))
    assert all(set(range(8)) <= set(fold.train) for fold in folds)


def test_sites_are_left_out_whole_with_people_scanned_elsewhere_too() -> None:
    groups, sites = [0, 0, *range(1, 12)], ["a", "b", *"ababababab", "c"]
    here = layout([float(person // 2 % 2) for person in groups], groups, sites)
    folds = leave_one_site_out(here, BINARY)
    assert [sites[fold.test[0]] for fold in folds] == ["a", "b", "c"]
    for fold in folds:
        assert not set(here.groups[fold.train]) & set(here.groups[fold.test])
    with pytest.raises(UserError, match=r"CN exists at a only"):
        leave_one_site_out(layout([0.0] * 6 + [1.0] * 6, sites=["a"] * 6 + ["b"] * 6), BINARY)
    with pytest.raises(UserError, match="needs two sites"):
        leave_one_site_out(layout([0.0, 1.0] * 4), BINARY)


def test_a_number_is_dealt_out_over_its_quantiles() -> None:
    folds = make_folds(layout(list(np.linspace(20, 80, 50))), Target("age_years", "number"), 5, 1, seed=0)
    means = [np.linspace(20, 80, 50)[fold.test].mean() for fold in folds]
    assert np.ptp(means) < 6


def test_too_few_people_are_told() -> None:
    with pytest.raises(UserError, match=r"3 people are AD, fewer than the 5 folds; set folds=3"):
        make_folds(layout([0.0] * 12 + [1.0] * 3), BINARY, 5, 1, 0)
    with pytest.raises(UserError, match="too few for 5 folds"):
        make_folds(layout([1.0, 2.0, 3.0]), Target("age_years", "number"), 5, 1, 0)


def test_a_class_at_one_site_is_noticed() -> None:
    codes = np.array([0, 0, 0, 1, 1.0])
    assert one_site_classes(codes, list("abbbb"), BINARY) == [("AD", "b")]
    assert one_site_classes(codes, list("bbbbb"), BINARY) == []
