"""Who has a label, who is in which fold, and who only watches: by person, over classes, sites and sexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import scan_key
from gen3d.cohort.scores_folder import RunScores, ScoredMember
from gen3d.core.artefact import Artefact
from gen3d.core.errors import UserError
from gen3d.imaging.plan import plan_grid
from gen3d.models.supervised.classifier import ClassifierConfig
from gen3d.train.labelled import Labelled, choose_labelled

CLASSES = {"CN": 40, "MCI": 23, "AD": 12}


def table(sessions: int = 1, **columns: Any) -> pd.DataFrame:
    """75 people of three classes, two sites and both sexes; every third has `sessions` scans."""
    rows = []
    for name, num in CLASSES.items():
        for place in range(num):
            subject = f"{name}{place:02d}"
            for session in range(1, 1 + (sessions if place % 3 == 0 else 1)):
                rows.append(
                    {"subject": subject, "session": str(session), "site": "AB"[place % 2], "sex": "FM"[place // 2 % 2]}
                    | {"age_years": 60.0 + place + session, "diagnosis": name, "role": "evaluation"}
                    | {"key": scan_key(subject, str(session)), "folder": "prepared", "base": "", "generator": ""}
                )
    return pd.DataFrame(rows).assign(**columns)


def choose(
    frame: pd.DataFrame, cross_fit: int = 5, seed: int = 0, given: RunScores | None = None, **settings: Any
) -> Labelled:
    prepared = Prepared((Path("prepared"),), plan_grid(4.0), frame, "key")
    return choose_labelled(prepared, ClassifierConfig(**settings), cross_fit, seed, given)


def people_of(found: Labelled, rows: np.ndarray) -> set[str]:
    return set(found.frame["subject"].iloc[rows])


def test_folds_share_out_classes_sites_and_sexes_by_person() -> None:
    found = choose(table(sessions=3))
    folds = found.frame.assign(fold=found.folds)
    assert (folds.groupby("subject")["fold"].nunique() == 1).all()
    people = folds.drop_duplicates("subject")
    for column, slack in (("diagnosis", 1), ("site", 3), ("sex", 4)):
        counts = people.groupby([column, "fold"]).size().unstack()
        assert (counts.max(axis=1) - counts.min(axis=1)).max() <= slack, counts
    both = people.groupby(["diagnosis", "site", "fold"]).size().unstack(fill_value=0)
    assert (both.max(axis=1) - both.min(axis=1)).max() <= 2, both


def test_folds_are_the_same_for_the_same_people_in_any_order() -> None:
    frame = table(sessions=2)
    first = choose(frame)
    shuffled = choose(frame.sample(frac=1.0, random_state=3).reset_index(drop=True))
    fold_of = dict(zip(first.frame["key"], first.folds, strict=True))
    assert [fold_of[key] for key in shuffled.frame["key"]] == shuffled.folds.tolist()
    for mine, other in zip(first.shares, shuffled.shares, strict=True):
        assert people_of(first, mine.validation) == people_of(shuffled, other.validation)
    assert choose(frame, seed=1).folds.tolist() != first.folds.tolist()


def test_a_member_never_meets_its_fold_and_watchers_are_never_trained_on() -> None:
    found = choose(table(sessions=2), permuted=2, validation=0.2)
    assert [(share.variant, share.fold, share.permutation) for share in found.shares] == [
        *[("main", fold, None) for fold in range(5)],
        ("permuted", 0, 0),
        ("permuted", 1, 1),
    ]
    tested: list[str] = []
    for share in found.shares:
        parts = [people_of(found, rows) for rows in (share.training, share.validation, share.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 75
        assert set(found.folds[share.test]) == {share.fold}
        for code in range(3):
            training = {s for s in parts[0] | parts[1] if s.startswith(found.target.classes[code])}
            watching = {s for s in parts[1] if s in training}
            assert len(watching) == max(1, round(0.2 * len(training)))
        if share.variant == "main":
            tested += sorted(parts[2])
    assert len(tested) == len(set(tested)) == 75


def test_one_member_learns_from_everybody() -> None:
    found = choose(table(), cross_fit=1, validation=0.0)
    (share,) = found.shares
    assert len(share.training) == 75
    assert not len(share.validation)
    assert not len(share.test)


def test_permuted_labels_keep_the_classes_of_every_site_and_scans_of_a_person_together() -> None:
    found = choose(table(sessions=2), permuted=1)
    labels = found.shares[-1].labels
    frame = found.frame.assign(true=found.codes, label=labels)
    assert (frame.groupby("subject")["label"].nunique() == 1).all()
    people = frame.drop_duplicates("subject")
    for _, site in people.groupby("site"):
        assert sorted(site["true"]) == sorted(site["label"])
    assert (people["true"] != people["label"]).mean() > 0.3


def test_excluded_planted_and_synthetic_scans_are_left_out() -> None:
    frame = table()
    frame.loc[0, "role"], frame.loc[1, "base"], frame.loc[2, "generator"] = "excluded", "sub-x_ses-1", "ldm"
    assert set(choose(frame).frame["subject"]) == set(frame["subject"][3:])


def test_first_sessions_only() -> None:
    found = choose(table(sessions=3), sessions="first")
    assert len(found.frame) == 75
    assert set(found.frame["session"]) == {"1"}


def test_classes_that_are_not_named_are_left_out_and_order_the_codes() -> None:
    found = choose(table(), classes=("AD", "CN"))
    assert found.target.classes == ("AD", "CN")
    assert set(found.frame["diagnosis"]) == {"AD", "CN"}
    assert (found.codes == (found.frame["diagnosis"] == "CN")).all()


def test_numbers_are_dealt_by_quantiles_and_may_change_within_a_person() -> None:
    found = choose(table(sessions=2), target="age_years")
    assert found.target.task == "number"
    means = [found.codes[found.folds == fold].mean() for fold in range(5)]
    assert max(means) - min(means) < 6.0
    assert np.ptp(found.codes) > 30


def test_folds_of_another_run_are_taken() -> None:
    first = choose(table())
    members = tuple(ScoredMember(fold, "main", fold) for fold in range(5))
    scored = first.frame.assign(member=first.folds, part="test")
    nothing: Any = None
    artefact = Artefact(Path("run"), "train", "key", {}, {}, {}, "1", "")
    given = RunScores(artefact, first.target, "liu", "", (), 0.15, 5, members, scored, nothing)
    frame = table().sample(frac=1.0, random_state=1).reset_index(drop=True)
    again = choose(frame, cross_fit=1, seed=9, given=given)
    assert again.num_folds == len(again.shares) == 5
    fold_of = dict(zip(first.frame["subject"], first.folds, strict=True))
    assert [fold_of[subject] for subject in again.frame["subject"]] == again.folds.tolist()


MISTAKES: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {
    "model.target=stage: the cohort table has no such column; it has subject, ": (table(), {"target": "stage"}),
    "nobody has diagnosis FTD; the column holds AD 12, CN 40, MCI 23": (table(), {"classes": ("CN", "FTD")}),
    "diagnosis has only one class": (table(diagnosis="CN"), {}),
    "diagnosis: 12 people are AD, fewer than the 13 folds; set cross_fit=12, or leave the class out": (
        table(),
        {"cross_fit": 13},
    ),
    "diagnosis changes between the sessions of CN00, so these people would be in two classes": (
        table(sessions=2).assign(diagnosis=lambda frame: frame["diagnosis"].where(frame.index != 1, "AD")),
        {},
    ),
    "prepared: no scan of a real person is left to learn from": (table(role="excluded"), {}),
    "model.imbalance=adjusted is for categories, and diagnosis is ordered": (
        table(),
        {"task": "ordered", "classes": ("CN", "MCI", "AD"), "imbalance": "adjusted"},
    ),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_what_cannot_be_learned_is_a_sentence(sentence: str) -> None:
    frame, settings = MISTAKES[sentence]
    with pytest.raises(UserError) as caught:
        choose(frame, **settings)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).count("\n") == 0


def test_a_run_whose_folds_lack_somebody_is_refused() -> None:
    first = choose(table())
    members = tuple(ScoredMember(fold, "main", fold) for fold in range(5))
    scored = first.frame.assign(member=first.folds, part="test")
    nothing: Any = None
    artefact = Artefact(Path("run"), "train", "key", {}, {}, {}, "1", "")
    given = RunScores(artefact, first.target, "liu", "", (), 0.15, 5, members, scored[scored.index > 3], nothing)
    with pytest.raises(UserError, match="4 of 75 people with diagnosis are in no fold of that run"):
        choose(table(), given=given)
