"""`gen3d train` with kind latent_diffusion: from latents or from scans, what travels with the weights, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from gen3d.cohort.coding import Coding
from gen3d.cohort.manifest import subject_hash
from gen3d.core.errors import UserError
from gen3d.latents.encode import Encode
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion
from gen3d.models.run import load_run
from gen3d.train.learners import learners
from gen3d.train.log import read_log
from gen3d.train.loop import Checkpoints
from gen3d.train.material_latents import warn_of_readings
from gen3d.train.train import Train
from tests.sealing import reseal
from tests.train.conftest import write_cohort
from tests.train.launching import train_with

SPATIAL = {"kind": "vae", "latent": "spatial", "base_channels": 8, "max_channels": 8, "levels": 1, "latent_channels": 2}
DIFFUSION = {
    "kind": "latent_diffusion",
    "base_channels": 16,
    "max_channels": 16,
    "head_channels": 8,
    "conditions": ["age_years", "sex"],
}
QUICK = {"steps": 6, "batch_size": 2}
ENGINE = {"precision": "fp32", "checkpoint_every": 4}


def train(out: Path, **settings: Any) -> Path:
    tree = {"out": out, "optim": QUICK, "engine": ENGINE, "track": [], "picture_every": 100}
    return Train.model_validate({**tree, **settings}).run()


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "members" / "0" / "model.safetensors")


@pytest.fixture(scope="module")
def vae(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "vae", prepared=cohort, model=SPATIAL, channels=["t1w"])


@pytest.fixture(scope="module")
def latents(cohort: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents") / "latents"
    return Encode.model_validate({"prepared": cohort, "run": vae, "out": out, "mirrored": True}).run()


@pytest.fixture(scope="module")
def diffusion(latents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "ldm"
    return train(out, latents=latents, model=DIFFUSION, picture_every=6)


def test_one_folder_holds_all_that_is_needed(diffusion: Path, vae: Path, latents: Path) -> None:
    run = load_run(diffusion)
    model = run.member(0)
    assert isinstance(model, LatentDiffusion)
    ours, theirs = weights_of(diffusion), weights_of(vae)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[f"autoencoder.{name}"], tensor, rtol=0, atol=0)
    table = pd.read_csv(latents / "latents.tsv", sep="\t")
    train_rows = table["role"].eq("train").to_numpy()
    stored = np.load(latents / "latents.npy")[train_rows].reshape(train_rows.sum(), *model.latent_shape)
    np.testing.assert_allclose(model.latent_mean, stored.mean((0, 2, 3, 4)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model._centre, stored.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.latent_std, np.sqrt(stored.var(0).mean((1, 2, 3))), rtol=1e-4)
    assert model.coding == Coding.fit(table[train_rows], ("age_years", "sex"))
    assert (diffusion / "pictures" / "member_0_step_000006.png").stat().st_size > 1000


def test_the_scale_may_be_that_of_channels_alone(latents: Path, tmp_path: Path) -> None:
    model = load_run(train(tmp_path / "ldm", latents=latents, model={**DIFFUSION, "around_mean": False})).member(0)
    assert isinstance(model, LatentDiffusion)
    rows = pd.read_csv(latents / "latents.tsv", sep="\t")["role"].eq("train").to_numpy()
    stored = np.load(latents / "latents.npy")[rows].reshape(rows.sum(), *model.latent_shape)
    assert not model.mean_latent.any()
    np.testing.assert_allclose(model.latent_std, stored.std((0, 2, 3, 4)), rtol=1e-4)


def test_everybody_whom_either_model_saw_is_recorded_and_no_id_is(diffusion: Path, latents: Path) -> None:
    table = pd.read_csv(latents / "latents.tsv", sep="\t")
    seen = json.loads((diffusion / "subjects.json").read_text())["0"]
    assert seen == {subject_hash(s): "train" for s in table.loc[table["role"].eq("train"), "subject"]}
    conditions = pd.read_csv(diffusion / "conditions.tsv", sep="\t")
    assert list(conditions.columns) == ["age_years", "sex"]
    assert sorted(conditions["age_years"]) == sorted(table.loc[table["role"].eq("train"), "age_years"])


def test_scans_encoded_on_the_way_give_the_same_model(cohort: Path, vae: Path, latents: Path, tmp_path: Path) -> None:
    given = train(tmp_path / "given", latents=latents, model=DIFFUSION, augment={"flip": True})
    made = train(tmp_path / "made", prepared=cohort, vae=vae, model=DIFFUSION, augment={"flip": True})
    first, second = weights_of(given), weights_of(made)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-5, atol=1e-6)
    without = weights_of(train(tmp_path / "without", latents=latents, model=DIFFUSION))
    assert not torch.equal(first["latent_mean"], without["latent_mean"])  # the mirrored scans count


def test_stopped_and_run_again_it_is_the_same(
    latents: Path, diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = {"out": tmp_path / "run", "latents": latents, "model": DIFFUSION, "engine": ENGINE, "track": []}
    full = Train.model_validate({**verb, "optim": QUICK, "picture_every": 6})
    saved = Checkpoints.save

    def stop(checkpoints: Checkpoints, engine: Any, step: int) -> None:
        saved(checkpoints, engine, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            full.run()
    again = full.run()
    for name, tensor in weights_of(diffusion).items():
        torch.testing.assert_close(weights_of(again)[name], tensor, rtol=0, atol=0)


def test_patients_are_chosen_by_subject_and_twins_never() -> None:
    table = pd.DataFrame(
        {
            "subject": ["t", *(f"a{i // 2}" for i in range(20)), *(f"b{i}" for i in range(5)), "a0"],
            "role": ["train", *["evaluation"] * 26],
            "diagnosis": ["control", *["AD"] * 20, *["DS"] * 5, "AD"],
            "base": [*[""] * 26, "sub-a0_ses-1"],
        }
    )
    for share, num_ad, num_ds in ((0.0, 0, 0), (0.4, 4, 2), (1.0, 10, 5)):
        chosen = table.iloc[learners(table, share)]
        assert chosen["subject"].eq("t").sum() == 1
        assert (chosen["base"] == "").all()
        people = chosen.groupby("diagnosis")["subject"].nunique()
        assert (people.get("AD", 0), people.get("DS", 0)) == (num_ad, num_ds)
        assert chosen["diagnosis"].eq("AD").sum() == 2 * num_ad  # both sessions of a person, or none
    few, many = ({*table.iloc[learners(table, share)]["subject"]} for share in (0.4, 0.8))
    assert few < many


def test_a_planted_dependence_on_age_is_learned(tmp_path: Path) -> None:
    """Latents whose mean moves by 1.5 SD per SD of age, in one channel: samples must move by as much, in that one."""
    cohort = write_cohort(tmp_path / "cohort", num_people=60)
    coarse = {**SPATIAL, "levels": 2}  # an eighth of the voxels, so that the 250 steps take seconds
    vae = train(tmp_path / "vae", prepared=cohort, model=coarse, channels=["t1w"])
    folder = Encode.model_validate({"prepared": cohort, "run": vae, "out": tmp_path / "latents"}).run()
    table = pd.read_csv(folder / "latents.tsv", sep="\t")
    age = table["age_years"].to_numpy()
    shape = json.loads((folder / "latent.json").read_text())["shape"]
    values = np.random.default_rng(0).standard_normal((len(age), *shape)).astype(np.float32)
    values[:, 0] += 1.5 * ((age - age.mean()) / age.std())[:, None, None, None]
    np.save(folder / "latents.npy", (10 + 5 * values).reshape(len(age), -1))
    reseal(folder)
    run = train(
        tmp_path / "ldm",
        latents=folder,
        model={**DIFFUSION, "attention_levels": 0, "levels": 1},
        optim={"steps": 250, "batch_size": 16, "learning_rate": 4e-3, "ema_decay": 0.98},
        engine={"precision": "fp32"},
    )
    model = load_run(run).member(0)
    assert isinstance(model, LatentDiffusion)
    ages = np.repeat([30.0, 300.0], 12)
    rows = torch.from_numpy(model.coding.encode(pd.DataFrame({"age_years": ages, "sex": "unknown"})))
    first = torch.randn((len(ages), *model.latent_shape), generator=torch.Generator().manual_seed(1))
    made = model.generate(rows, first, lambda step: torch.zeros_like(first), "dpm_solver", 12)
    young, old = (made[part].mean((0, 2, 3, 4)) for part in (slice(0, 12), slice(12, 24)))
    expected = 5 * 1.5 * 270 / age.std()
    assert float(old[0] - young[0]) == pytest.approx(expected, rel=0.25)
    assert abs(float(old[1] - young[1])) < 0.15 * expected
    assert float(made[:, 1].std()) == pytest.approx(5.0, rel=0.35)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"latents": None}, "needs latents=FOLDER"),
        ({"cross_fit": 3}, "has one member"),
        ({"augment": {"intensity": 0.1}}, "changes scans, not latents"),
        ({"augment": {"noise": 0.1}}, "augment.noise changes scans, not latents"),
        ({"model": {**DIFFUSION, "prediction": "epsilon"}}, "prediction=epsilon does not go with noising=flow"),
        ({"model": {**DIFFUSION, "head_channels": 3}}, "head_channels=3 does not divide"),
        ({"model": SPATIAL, "prepared": "x"}, "latents= goes with model.kind=latent_diffusion only"),
    ],
)
def test_settings_that_make_no_sense_are_refused(latents: Path, settings: dict[str, Any], sentence: str) -> None:
    tree = {"latents": latents, "model": DIFFUSION, "out": "x", **settings}
    with pytest.raises(ValidationError, match=sentence):
        Train.model_validate({name: value for name, value in tree.items() if value is not None})


def test_bad_latents_are_refused_with_a_sentence(
    cohort: Path, vae: Path, latents: Path, small_vae: dict[str, Any], tmp_path: Path
) -> None:
    other = train(tmp_path / "other", prepared=cohort, model=SPATIAL, channels=["t1w"], seed=1)
    with pytest.raises(UserError, match="latents of another VAE"):
        train(tmp_path / "run", latents=latents, vae=other, model=DIFFUSION)
    with pytest.raises(UserError, match="no column of the cohort table; did you mean age_years"):
        train(tmp_path / "run", latents=latents, model={**DIFFUSION, "conditions": ["age_year"]})
    dense = train(tmp_path / "dense", prepared=cohort, model=small_vae, channels=["t1w"])
    with pytest.raises(UserError, match="its latent is 6 numbers, not a volume"):
        train(tmp_path / "run", prepared=cohort, vae=dense, model=DIFFUSION)
    with pytest.raises(UserError, match="levels=4 is too many"):
        train(tmp_path / "run", latents=latents, model={**DIFFUSION, "levels": 4})
    plain = Encode.model_validate({"prepared": cohort, "run": vae, "out": tmp_path / "plain"}).run()
    with pytest.raises(UserError, match="no mirrored latents there"):
        train(tmp_path / "run", latents=plain, model=DIFFUSION, augment={"flip": True})
    values = np.load(plain / "latents.npy")
    values[0, 3] = np.nan
    np.save(plain / "latents.npy", values)
    reseal(plain)
    with pytest.raises(UserError, match="NaN or infinite latents of sub-p00_ses-1"):
        train(tmp_path / "nan", latents=plain, model=DIFFUSION)
    values[:, : values.shape[1] // 2] = 1.0
    np.save(plain / "latents.npy", np.nan_to_num(values))
    reseal(plain)
    with pytest.raises(UserError, match="channel 0 of the latents is the same in all training scans"):
        train(tmp_path / "flat", latents=plain, model=DIFFUSION)


def test_the_plan_tells_latents_conditions_and_memory(latents: Path, tmp_path: Path) -> None:
    verb = Train.model_validate({"latents": latents, "model": DIFFUSION, "out": tmp_path / "x", "engine": ENGINE})
    told = "\n".join(verb.plan())
    assert "latents: 2 channels of 6x7x6" in told
    assert "conditions: age_years (20 to 56), sex (F, M)" in told or "conditions: age_years" in told
    assert "memory" in told


@pytest.mark.multi
def test_two_processes_learn_what_one_learns(
    latents: Path, cohort: Path, vae: Path, tmp_path: Path, write_case: Callable[..., dict[str, Any]]
) -> None:
    cases = {name: write_case(latents, tmp_path / name) for name in ("one", "zero0", "zero3")}
    Train.model_validate(cases["one"]).run()
    cases["zero0"]["engine"]["zero"], cases["zero3"]["engine"]["zero"] = 0, 3
    cases["zero3"] |= {"prepared": [str(cohort)], "vae": str(vae)}
    del cases["zero3"]["latents"]
    assert train_with(2, [cases["zero0"], cases["zero3"]], tmp_path / "launch") == ["", ""]
    reference = [entry["loss"] for entry in read_log(tmp_path / "one" / "log.jsonl")]
    for name in ("zero0", "zero3"):
        losses = [entry["loss"] for entry in read_log(tmp_path / name / "log.jsonl")]
        assert losses == pytest.approx(reference, rel=1e-4)
        for key, tensor in weights_of(tmp_path / "one").items():
            torch.testing.assert_close(weights_of(tmp_path / name)[key], tensor, rtol=1e-2, atol=2e-3)


@pytest.fixture
def write_case() -> Callable[..., dict[str, Any]]:
    def make(latents: Path, out: Path) -> dict[str, Any]:
        return {
            "latents": str(latents),
            "out": str(out),
            "model": DIFFUSION,
            "optim": {"steps": 8, "batch_size": 4, "ema_decay": 0.9},
            "engine": {"device": "cpu", "precision": "fp32", "timeout_s": 60},
            "log_every": 1,
            "track": [],
        }

    return make


def test_a_condition_that_is_named_after_a_volume_and_does_not_follow_it_is_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    warn_of_readings(["age_years", "caudate_ml", "lateral_ventricle_ml"])
    told = capsys.readouterr().err
    assert "condition caudate_ml: r " in told
    assert "lateral_ventricle" not in told
