"""Visits are in the order of time, a table that contradicts itself is refused, and all visits of a person stay on one side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.heads.inner_folds import inner_folds
from gen3d.classify.study.folds import Layout, make_folds
from gen3d.cohort.manifest import Split, assign_folds, assign_roles, check_split
from gen3d.cohort.seen import SeenBy
from gen3d.cohort.target import make_target
from gen3d.cohort.visits import PAIR_COLUMNS, pairs_of, refuse_backward_diagnoses, stage_of, visits_of
from gen3d.core.errors import UserError
from gen3d.simulate.conditions import Condition
from gen3d.simulate.visit_table import design_visits
from gen3d.train.labelled import LabelledPeople
from gen3d.train.learners import learners

Given = tuple[str, str, float | None]


def table(*rows: Given, **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["subject", "session", "age_years"])
    frame["age_years"] = frame["age_years"].astype(float)
    frame["key"] = [f"{subject}-{session}" for subject, session, _ in rows]
    return frame.assign(**columns)


TWO_PEOPLE = (
    ("a", "M12", 71.5),
    ("b", "1", 60.0),
    ("a", "M00", 70.4),
    ("b", "2", 61.25),
    ("a", "M36", 73.4),
    ("c", "1", 50.0),
)


def test_visits_of_a_person_stand_together_in_the_order_of_time() -> None:
    visits = visits_of(table(*TWO_PEOPLE, site="s"))
    assert visits["key"].tolist() == ["a-M00", "a-M12", "a-M36", "b-1", "b-2"]
    assert visits["visit"].tolist() == [0, 1, 2, 0, 1]
    assert visits["years"].tolist() == pytest.approx([0, 1.1, 3.0, 0, 1.25])
    assert "site" in visits


def test_names_need_no_order_where_ages_have_one() -> None:
    visits = visits_of(table(("a", "red", 71.0), ("a", "blue", 70.0)))
    assert visits["session"].tolist() == ["blue", "red"]


def test_twins_synthetic_and_excluded_scans_are_no_visits() -> None:
    rows = [("a", str(k), 70.0 + k) for k in range(6)]
    frame = table(*rows, base=["", "", "a-0", "", "", ""], generator=["", "", "", "run", "", ""])
    frame["role"] = ["test", "test", "evaluation", "evaluation", "excluded", "test"]
    assert visits_of(frame)["session"].tolist() == ["0", "1", "5"]
    with pytest.raises(UserError, match=r"no person has two visits, so there is no change to learn from"):
        visits_of(frame[frame["session"].isin(["0", "2", "3", "4"])])


REFUSED: dict[str, tuple[tuple[Given, ...], str]] = {
    "nobody twice": ((("a", "1", 70.0), ("b", "1", 71.0)), "no person has two visits"),
    "no age": (
        (("a", "1", 70.0), ("a", "2", None)),
        "a has no age at session 2, so the time between the visits is not known",
    ),
    "the same age": ((("a", "1", 70.0), ("a", "2", 70.0)), r"a has the same age \(70 years\) at the sessions 1 and 2"),
    "ages against sessions": (
        (("a", "M00", 71.0), ("a", "M12", 70.0)),
        r"a was older at session M00 \(71 years\) than at session M12 \(70 years\), although M00 comes first by its name",
    ),
    "no order": (
        (("a", "red", 70.0), ("a", "blue", None)),
        "which of the sessions red, blue of a came first is not known",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_says_no_time_between_visits_is_refused(case: str) -> None:
    rows, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence):
        visits_of(table(*rows))


def test_pairs_are_all_or_those_with_the_first_visit() -> None:
    visits = visits_of(
        table(*TWO_PEOPLE, site=["X", "X", "X", "Y", "X", "X"], diagnosis=["AD", "CN", "MCI", "CN", "AD", "CN"])
    )
    pairs = pairs_of(visits)
    assert tuple(pairs.columns) == PAIR_COLUMNS
    shown = sorted(
        zip(pairs["key_1"], pairs["key_2"], pairs["years"], pairs["same_scanner"], pairs["diagnosis"], strict=True)
    )
    assert shown == [
        ("a-M00", "a-M12", 1.1, True, "MCI"),
        ("a-M00", "a-M36", 3.0, True, "MCI"),
        ("a-M12", "a-M36", 1.9, True, "AD"),
        ("b-1", "b-2", 1.25, False, "CN"),
    ]
    assert pairs_of(visits, every=False)["key_2"].tolist() == ["a-M12", "a-M36", "b-2"]
    assert pairs_of(visits, every=False)["key_1"].tolist() == ["a-M00", "a-M00", "b-1"]
    assert pairs_of(visits_of(table(*TWO_PEOPLE)))["same_scanner"].all(), "where no site is known"


def test_a_diagnosis_that_goes_backwards_is_refused_and_others_are_not() -> None:
    visits = visits_of(table(*TWO_PEOPLE))
    refuse_backward_diagnoses(visits)
    for names in (
        ["CN", "MCI", "Dementia", "MCI", "AD"],
        ["FTD", "CN", "FTD", "depression", "CN"],
        ["MCI", "", "AD", "AD", "AD"],
    ):
        refuse_backward_diagnoses(visits.assign(diagnosis=names))
    with pytest.raises(UserError, match=r"diagnosis of a \(AD, then MCI\) goes backwards .*role excluded"):
        refuse_backward_diagnoses(visits.assign(diagnosis=["MCI", "AD", "MCI", "CN", "CN"]))
    with pytest.raises(UserError, match=r"diagnosis of a \(MCI, then control\) and of 1 others goes backwards"):
        refuse_backward_diagnoses(visits.assign(diagnosis=["MCI", "control", "AD", "Dementia", "CN"]))
    with pytest.raises(UserError, match=r"diagnosis of a \(AD, then CN\) goes"):
        refuse_backward_diagnoses(visits.assign(diagnosis=["AD", "", "CN", "CN", "CN"]))
    assert [stage_of(name) for name in (" CN ", "SMC", "LMCI", "dementia", "DS")] == [0, 1, 2, 3, None]


# ---------------------------------------------------------------------------------------- one side of every split


def simulated(num_people: int = 60) -> pd.DataFrame:
    """People with three visits, of whom half of those with MCI convert."""
    conditions = {"mci": Condition(kind="mci", share=0.4, converting=0.5), "ad": Condition(kind="ad", share=0.2)}
    scans = design_visits(num_people, conditions, ["siteA", "siteB"], (55.0, 85.0), (0, 1, 2), 1.0, 0.5, 1.0, seed=3)
    return assign_roles(scans, Split())


def one_side(frame: pd.DataFrame, sides: np.ndarray) -> bool:
    return bool((pd.Series(sides).groupby(frame["subject"].to_numpy()).nunique() == 1).all())


def test_all_visits_of_a_person_have_one_role_and_one_fold() -> None:
    frame = simulated()
    assert (frame.groupby("subject")["diagnosis"].nunique() > 1).sum() == 12
    assert frame["site"].ne(frame.groupby("subject")["site"].transform("first")).any()
    check_split(frame)
    assert one_side(frame, frame["role"].to_numpy())
    assert one_side(frame, assign_folds(frame, 5, seed=1).to_numpy())
    torn = frame.copy()
    torn.loc[torn["session"] == "2", "role"] = "calibration"
    with pytest.raises(UserError, match="sessions of one person have different roles"):
        check_split(torn)


def test_folds_of_classifiers_hold_whole_people_even_where_their_class_changes() -> None:
    frame = simulated()
    target = make_target(frame["diagnosis"], "diagnosis", ("control", "MCI", "AD"), "categories")
    codes = target.codes(frame["diagnosis"])
    groups = np.unique(frame["subject"], return_inverse=True)[1].astype(np.int64)
    everybody = np.ones(len(frame), bool)
    layout = Layout(codes, groups, everybody, everybody, everybody[None], frame["site"].tolist())
    for fold in make_folds(layout, target, 4, 2, seed=0):
        assert not set(groups[fold.train]) & set(groups[fold.test])
        assert len(fold.train) + len(fold.test) == len(frame)
    assert one_side(frame, inner_folds(codes, groups, target, seed=0))
    first = frame.assign(diagnosis=frame.groupby("subject")["diagnosis"].transform("first"))
    people = LabelledPeople.of(first, target, target.codes(first["diagnosis"]))
    assert one_side(first, people.spread(people.deal(4, np.random.default_rng(0))))


def test_who_was_seen_at_one_visit_was_seen() -> None:
    frame = simulated()
    visit = frame["session"] == "1"
    seen = SeenBy.rows(frame[visit & (frame["role"] == "train")], "train")
    trained = frame["role"] == "train"
    assert (seen.by_any(frame) == trained.to_numpy()).all()
    rows = learners(frame, patients=0.5)
    of_patients = SeenBy.rows(frame.iloc[rows], "train")
    astray = of_patients.by_any(frame) & ~np.isin(np.arange(len(frame)), rows)
    assert astray.any(), "of converters only the visits with one of the diagnoses are learned from"
    assert not of_patients.blind(frame)[:, astray].any()
