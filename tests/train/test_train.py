"""The verb `train`: run folders, cross-fitting, resuming, dry runs and refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import subject_hash
from gen3d.cohort.seen import identity_of
from gen3d.core.config import load
from gen3d.core.errors import UserError
from gen3d.core.output_folder import begin
from gen3d.models.run import load_run
from gen3d.train.log import read_log
from gen3d.train.train import Train

QUICK = {"steps": 6, "batch_size": 2}


def verb_of(cohort: Path, out: Path, model: dict[str, Any], **settings: Any) -> Train:
    engine = {"precision": "fp32", "checkpoint_every": 4}
    tree = {"prepared": str(cohort), "out": str(out), "model": model, "optim": QUICK, "engine": engine}
    return Train.model_validate({**tree, "track": [], **settings})


def train(cohort: Path, out: Path, model: dict[str, Any], **settings: Any) -> Path:
    return verb_of(cohort, out, model, **settings).run()


@pytest.fixture(scope="module")
def vae_run(cohort: Path, small_vae: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(cohort, tmp_path_factory.mktemp("runs") / "vae", small_vae, picture_every=6, track=["tensorboard"])


def test_run_folder_is_complete(vae_run: Path) -> None:
    found = {str(path.relative_to(vae_run)) for path in vae_run.rglob("*") if path.is_file()}
    assert {
        "artefact.json",
        "config.yaml",
        "plan.json",
        "subjects.json",
        "design.json",
        "log.jsonl",
        "members/0/model.safetensors",
        "pictures/member_0_step_000006.png",
    } <= found
    assert any(name.startswith("tensorboard/") for name in found)
    assert not any(name.startswith("checkpoint/") for name in found)


def test_export_and_load_give_the_same_expectation(vae_run: Path, prepared: Prepared) -> None:
    run = load_run(vae_run)
    assert run.plan.key == prepared.plan.key
    row = prepared.select(["test"]).iloc[0]
    volume = prepared.load([row["key"]], run.channels)[0]
    result = run.expect(volume, row["subject"])
    assert result is not None
    direct = run.member(0).expect(torch.from_numpy(volume)[None]).mean[0].numpy()
    assert np.array_equal(result[0], direct)
    again = load_run(vae_run).expect(volume, row["subject"])
    assert again is not None
    assert np.array_equal(again[0], direct)
    assert run.expect(volume, prepared.select(["train"]).iloc[0]["subject"]) is None


def test_a_finished_run_is_not_trained_again(
    vae_run: Path, cohort: Path, small_vae: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = vae_run / "members" / "0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    train(cohort, vae_run, small_vae)
    assert "finished before" in capsys.readouterr().out
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"other settings \(model.beta was 1.0 and is now 0.5\)"):
        train(cohort, vae_run, {**small_vae, "beta": 0.5})


def test_a_crash_is_resumed_member_by_member(cohort: Path, small_vae: dict[str, Any], tmp_path: Path) -> None:
    settings = {"cross_fit": 3, "picture_every": 5}
    straight, torn = tmp_path / "straight", tmp_path / "torn"
    train(cohort, straight, small_vae, **settings)
    begin(verb_of(cohort, torn, small_vae, **settings), "train", {"prepared": [cohort]}).release()
    # A folder in the place of one of member 1's pictures stops the training there, as a full disk would.
    obstacle = torn / "pictures" / "member_1_step_000005.png"
    (obstacle / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="member_1_step_000005"):
        train(cohort, torn, small_vae, **settings)
    assert (torn / "members" / "0" / "model.safetensors").is_file()
    assert (torn / "checkpoint" / "member_1" / "step_00000004").is_dir()
    with pytest.raises(UserError, match="never finished there"):
        load_run(torn)
    shutil.rmtree(obstacle)
    train(cohort, torn, small_vae, **settings)
    for member in range(3):
        ours, theirs = (folder / "members" / str(member) / "model.safetensors" for folder in (torn, straight))
        assert ours.read_bytes() == theirs.read_bytes()
    assert [(entry["member"], entry["step"]) for entry in read_log(torn / "log.jsonl")] == [(0, 6), (1, 6), (2, 6)]


@pytest.mark.parametrize("model", [{"kind": "pca", "num_components": 2}, {"kind": "voxelwise"}])
def test_a_member_is_blind_to_its_fold(
    model: dict[str, Any], cohort: Path, other_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    subject = "p05"
    first = load_run(train(cohort, tmp_path / "first", model, cross_fit=3))
    second = load_run(train(other_cohort(changed=subject), tmp_path / "second", model, cross_fit=3))
    (blind,) = first.seen.blind_to(identity_of(subject))
    assert first.seen.saw(identity_of(subject)) == [index for index in range(3) if index != blind]
    for index in range(3):
        ours, theirs = first.member(index).state_dict(), second.member(index).state_dict()
        equal = all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert equal == (index == blind)


def test_the_recorded_people_are_those_learned_from(vae_run: Path, prepared: Prepared) -> None:
    run = load_run(vae_run)
    for subject, role in prepared.manifest[["subject", "role"]].to_numpy():
        assert run.seen.saw(identity_of(subject)) == ([0] if role == "train" else [])
    assert run.seen.members[0][subject_hash("p00")] == "train"


def test_one_channel(cohort: Path, small_vae: dict[str, Any], tmp_path: Path) -> None:
    run = load_run(train(cohort, tmp_path / "run", small_vae, channels=["log_jacobian"]))
    assert run.member(0).volume_shape == (1, 12, 14, 12)


def test_dry_run_says_what_it_takes_and_writes_nothing(cohort: Path, small_vae: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    tree = {"prepared": str(cohort), "out": str(out), "model": {**small_vae, "adversarial_weight": 0.1}}
    text = "\n".join(Train.model_validate(tree).plan())
    assert "people: 4 (4 scans; train 4)" in text
    assert "parameters: model 3" in text
    assert "critic 3,077" in text
    assert "per process, of which in" in text
    assert "fits      yes" in text
    assert "12 x 14 x 12 voxels of 4 mm" in text
    assert not out.exists()


def test_refusals(cohort: Path, small_vae: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match="has no channel flair, only t1w, log_jacobian"):
        train(cohort, out, small_vae, channels=["flair"])
    with pytest.raises(UserError, match="num_components=4 needs more than 4 training volumes, a member has 4"):
        train(cohort, out, {"kind": "pca", "num_components": 4})
    with pytest.raises(UserError, match="shrinks every side 16 times"):
        train(cohort, out, {**small_vae, "levels": 4})
    with pytest.raises(UserError, match="no such folder"):
        train(tmp_path / "nothing", out, small_vae)
    with pytest.raises(ValidationError, match="named twice"):
        train(cohort, out, small_vae, channels=["t1w", "t1w"])
    with pytest.raises(UserError, match="unknown or missing kind; the kinds are 'vae', 'restorer', 'pca', 'voxelwise'"):
        load(Train, None, [f"prepared={cohort}", f"out={out}", "model.kind=gan"])
    assert not out.exists()
