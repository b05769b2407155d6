"""Who is explained, and by whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.manifest import subject_hash
from gen3d.cohort.scores_folder import MAIN, PERMUTED, TWIN, RunScores, ScoredMember
from gen3d.cohort.seen import SeenBy
from gen3d.cohort.target import Target
from gen3d.core.artefact import Artefact
from gen3d.core.errors import UserError
from gen3d.explain.groups import require_controls, retest_rows
from gen3d.explain.people import EVERYBODY, reference_rows, to_explain
from gen3d.explain.question import question_of


def people(num: int = 12, twice: tuple[int, ...] = ()) -> pd.DataFrame:
    rows = []
    for number in range(num):
        label = "AD" if number % 2 else "CN"
        for session in ("1", "2")[: 1 + (number in twice)]:
            rows.append(
                (f"p{number}", session, f"sub-p{number}_ses-{session}", 60.0 + number, label, label, "evaluation")
            )
    columns = ["subject", "session", "key", "age_years", "label", "group", "role"]
    return pd.DataFrame(rows, columns=columns).assign(diagnosis=lambda table: table["label"])


def scores(table: pd.DataFrame, folds: int = 3, target: Target | None = None) -> RunScores:
    """Members 0, 1, ... never saw fold 0, 1, ...; then a twin of member 0, and one with permuted labels that never saw fold 1."""
    fold = np.array([int(name[1:]) % folds for name in table["subject"]])
    seen = [*range(folds), 0, 1]
    members = [ScoredMember(k, MAIN, k) for k in range(folds)]
    members += [ScoredMember(folds, TWIN, 0), ScoredMember(folds + 1, PERMUTED, 1, 0)]
    records = tuple(SeenBy.rows(table[fold != number], "train").members[0] for number in seen)
    artefact = Artefact(Path("run"), "train", "key", {}, {}, {}, "0.1.0", "")
    target = target or Target("diagnosis", "categories", ("CN", "AD"))
    return RunScores(artefact, target, "liu", "", ("t1w",), 0.1, folds, tuple(members), pd.DataFrame(), SeenBy(records))


def test_each_person_is_explained_by_the_one_member_of_their_fold_and_never_by_a_twin() -> None:
    table = people()
    for task in to_explain(table, scores(table), (), 0, 1, 2):
        fold = int(task.subject[1:]) % 3
        assert task.members == (fold,)
        assert task.permuted == ((4,) if fold == 1 else ())


def test_people_are_chosen_by_group_and_those_whom_judges_need_come_first() -> None:
    table = people(24, twice=(7, 10))
    tasks = to_explain(table, scores(table), (), 3, 1, 1)
    first = [task for task in tasks if not task.retest]
    assert [task.group for task in first] == ["CN"] * 3 + ["AD"] * 3
    assert first[0].subject == "p10"
    assert first[3].subject == "p7"
    assert [task.key for task in tasks if task.retest] == ["sub-p10_ses-2", "sub-p7_ses-2"]
    assert [task.judged for task in first] == [True, False, False] * 2
    assert [task.shown for task in first] == [True, False, False] * 2
    others = [task.subject for task in first[1:3]]
    in_fold = [name for name in (f"p{k}" for k in range(0, 24, 2)) if int(name[1:]) % 3 == 1 and name != "p10"]
    assert others == sorted(in_fold, key=subject_hash)[:2]


def test_people_who_are_named_are_shown_and_everybody_else_is_not() -> None:
    table = people()
    tasks = to_explain(table, scores(table), ("p5",), 2, 1, 0)
    assert [task.subject for task in tasks if task.shown] == ["p5"]
    assert len(tasks) == 5
    assert not any(task.judged for task in tasks)


def test_nobody_is_explained_by_a_member_that_saw_them() -> None:
    table = people()
    run = scores(table)
    everyone = SeenBy(tuple(SeenBy.rows(table, "train").members[0] for _ in run.members))
    saw_all = RunScores(**{**run.__dict__, "seen": everyone})
    with pytest.raises(
        UserError, match=r"^run: every member saw all 12 labelled people .* or give people who were not"
    ):
        to_explain(table, saw_all, (), 0, 1, 1)
    part = SeenBy.rows(table[table["subject"] != "p3"], "train").members[0]
    saw_most = RunScores(**{**run.__dict__, "seen": SeenBy(tuple(part for _ in run.members))})
    assert [task.subject for task in to_explain(table, saw_most, (), 0, 1, 1)] == ["p3"]
    with pytest.raises(
        UserError, match=r"^subjects: every member of run saw p4, so none can be explained for this person"
    ):
        to_explain(table, saw_most, ("p4",), 0, 1, 1)


def test_controls_are_the_first_class_one_scan_each_and_at_least_two() -> None:
    table = people(twice=(0, 1))
    assert reference_rows(table, scores(table))["key"].tolist() == [f"sub-p{k}_ses-1" for k in range(0, 12, 2)]
    number = scores(table, target=Target("age_years", "number"))
    assert len(reference_rows(table.assign(group=EVERYBODY), number)) == 6  # CN is a usual name of controls
    with pytest.raises(UserError, match=r"^cohort: 1 person of the class CN, and the mean of controls needs two"):
        require_controls(1, "CN", "cohort")


def test_what_is_asked_of_categories_grades_and_numbers() -> None:
    assert question_of(Target("diagnosis", "categories", ("CN", "MCI", "AD")), "contrast").weights == (-1.0, 0.0, 1.0)
    assert question_of(Target("diagnosis", "categories", ("CN", "MCI", "AD")), "MCI").weights == (0.0, 1.0, 0.0)
    assert question_of(Target("cdr", "ordered", ("0", "0.5", "1")), "contrast").weights == (0.5, 0.5)
    assert question_of(Target("age_years", "number"), "contrast").weights == (1.0,)
    with pytest.raises(UserError, match=r"^answer=1: cdr is a grade, which has one answer; leave out answer=\.$"):
        question_of(Target("cdr", "ordered", ("0", "1")), "1")


def test_second_scans_are_compared_with_the_first_of_the_same_person() -> None:
    scans = [
        {"scan": [{"key": key, "subject": key[0], "group": "AD", "retest": key.endswith("2"), "age_years": age}]}
        for key, age in (("a1", 70.0), ("a2", 71.5), ("b1", 60.0))
    ]
    profiles = {"a1": [1.0, 2.0, 6.0], "a2": [1.0, 2.0, 6.0], "b1": [6.0, 1.0, 2.0]}
    regions = pd.DataFrame(
        [
            {"key": key, "method": "occlusion", "region": f"r{place}", "enrichment": value}
            for key, values in profiles.items()
            for place, value in enumerate(values)
        ]
    )
    (row,) = retest_rows(scans, regions)
    assert row["icc"] == pytest.approx(1.0)
    assert row["icc_others"] < 0
    assert row["years"] == pytest.approx(1.5)
    assert row["key"] == "a1"
