"""Transitions are trained by people: everybody on one side, each as often as the others, and a stage without people is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.seen import identities
from gen3d.core.errors import UserError
from gen3d.models.run import load_expecting, load_run
from gen3d.models.run_folder import weights_path
from gen3d.models.transition.transition import Transition, TransitionConfig
from gen3d.train.batches import Batches
from gen3d.train.material_stages import REPEATS, choose_staged, pair_table
from gen3d.train.train import Train
from tests.sealing import reseal
from tests.stages.staged import STAGES, train_chain, write_staged


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_staged(tmp_path_factory.mktemp("stages") / "cohort", people=(9, 6, 5))


def config(**settings: Any) -> TransitionConfig:
    return TransitionConfig(**{"classes": STAGES, "fewest": 2} | settings)


def test_people_of_a_fold_are_on_one_side_at_all_their_stages(tmp_path: Path) -> None:
    cohort = open_prepared(write_staged(tmp_path / "visits", people=(8, 8, 8), same_people=True))
    for cross_fit in (1, 4):
        staged = choose_staged(cohort, config(), cross_fit, seed=0)
        for fold in range(cross_fit):
            rows = staged.training(fold)
            held_out = np.setdiff1d(np.arange(len(staged.frame)), rows)
            subjects = staged.frame["subject"]
            assert len(held_out) > 0
            assert not set(subjects.iloc[rows]) & set(subjects.iloc[held_out])


def test_every_person_of_a_stage_comes_as_often_as_the_others(cohort: Path) -> None:
    before, after = [[0, 1, 2, 3], [4]], [[5], [6], [7], [8], [9]]
    pairs = pair_table(before, after, 3, (0, 1))
    assert len(pairs) == REPEATS * 3 * 5
    from_before = [sum((pairs[:, 0] == row).sum() for row in rows) for rows in before]
    assert max(from_before) - min(from_before) <= 1  # not 4 to 1, though one has four scans
    assert set(np.bincount(pairs[:, 1])[5:].tolist()) == {12}
    assert set(np.bincount(pairs[:, 2]).tolist()) == {20}
    assert len({(first, second) for first, second, _ in pairs.tolist()}) > 10  # partners change
    assert np.array_equal(pairs, pair_table(before, after, 3, (0, 1)))


def test_a_run_has_a_generator_per_step_and_fold_that_knows_whom_its_chain_saw(cohort: Path, tmp_path: Path) -> None:
    run = load_run(train_chain(tmp_path / "run", cohort, steps=2, cross_fit=3))
    table = open_prepared(cohort).manifest
    assert run.num_members == 6
    blind = run.seen.blind(table)
    assert (blind.sum(axis=0) == 2).all()  # everybody is held out of the two generators of one fold
    for fold in range(3):
        assert np.array_equal(blind[2 * fold], blind[2 * fold + 1])
        for stage in (0.0, 0.5, 1.0):
            assert (blind[2 * fold] & (table["cdr"] == stage).to_numpy()).any()
    first, second = run.member(0), run.member(1)
    assert isinstance(first, Transition)
    assert isinstance(second, Transition)
    assert np.allclose(first.mean_after.numpy(), second.mean_before.numpy())
    assert len(identities(table)) == len(table)


def test_the_means_of_a_run_are_those_of_its_training_people(cohort: Path, tmp_path: Path) -> None:
    run = load_run(train_chain(tmp_path / "run", cohort, steps=2))
    prepared, model = open_prepared(cohort), run.member(0)
    assert isinstance(model, Transition)
    table = prepared.manifest
    trained = ~run.seen.blind(table)[0]
    for stage, mean in ((0.0, model.mean_before), (0.5, model.mean_after)):
        keys = table.loc[trained & (table["cdr"] == stage).to_numpy(), "key"]
        pictures = [model.frame.pictures(prepared.volume(str(key), "t1w")) for key in keys]
        assert np.allclose(mean.numpy(), np.mean(pictures, axis=0), atol=1e-6)


def test_killed_and_resumed_it_ends_with_the_same_bits(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_chain(tmp_path / "whole", cohort, steps=5, checkpoint_every=2, identity=1.0)
    for calls in (4, 6):  # within the first generator, and the second
        with monkeypatch.context() as patched:
            patched.setattr(Batches, "at", dying(calls))
            with pytest.raises(MemoryError):
                train_chain(tmp_path / "again", cohort, steps=5, checkpoint_every=2, identity=1.0)
    again = train_chain(tmp_path / "again", cohort, steps=5, checkpoint_every=2, identity=1.0)
    for member in range(2):
        assert weights_path(again, member).read_bytes() == weights_path(whole, member).read_bytes()


def dying(calls: int) -> Callable[..., Any]:
    """`Batches.at` that fails at a call: nothing is saved any more."""
    original, num = Batches.at, 0

    def at(self: Batches, step: int, part: int) -> Any:
        nonlocal num
        num += 1
        if num == calls:
            raise MemoryError
        return original(self, step, part)

    return at


def test_exchanged_stages_leave_the_people_and_their_number_at_each_stage(cohort: Path) -> None:
    plain = choose_staged(open_prepared(cohort), config(), 1, 0)
    shuffled = choose_staged(open_prepared(cohort), config(permuted=True), 1, 0)
    assert np.array_equal(np.bincount(plain.codes), np.bincount(shuffled.codes))
    assert not np.array_equal(plain.codes, shuffled.codes)
    assert np.array_equal(plain.folds, shuffled.folds)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"classes": ("0", "0.5", "1", "2")}, r"nobody has cdr 2; the column holds 0 9, 0\.5 6, 1 5"),
        ({"target": "stage"}, "the cohort table has no such column"),
        ({"fewest": 5}, r"cdr: 4 people to train on are at stage 0\.5, and model\.fewest=5 are needed; add people"),
        ({"slices": 7}, "the scans have 6 axial slices"),
        ({"scale": 4}, "pictures of 8 x 8 pixels are too small"),
    ],
)
def test_what_cannot_be_learned_has_a_sentence(
    cohort: Path, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    settings = {"classes": list(STAGES)} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()
    }
    with pytest.raises(UserError, match=sentence):
        train_chain(tmp_path / "run", cohort, **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"channels": ["t1w", "log_jacobian"]}, "translates one channel"),
        ({"patients": 0.5}, "learns from everybody with a stage"),
        ({"augment": {"flip": True}}, "learns how stages differ"),
        ({"prepared": None}, "needs prepared=FOLDER"),
    ],
)
def test_settings_of_other_models_are_refused(
    cohort: Path, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    given = {"prepared": cohort, "out": tmp_path / "run", "channels": ["t1w"], "model": {"kind": "transition"}}
    with pytest.raises(ValueError, match=sentence):
        Train.model_validate(given | settings)


def test_a_plan_says_who_is_at_each_stage_and_a_verb_of_expectations_refuses_the_run(
    cohort: Path, tmp_path: Path
) -> None:
    given = {"prepared": cohort, "out": tmp_path / "run", "channels": ["t1w"]}
    model = {"kind": "transition", "classes": list(STAGES), "slices": 2, "widths": [4, 4, 4], "fewest": 2}
    lines = Train.model_validate(given | {"model": model, "optim": {"batch_size": 4, "steps": 2}}).plan()
    assert any(line.startswith("stages (cdr): 0 9, 0.5 6, 1 5 people; the first fold trains on") for line in lines)
    assert any("unpaired" in line for line in lines)
    run = train_chain(tmp_path / "trained", cohort, steps=2)
    with pytest.raises(UserError, match="a transition has no expectation"):
        load_expecting(run)


def test_planted_twins_are_never_trained_on(cohort: Path, tmp_path: Path) -> None:
    other = write_staged(tmp_path / "cohort", people=(9, 6, 5))
    table = pd.read_csv(other / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    twins = table["subject"].isin(["p001", "p010"])
    table["base"] = np.where(twins, "sub-x_ses-1", "")
    table.loc[twins, "role"] = "evaluation"
    table.to_csv(other / "manifest.tsv", sep="\t", index=False)
    staged = choose_staged(open_prepared(reseal(other)), config(), 1, 0)
    assert not set(staged.frame["subject"]) & {"p001", "p010"}
    assert json.dumps(sorted(staged.frame["subject"])) != json.dumps(sorted(table["subject"]))
