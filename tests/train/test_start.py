"""`start=`: a training that begins with the weights of another run, bit by bit, and knows whom that run has seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.manifest import write_manifest
from gen3d.cohort.seen import identity_of
from gen3d.core.errors import UserError
from gen3d.core.output_folder import begin
from gen3d.models.run import load_run
from gen3d.models.run_folder import weights_path
from gen3d.train.engine.processes import Processes
from gen3d.train.train import Train
from tests.sealing import reseal
from tests.train.conftest import SMALL_VAE, write_cohort

RESTORER = {"kind": "restorer", "base_channels": 8, "max_channels": 8, "levels": 2, "stem": 1}
ENGINE = {"precision": "fp32", "checkpoint_every": 4}


def verb_of(cohort: Path, out: Path, **changes: Any) -> Train:
    tree = {"prepared": cohort, "out": out, "model": SMALL_VAE, "optim": {"steps": 6, "batch_size": 2}}
    return Train.model_validate({**tree, "engine": ENGINE, "track": [], **changes})


@pytest.fixture(scope="module")
def first(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE of the four people of role train."""
    return verb_of(cohort, tmp_path_factory.mktemp("first") / "vae").run()


@pytest.fixture(scope="module")
def three(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Restorers of one channel, cross-fitted."""
    out = tmp_path_factory.mktemp("three") / "restorer"
    return verb_of(cohort, out, model=RESTORER, channels=["t1w"], cross_fit=3).run()


def initial(verb: Train, member: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State of a member's new model before and after it was given the weights that it begins with."""
    material = verb.open_inputs()
    torch.manual_seed(1)
    statistics = material.statistics(material.rows_of(member), Processes())
    model = verb.model.build(material.plan, material.channels, statistics, material.covariates.shape[1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    material.set_initial_weights(model, member)
    return before, model.state_dict()


def test_every_member_begins_with_the_weights_of_the_run(first: Path, cohort: Path, tmp_path: Path) -> None:
    there = load_file(weights_path(first, 0))
    for member in range(3):
        before, after = initial(verb_of(cohort, tmp_path / "new", start=first, cross_fit=3, seed=5), member)
        assert set(after) == set(there)
        assert not all(torch.equal(before[name], there[name]) for name in there)
        assert all(torch.equal(after[name], there[name]) for name in there)


def test_members_begin_with_the_member_of_their_number(three: Path, cohort: Path, tmp_path: Path) -> None:
    verb = verb_of(cohort, tmp_path / "new", start=three, model=RESTORER, channels=["t1w"], cross_fit=3)
    states = [initial(verb, member)[1] for member in range(3)]
    for member, state in enumerate(states):
        there = load_file(weights_path(three, member))
        assert all(torch.equal(state[name], there[name]) for name in there)
    assert not torch.equal(states[0]["network.last.weight"], states[1]["network.last.weight"])
    assert load_run(verb.run()).seen.members == load_run(three).seen.members


def test_training_goes_on_from_there(first: Path, cohort: Path, tmp_path: Path) -> None:
    there = load_file(weights_path(first, 0))
    slow = {"steps": 2, "batch_size": 2, "learning_rate": 1e-9}
    started = verb_of(cohort, tmp_path / "started", start=first, optim=slow).run()
    fresh = verb_of(cohort, tmp_path / "fresh", optim=slow, seed=9).run()
    near, far = (load_file(weights_path(folder, 0)) for folder in (started, fresh))
    assert all(torch.allclose(near[name].float(), there[name].float(), atol=1e-6) for name in there)
    assert not all(torch.allclose(far[name].float(), there[name].float(), atol=1e-6) for name in there)


def test_people_of_the_run_count_as_seen(first: Path, cohort: Path, tmp_path: Path) -> None:
    """p00, p01, p05 and p06 trained the first run; p02 and p07 are new to it."""
    run = load_run(verb_of(cohort, tmp_path / "new", start=first, cross_fit=3).run())
    for subject in ("p00", "p01", "p05", "p06"):
        assert run.seen.blind_to(identity_of(subject)) == []
    for subject in ("p02", "p07"):
        assert len(run.seen.blind_to(identity_of(subject))) == 1
    assert run.seen.blind_to(identity_of("p03")) == [0, 1, 2]


def test_what_began_with_patients_has_learned_patients(cohort: Path, tmp_path: Path) -> None:
    ill = verb_of(cohort, tmp_path / "ill", patients=1.0).run()
    assert load_run(verb_of(cohort, tmp_path / "new", start=ill).run()).learned_patients


def test_a_stopped_training_goes_on_to_the_same_weights(first: Path, cohort: Path, tmp_path: Path) -> None:
    straight, torn = tmp_path / "straight", tmp_path / "torn"
    settings = {"start": first, "picture_every": 5}
    verb_of(cohort, straight, **settings).run()
    begin(verb_of(cohort, torn, **settings), "train", {"prepared": [cohort], "start": first}).release()
    obstacle = torn / "pictures" / "member_0_step_000005.png"
    (obstacle / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="member_0_step_000005"):
        verb_of(cohort, torn, **settings).run()
    assert (torn / "checkpoint" / "member_0" / "step_00000004").is_dir()
    shutil.rmtree(obstacle)
    verb_of(cohort, torn, **settings).run()
    assert weights_path(torn, 0).read_bytes() == weights_path(straight, 0).read_bytes()
    with pytest.raises(UserError, match="from other inputs"):
        verb_of(cohort, torn, picture_every=5).run()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": RESTORER}, "weights of a vae, and a restorer cannot begin with them"),
        ({"channels": ["t1w"]}, "learned channels t1w, log_jacobian, and this training has t1w"),
        ({"channels": ["log_jacobian", "t1w"]}, r"set 'channels=\[t1w,log_jacobian\]'"),
        ({"model": {**SMALL_VAE, "latent_size": 7}}, r"tensors differ, such as .*take model: from .*config.yaml"),
    ],
)
def test_weights_that_do_not_fit(
    changes: dict[str, Any], sentence: str, first: Path, cohort: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        verb_of(cohort, tmp_path / "new", start=first, **changes).run()
    assert not (tmp_path / "new").exists()


def test_runs_that_do_not_fit(first: Path, three: Path, cohort: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    wide = write_cohort(tmp_path / "wide", shape=(12, 16, 12))
    with pytest.raises(UserError, match="weights of another plan: trained on 12 x 14 x 12 voxels"):
        verb_of(wide, new, start=first).run()
    other = shutil.copytree(first, tmp_path / "other")
    plan = json.loads((other / "plan.json").read_text())
    (other / "plan.json").write_text(json.dumps(plan | {"registration": plan["registration"] + 1}))
    reseal(other)
    with pytest.raises(UserError, match="prepared by different versions of gen3d, whose alignments differ"):
        verb_of(cohort, new, start=other).run()
    reseal(shutil.copytree(first, tmp_path / "imported"), verb="import-weights")
    with pytest.raises(UserError, match="imported weights, and whom they have seen is not known"):
        verb_of(cohort, new, start=tmp_path / "imported").run()
    hashed = shutil.copytree(cohort, tmp_path / "hashed")
    manifest = open_prepared(hashed).manifest
    write_manifest(hashed, manifest.assign(scan_hash=[f"v{number:016x}" for number in range(len(manifest))]))
    reseal(hashed)
    with pytest.raises(UserError, match="recorded the ids of its training people but not their scans"):
        verb_of(hashed, new, start=first).run()
    with pytest.raises(UserError, match="has 3 members, and 1 would be trained; set cross_fit=3"):
        verb_of(cohort, new, start=three, model=RESTORER, channels=["t1w"]).run()
    with pytest.raises(UserError, match=r"written by `gen3d simulate`|no finished run|not .*train"):
        verb_of(cohort, new, start=cohort).run()
    with pytest.raises(ValidationError, match="learn from scans in steps, such as vae and restorer, not with pca"):
        verb_of(cohort, new, start=first, model={"kind": "pca"})
    assert not new.exists()
