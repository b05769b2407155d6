"""A run folder is opened completely or refused, and nobody is expected by a member that saw them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from gen3d.cohort.manifest import subject_hash
from gen3d.cohort.seen import SeenBy, identity_of
from gen3d.core.config import Verb
from gen3d.core.errors import UserError
from gen3d.core.output_folder import begin
from gen3d.imaging.plan import GridPlan, write_plan
from gen3d.maths.design import Design
from gen3d.models.base import BaseModelConfig, Statistics, VolumeSet
from gen3d.models.normative.pca import PCAConfig
from gen3d.models.normative.vae import VAEConfig
from gen3d.models.normative.voxelwise import VoxelwiseConfig
from gen3d.models.run import Run, load_run
from gen3d.models.weights import save_weights
from tests.sealing import reseal

SHAPE = (8, 8, 8)
CHANNELS = ("t1w", "log_jacobian")
SEEN = [["a", "b"], ["b", "c"], ["c", "a"]]
VAE = VAEConfig(base_channels=8, max_channels=8, levels=1, latent_size=3)


def plan_of(spacing_mm: float = 4.0) -> GridPlan:
    return GridPlan(spacing_mm=spacing_mm, shape=SHAPE, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))


def write_run(folder: Path, config: BaseModelConfig, finish: bool = True) -> Path:
    """A run of three members, each fitted to volumes of its own."""
    work = begin(Verb(out=folder), "train", {})
    plan, design = plan_of(), Design.fit(np.linspace(20, 80, 20), ["F", "M"] * 10, ["x"] * 20)
    write_plan(folder / "plan.json", plan)
    settings = {"model": config.model_dump(mode="json"), "channels": list(CHANNELS)}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "design.json").write_text(json.dumps(design.to_dict()))
    seen = {str(index): {subject_hash(name): "train" for name in names} for index, names in enumerate(SEEN)}
    (folder / "subjects.json").write_text(json.dumps(seen))
    mask = np.ones(SHAPE, bool)
    mask[0] = False
    statistics = Statistics(np.zeros(2, np.float32), np.ones(2, np.float32), mask)
    covariates = design.matrix(np.linspace(20, 80, 20), ["F", "M"] * 10, ["x"] * 20)
    for index in range(3):
        torch.manual_seed(index)
        model = config.build(plan, CHANNELS, statistics, covariates.shape[1])
        for parameter in model.network.blocks()[-1].parameters() if config is VAE else ():
            torch.nn.init.normal_(parameter)  # as after some training: it starts at zero
        if config.closed_form:
            volumes = torch.randn(20, 2, *SHAPE)
            model.fit(VolumeSet(20, lambda rows, v=volumes: v[rows], covariates))  # type: ignore[attr-defined]
        save_weights(folder / "members" / str(index) / "model.safetensors", model.state_dict(), plan.key, config.kind)  # type: ignore[attr-defined]
    work.record["config"] = settings
    if finish:
        work.finish({})
    else:
        work.release()
    return folder


def volume_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, *SHAPE)).astype(np.float32)


@pytest.fixture(params=[VAE, PCAConfig(num_components=3), VoxelwiseConfig()], ids=["vae", "pca", "voxelwise"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return load_run(write_run(tmp_path / "run", request.param))


def test_everybody_is_judged_by_as_many_members_as_the_people_who_calibrate(run: Run) -> None:
    covariates = run.covariates_of([50.0], ["F"], ["x"])[0]
    volume = volume_of()
    inputs = (torch.from_numpy(volume)[None], torch.from_numpy(covariates)[None])
    alone = [member.expect(*inputs).mean[0].numpy() for member in run.members]
    for subject, blind in (("a", [1]), ("c", [0]), ("new", [0, 1, 2])):
        assert run.seen.blind_to(identity_of(subject)) == blind
        (judge,) = run.seen.judges(identity_of(subject))
        assert judge in blind
        result = run.expect(volume, subject, covariates)
        assert result is not None
        assert np.allclose(result[0], alone[judge], atol=1e-6)
        assert result[0].dtype == np.float32
        assert (result[0][:, 0] == 0).all()


def test_people_from_outside_are_shared_out_over_the_members(run: Run) -> None:
    judges = [run.seen.judges(identity_of(f"new{number}"))[0] for number in range(60)]
    assert set(judges) == {0, 1, 2}
    assert judges == [run.seen.judges(identity_of(f"new{number}"))[0] for number in range(60)]


def test_members_that_saw_the_same_people_judge_together(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", VAE))
    ensemble = Run(**{**vars(run), "seen": SeenBy(({subject_hash("a"): "train"},) * 3)})
    assert ensemble.seen.judges(identity_of("new")) == [0, 1, 2]
    assert ensemble.seen.judges(identity_of("a")) == []


def test_a_person_seen_by_every_member_gets_none(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", VAE))
    run = Run(**{**vars(run), "seen": SeenBy.people(["a"], "train")})
    assert run.seen.blind_to(identity_of("a")) == []
    assert run.expect(volume_of(), "a") is None


def test_posterior_samples_are_seeded(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", VAE))
    first, again, other = (run.expect(volume_of(), "new", samples=4, seed=seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first[1] is not None
    assert first[1].max() > 0
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


def test_encode(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "vae", VAE))
    latent = run.encode(volume_of(), "a")
    assert latent.shape == (3,)
    assert np.array_equal(latent, run.encode(volume_of(), "a", member=1))
    assert not np.array_equal(latent, run.encode(volume_of(), "a", member=2))
    voxelwise = load_run(write_run(tmp_path / "voxelwise", VoxelwiseConfig()))
    assert not voxelwise.has_latent
    with pytest.raises(UserError, match="a voxelwise model has no latent space"):
        voxelwise.encode(volume_of(), "a")


def test_scans_of_another_plan_are_refused(run: Run) -> None:
    run.require_plan(plan_of(), Path("prepared"))
    with pytest.raises(UserError, match=r"weights of another plan: trained on 8 x 8 x 8 voxels of 4 mm.*of 2 mm"):
        run.require_plan(plan_of(2.0), Path("prepared"))


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`gen3d train` never finished there"):
        load_run(write_run(tmp_path / "run", VAE, finish=False))
    with pytest.raises(UserError, match="no such folder"):
        load_run(tmp_path / "nothing")


def test_weights_beside_another_plan_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", VAE)
    write_plan(folder / "plan.json", plan_of(2.0))
    reseal(folder)
    with pytest.raises(UserError, match="weights of another plan"):
        load_run(folder).member(0)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", VAE)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("latent_size: 3", "latent_size: 4"))
    reseal(folder)
    with pytest.raises(UserError, match=r"do not fit the model in config\.yaml: .* of another shape"):
        load_run(folder).member(0)


def test_partial_weights_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", VAE)
    path = folder / "members" / "0" / "model.safetensors"
    tensors = load_file(path)
    for name, words in (("network.to_mean.bias", "1 tensors are missing"), ("brain_mask", "incomplete weights")):
        kept = {key: tensor for key, tensor in tensors.items() if key != name}
        save_weights(path, kept, plan_of().key, "vae")
        reseal(folder)
        with pytest.raises(UserError, match=words):
            load_run(folder).member(0)


@pytest.mark.parametrize("name", ["config.yaml", "plan.json", "subjects.json", "design.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run", VAE)
    (folder / name).write_text("{")
    reseal(folder)
    with pytest.raises(UserError, match=f"{name}: missing or damaged"):
        load_run(folder)
    (folder / name).unlink()
    reseal(folder)
    with pytest.raises(UserError, match=f"{name}: missing or damaged"):
        load_run(folder)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", VAE)
    (folder / "members" / "1" / "model.safetensors").unlink()
    reseal(folder)
    with pytest.raises(UserError, match="the weights of member 1 are missing"):
        load_run(folder)
