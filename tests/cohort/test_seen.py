"""Who saw whom, and what a policy does about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.study.features import Features
from gen3d.cohort.manifest import subject_hash
from gen3d.cohort.seen import Guard, SeenBy, SeenPolicy, identities, identity_of
from gen3d.core.errors import UserError

GUARD = Guard("the model", "a test of them would be too good", "ask others", ("leave_out", "train_only", "waive"))
KNOWN = ["", "vae (train)", "", "", "vae (train)", ""]


def people(num: int) -> pd.DataFrame:
    subjects = [f"p{i}" for i in range(num)]
    return pd.DataFrame({"subject": subjects, "session": "1", "key": subjects})


def test_nobody_seen_is_no_matter() -> None:
    cleared = GUARD.clear(people(4), [""] * 4, "refuse")
    assert cleared.testable.all()
    assert cleared.num_seen == 0
    assert cleared.notes == ()


def test_people_who_were_seen_are_named_and_every_policy_is_kept() -> None:
    sentence = (
        r"2 of 6 people \(p1, p4\) were seen by the model \(vae \(train\)\); a test of them would be too good; "
        r"set seen=leave_out .*, set seen=train_only .*, set seen=waive .*, or ask others; if they are other people .*\."
    )
    with pytest.raises(UserError, match=sentence):
        GUARD.clear(people(6), KNOWN, "refuse")
    left = GUARD.clear(people(6), KNOWN, "leave_out")
    assert list(np.flatnonzero(left.usable)) == list(np.flatnonzero(left.testable)) == [0, 2, 3, 5]
    only = GUARD.clear(people(6), KNOWN, "train_only")
    assert only.usable.all()
    assert list(np.flatnonzero(~only.testable)) == [1, 4]
    waived = GUARD.clear(people(6), KNOWN, "waive")
    assert waived.testable.all()
    assert "p1, p4" in waived.waivers[0]
    for cleared in (left, only, waived):
        assert cleared.num_seen == 2


@pytest.mark.parametrize("policy", ["refuse", "leave_out", "train_only"])
def test_nobody_left_is_told_whatever_the_policy(policy: SeenPolicy) -> None:
    with pytest.raises(UserError, match=r"3 of 3 people .*; nobody is left; ask others"):
        GUARD.clear(people(3), ["pca"] * 3, policy)


def test_scans_of_one_person_count_once() -> None:
    table = people(4).assign(subject=["a", "a", "b", "c"])
    with pytest.raises(UserError, match=r"1 of 3 people \(a\)"):
        GUARD.clear(table, ["pca", "pca", "", ""], "refuse")


def test_a_member_judges_whom_it_never_saw() -> None:
    hashes = [identity_of(f"p{i}")[0] for i in range(4)]
    seen = SeenBy(({hashes[0]: "train", hashes[2]: "train"}, {hashes[1]: "train", hashes[2]: "train"}))
    np.testing.assert_array_equal(seen.blind(people(4)), [[0, 1, 0, 1], [1, 0, 0, 1]])
    assert [seen.blind_to(identity_of(f"p{i}")) for i in range(4)] == [[1], [0], [], [0, 1]]
    assert [len(seen.judges(identity_of(f"p{i}"))) for i in range(4)] == [1, 1, 0, 1]
    assert seen.by_any(people(4)).tolist() == [True, True, True, False]
    assert seen.by_all(people(4)).tolist() == [False, False, True, False]
    assert seen.seen_by(people(4)) == ["", "", "train", ""]


def test_somebody_is_recognised_by_any_of_their_hashes() -> None:
    """A scan that came back under another id is seen, once its content counts."""
    seen = SeenBy(({**SeenBy.people(["p0"], "train").members[0], "c" * 16: "train"},))
    assert seen.saw(identity_of("another id", "c" * 16)) == [0]
    assert seen.blind_to(identity_of("another id", "d" * 16)) == [0]


def scanned(**scans: str) -> pd.DataFrame:
    """A row per subject with the hash of its scan."""
    return pd.DataFrame({"subject": list(scans), "session": "1", "key": list(scans), "scan_hash": list(scans.values())})


def test_people_who_come_back_under_other_ids_are_seen_by_their_scans() -> None:
    seen = SeenBy.rows(scanned(p0="v00", p1="v11"), "train")
    assert set(seen.members[0]) == {subject_hash("p0"), subject_hash("p1"), "v00", "v11"}
    assert [len(people) for people in seen.subjects] == [2]
    back = scanned(siteAp0="v00", p1="v77", siteAp2="v22")
    assert seen.seen_by(back) == ["train, the same scan under another id", "train", ""]
    with pytest.raises(UserError, match=r"siteAp0.*the same scan under another id.*named source"):
        GUARD.clear(back, seen.seen_by(back), "refuse")
    with pytest.raises(UserError) as caught:
        GUARD.clear(back.iloc[:1], seen.seen_by(back.iloc[:1]), "refuse")
    assert "other people" not in str(caught.value)


def test_another_person_of_the_same_id_is_noticed() -> None:
    seen = SeenBy.rows(scanned(p0="v00", p1="v11"), "train")
    assert seen.namesakes(scanned(p0="v77", p1="v11", p2="v22")) == ["p0"]
    both = pd.concat([scanned(p0="v00"), scanned(p0="v77")])
    assert seen.namesakes(both) == []
    assert seen.namesakes(scanned(p0="")) == []
    assert SeenBy.people(["p0"], "train").namesakes(scanned(p0="v77")) == []


def test_one_scan_that_was_seen_is_enough_for_all_of_a_persons() -> None:
    seen = SeenBy.rows(scanned(p0="v00"), "train")
    both = pd.concat([scanned(x="v99"), scanned(x="v00"), scanned(y="")]).reset_index(drop=True)
    assert seen.by_any(both).tolist() == [True, True, False]


def test_a_member_that_saw_the_scan_does_not_judge_it_under_another_id() -> None:
    first, second = (SeenBy.rows(scanned(**people), "train").members[0] for people in ({"a": "v0"}, {"b": "v1"}))
    family = SeenBy((first, second))
    assert [family.judges(person) for person in identities(scanned(c="v0", d="v1"))] == [[1], [0]]
    assert len(family.judges(identity_of("e", "v5"))) == 1


def test_ids_as_earlier_versions_made_them_count_in_their_records_only() -> None:
    """They deleted all characters but letters and digits, and put the site in front of ids that collided."""
    table = scanned(A1xfe="v00", B2="v11").assign(source_subject=["sub-A-1", "B2"], site=["x", "si-te"])
    former = SeenBy.people(["A1", "siteB2"], "train")
    assert former.by_any(table).tolist() == [True, True]
    assert former.remark(table, "the run").startswith(
        "the run recorded the ids of its training people but not their scans"
    )
    assert former.remark(table.drop(columns="scan_hash"), "the run") == ""
    now = SeenBy.rows(scanned(A1="v77", siteB2="v88"), "train")
    assert now.by_any(table).tolist() == [False, False]
    assert now.remark(table, "the run") == ""
    assert set(SeenBy.rows(table, "train").members[0]) == {subject_hash("A1xfe"), subject_hash("B2"), "v00", "v11"}


def test_who_was_seen_survives_a_file(tmp_path: Path) -> None:
    seen = SeenBy(({subject_hash("a"): "train"}, {subject_hash("b"): "calibration"}, *({},) * 9))
    path = tmp_path / "seen.json"
    path.write_text(json.dumps(seen.record()))
    assert SeenBy.read(path, "encode again") == seen
    assert seen.of_kind("vae").members[1] == {subject_hash("b"): "vae (calibration)"}
    for damaged in ("{", "[1]", '{"0": 3}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"seen\.json: missing or damaged .*; encode again\."):
            SeenBy.read(path, "encode again")


def test_what_saw_somebody_twice_is_named_twice() -> None:
    both = SeenBy.people(["a"], "vae (train)").joined(SeenBy.people(["a", "b"], "harmonised by site").members[0])
    assert both.seen_by(people(2).assign(subject=["a", "b"])) == [
        "vae (train), harmonised by site",
        "harmonised by site",
    ]
    assert both.joined(both.members[0]) == both


def test_people_whom_a_model_behind_other_inputs_saw_are_seen() -> None:
    table = people(5)
    features = Features(table, np.zeros((1, 5, 3)), np.ones((1, 5), bool), (3,), (3,), ("k",), "latents", {})
    generator = {subject_hash("p2"): "generator of synthetic (train)"}
    assert features.seen_by() == [""] * 5
    assert features.seen_by(generator) == ["", "", "generator of synthetic (train)", "", ""]
