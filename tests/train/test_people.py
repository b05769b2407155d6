"""Who a run learns from, and the statistics of exactly those people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import subject_hash
from gen3d.core.errors import UserError
from gen3d.train.learners import choose_people, learners, statistics


def test_one_member_learns_from_train_people_only(prepared: Prepared) -> None:
    people = choose_people(prepared, 1, seed=0)
    assert set(people.frame["role"]) == {"train"}
    assert people.seen().record() == {"0": {subject_hash(f"p{i:02d}"): "train" for i in (0, 1, 5, 6)}}


def test_each_person_is_unseen_by_exactly_one_of_the_members(prepared: Prepared) -> None:
    people = choose_people(prepared, 3, seed=0)
    assert set(people.frame["role"]) == {"train", "calibration"}
    seen = people.seen().record()
    for subject in people.frame["subject"]:
        assert sum(subject_hash(subject) not in seen[str(member)] for member in range(3)) == 1
    never = prepared.select(["test", "evaluation"])["subject"]
    assert not any(subject_hash(subject) in seen[member] for subject in never for member in seen)


def test_patients_are_learned_from_in_folds_where_asked(prepared: Prepared) -> None:
    people = choose_people(prepared, 3, seed=0, patients=1.0)
    assert set(people.frame["role"]) == {"train", "calibration", "evaluation"}
    seen = people.seen().record()
    for subject in people.frame["subject"]:
        assert sum(subject_hash(subject) not in seen[str(member)] for member in range(3)) == 1
    tested = prepared.select(["test"])["subject"]
    assert not any(subject_hash(subject) in seen[member] for subject in tested for member in seen)


def test_planted_twins_and_synthetic_scans_are_never_learned_from() -> None:
    table = pd.DataFrame(
        {
            "subject": list("abcd"),
            "role": ["train", "evaluation", "evaluation", "evaluation"],
            "diagnosis": "AD",
            "base": ["", "", "sub-a", ""],
            "generator": ["", "", "", "ldm"],
        }
    )
    assert learners(table, 1.0).tolist() == [0, 1]


def test_folds_are_seeded(prepared: Prepared) -> None:
    draws = [[rows.tolist() for rows in choose_people(prepared, 3, seed).members] for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert any(draw != draws[0] for draw in draws[2:])


def test_nobody_to_learn_from(prepared: Prepared) -> None:
    empty = Prepared(prepared.folders, prepared.plan, prepared.manifest.assign(role="evaluation"), prepared.key)
    with pytest.raises(UserError, match=r"nobody has the role train \(roles there: evaluation 10\)"):
        choose_people(empty, 1, 0)


def test_statistics_equal_numpy(prepared: Prepared) -> None:
    channels = ("log_jacobian", "t1w")
    keys = [str(key) for key in prepared.manifest["key"][:3]]
    found = statistics(prepared, channels, keys)
    inside = prepared.load(keys, channels)[:, :, prepared.mask]
    assert np.allclose(found.channel_mean, inside.mean((0, 2)), atol=1e-6)
    assert np.allclose(found.channel_std, inside.std((0, 2)), atol=1e-6)


def test_a_constant_channel_is_refused(prepared: Prepared) -> None:
    class Constant(Prepared):
        def load(self, keys, channels):  # type: ignore[no-untyped-def]
            return np.ones((len(keys), len(channels), *self.plan.shape), np.float32)

    constant = Constant(prepared.folders, prepared.plan, prepared.manifest, prepared.key)
    with pytest.raises(UserError, match="the channel t1w has the same value in every voxel"):
        statistics(constant, ("t1w",), ["a"])
