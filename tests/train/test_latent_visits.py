"""`gen3d train` with kind latent_flow: whose latents become courses, what is kept out, what is left behind, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.forecast_errors import read_errors
from gen3d.cohort.manifest import subject_hash
from gen3d.cohort.seen import SeenBy
from gen3d.core.errors import UserError
from gen3d.models.forecast.latent_flow import LatentFlow, LatentFlowConfig
from gen3d.models.forecast.loading import FLOORS, open_forecasters
from gen3d.models.run import load_run
from gen3d.models.run_folder import read_seen
from gen3d.train.loop import Checkpoints
from gen3d.train.material_latent_visits import NOBODY, Courses, CourseSource, _blindness, courses_of, gain_of
from gen3d.train.train import Train
from gen3d.train.visit_people import VisitPeople, choose_visit_people
from tests.train.launching import train_with
from tests.visit_cohort import Visitor, write_visits

SPATIAL = {"kind": "vae", "latent": "spatial", "base_channels": 8, "max_channels": 8, "levels": 1, "latent_channels": 2}
FLOW = {
    "kind": "latent_flow",
    "base_channels": 16,
    "max_channels": 16,
    "head_channels": 16,
    "levels": 1,
    "attention_levels": 0,
    "steps": 2,
    "error_draws": 2,
}
QUICK = {"steps": 4, "batch_size": 2}
ENGINE = {"device": "cpu", "precision": "fp32", "checkpoint_every": 2}
NUM_PEOPLE = 12


def rate(visitor: Visitor) -> float:
    return 0.06 if visitor.diagnosis == "AD" else 0.02


def settings(out: Path, **changes: Any) -> dict[str, Any]:
    tree = {"out": out, "optim": QUICK, "engine": ENGINE, "track": [], "picture_every": 100, "workers": 1}
    return {**tree, **changes}


def train(out: Path, **changes: Any) -> Path:
    return Train.model_validate(settings(out, **changes)).run()


def weights_of(run: Path, member: int = 0) -> dict[str, torch.Tensor]:
    return load_file(run / "members" / str(member) / "model.safetensors")


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_visits(tmp_path_factory.mktemp("visits") / "prepared", rate, num_people=NUM_PEOPLE, spacing_mm=8.0)


@pytest.fixture(scope="module")
def vae(visits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "vae", prepared=visits, model=SPATIAL)


@pytest.fixture(scope="module")
def flow(visits: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "flow", prepared=visits, vae=vae, model=FLOW)


def test_one_folder_holds_all_that_is_needed(flow: Path, vae: Path) -> None:
    run = open_forecasters(flow)
    model = run.forecaster(0)
    assert isinstance(model, LatentFlow)
    ours = weights_of(flow)
    for name, tensor in weights_of(vae).items():
        torch.testing.assert_close(ours[f"autoencoder.{name}"], tensor, rtol=0, atol=0)
    assert (model.change_std > 0).all()
    np.testing.assert_allclose(model.typical_years, 2.0, rtol=1e-6)
    assert run.longest_years == 2.0
    assert float(model.volume_gain) > 0
    assert set(run.forecasters(0)) == {"latent_flow", *FLOORS}
    assert not (flow / "checkpoint" / "latents").exists()


def test_errors_are_of_people_whom_neither_model_saw(flow: Path, vae: Path) -> None:
    errors = read_errors(flow)
    assert set(errors["model"]) == {"latent_flow", *FLOORS}
    judged = {subject_hash(str(subject)) for subject in errors["subject"]}
    assert judged
    assert judged.isdisjoint(read_seen(vae).subjects[0])
    assert judged.isdisjoint(read_seen(flow).subjects[0])
    assert set(read_seen(vae).members[0]) <= set(read_seen(flow).members[0])
    own = errors[errors["model"] == "latent_flow"]
    assert (own["spread"] > 0).any()
    assert (errors.loc[errors["model"] == "copy_forward", "forecast"] == 0).all()


def test_stopped_and_run_again_it_is_the_same(
    visits: Path, vae: Path, flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Train.model_validate(settings(tmp_path / "run", prepared=visits, vae=vae, model=FLOW))
    saved = Checkpoints.save

    def stop(checkpoints: Checkpoints, engine: Any, step: int) -> None:
        saved(checkpoints, engine, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            full.run()
    again = full.run()
    for name, tensor in weights_of(flow).items():
        torch.testing.assert_close(weights_of(again)[name], tensor, rtol=0, atol=0)
    assert (again / "forecast_errors.tsv").read_bytes() == (flow / "forecast_errors.tsv").read_bytes()


@pytest.mark.multi
def test_two_processes_train_the_same_model(visits: Path, vae: Path, flow: Path, tmp_path: Path) -> None:
    case = settings(tmp_path / "run", prepared=visits, vae=vae, model=FLOW)
    ready = {name: str(value) if isinstance(value, Path) else value for name, value in case.items()}
    assert train_with(2, [{**ready, "prepared": [str(visits)]}], tmp_path / "launch") == [""]
    # Gradients are summed in another order, and Adam makes a whole step of the rounding of a gradient near nothing.
    for name, tensor in weights_of(flow).items():
        torch.testing.assert_close(weights_of(tmp_path / "run")[name], tensor, rtol=1e-2, atol=2e-3)
    errors = [pd.read_csv(run / "forecast_errors.tsv", sep="\t") for run in (flow, tmp_path / "run")]
    pd.testing.assert_frame_equal(errors[1], errors[0], rtol=1e-2, atol=1e-4)


def test_a_family_stands_on_the_members_of_the_autoencoder(visits: Path, tmp_path: Path) -> None:
    family = train(
        tmp_path / "vae", prepared=visits, model=SPATIAL, cross_fit=3, patients=1.0, optim={"steps": 1, "batch_size": 2}
    )
    run = train(
        tmp_path / "flow", prepared=visits, vae=family, model=FLOW, cross_fit=3, optim={"steps": 1, "batch_size": 2}
    )
    errors, seen, before = read_errors(run), read_seen(run), read_seen(family)
    for member in range(3):
        ours = weights_of(run, member)
        for name, tensor in weights_of(family, member).items():
            torch.testing.assert_close(ours[f"autoencoder.{name}"], tensor, rtol=0, atol=0)
        judged = {subject_hash(str(subject)) for subject in errors.loc[errors["member"] == member, "subject"]}
        assert judged
        assert judged.isdisjoint(seen.subjects[member])
        assert judged.isdisjoint(before.subjects[member])
    with pytest.raises(UserError, match="has 3 members and the forecaster 1; set cross_fit=3"):
        train(tmp_path / "other", prepared=visits, vae=family, model=FLOW)


def test_it_is_planned(visits: Path, vae: Path, tmp_path: Path) -> None:
    plan = "\n".join(Train.model_validate(settings(tmp_path / "run", prepared=visits, vae=vae, model=FLOW)).plan())
    assert "latents: 2 channels of" in plan
    assert "from a visit to another, there and back, with up to 1 earlier visits" in plan
    assert "were seen by the autoencoder (train); they are learned from, and no error of theirs is kept" in plan
    assert "parameters: model" in plan
    assert "fits " in plan
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vae": None}, "latent_flow needs prepared=FOLDER with visits and vae=FOLDER"),
        ({"patients": 0.5}, "learns from everybody with two visits"),
        ({"augment": {"flip": True}}, "augment= changes scans, and model.kind=latent_flow learns from latents"),
        ({"latents": "somewhere"}, "encodes the scans of prepared= itself"),
    ],
)
def test_settings_that_do_not_go_together(
    changes: dict[str, Any], sentence: str, visits: Path, vae: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Train.model_validate(settings(tmp_path / "run", **{"prepared": visits, "vae": vae, "model": FLOW, **changes}))


def test_an_autoencoder_that_cannot_carry_a_forecast(visits: Path, flow: Path, tmp_path: Path) -> None:
    one = {"steps": 1, "batch_size": 2}
    bare = train(tmp_path / "bare", prepared=visits, model=SPATIAL, channels=["t1w"], optim=one)
    dense = train(
        tmp_path / "dense", prepared=visits, model={**SPATIAL, "latent": "dense", "latent_size": 4}, optim=one
    )
    for run, sentence in (
        (bare, "its autoencoder has no channel log_jacobian, and a forecast needs t1w for the image"),
        (dense, "its latent is 4 numbers, not a volume"),
        (flow, "a latent_flow has no expectation and no latent of a scan"),
    ):
        with pytest.raises(UserError, match=sentence):
            train(tmp_path / "run", prepared=visits, vae=run, model=FLOW)


def test_people_whom_the_autoencoder_saw_are_never_judged(visits: Path, vae: Path) -> None:
    prepared, run, config = open_prepared(visits), load_run(vae), LatentFlowConfig()
    seen = run.seen.by_all(prepared.manifest)
    known = set(prepared.manifest.loc[seen, "subject"])
    for folds in (1, 3):
        people = choose_visit_people(prepared, config, folds, 0, run.seen)
        for share in people.shares:
            assert known.isdisjoint(people.subjects[share.blind])
            assert known <= set(people.subjects[share.training])
    everybody = SeenBy.rows(prepared.manifest, "train")
    people = choose_visit_people(prepared, config, 1, 0, everybody)
    with pytest.raises(
        UserError, match=r"12 of 12 people .* were seen by the autoencoder .*; train the vae with cross_fit=3"
    ):
        _blindness(replace(run, seen=everybody), people)


def courses_with(believed: list[float], past: int = 1) -> Courses:
    """All courses of one person who came three times, after 0, 1 and 3 years, for a member that believes other years."""
    frame = pd.DataFrame({"subject": "a", "key": ["a0", "a1", "a2"], "years": [0.0, 1.0, 3.0]})
    people = VisitPeople(frame, pd.DataFrame(), 1, (), ())
    start, end = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 2, 2, 0, 1, 0])
    return courses_of(people, start, end, np.array(believed), LatentFlowConfig(past=past))


def test_courses_never_show_their_end() -> None:
    courses, nan = courses_with([0.0, 1.0, 3.0], past=2), float("nan")
    found = {(int(s), int(e)): (p.tolist(), t) for s, e, p, t in zip(*vars(courses).values(), strict=True)}
    for (start, end), past, times in (
        ((0, 1), [NOBODY, NOBODY], [1.0, nan, nan]),
        ((1, 2), [0, NOBODY], [2.0, -1.0, nan]),
        ((1, 0), [2, NOBODY], [-1.0, 2.0, nan]),
        ((2, 0), [NOBODY, NOBODY], [-3.0, nan, nan]),
        ((2, 1), [NOBODY, NOBODY], [-2.0, nan, nan]),
    ):
        assert found[start, end][0] == past
        np.testing.assert_array_equal(found[start, end][1], np.array(times, np.float32))
    assert courses_with([3.0, 1.0, 0.0]).times[0, 0] == -2.0


def test_a_course_is_loaded_channel_by_channel() -> None:
    courses = courses_with([0.0, 1.0, 3.0])
    latents = np.arange(3, dtype=np.float32)[:, None] * np.ones((3, 2 * 8), np.float32)
    source = CourseSource(latents, (2, 2, 2, 2), courses, ("a",) * 3, np.zeros((3, 1), np.float32))
    volume = source.load(np.array([2]))[0]
    assert volume.shape == (6, 2, 2, 2)
    assert [float(part.mean()) for part in volume] == [1, 1, 2, 2, 0, 0]
    np.testing.assert_array_equal(source.conditions(np.array([2])), [[2.0, -1.0, 0.0]])
    assert not replace(source, latents=latents + 1).load(np.array([0]))[0, 4:].any()
    assert (replace(source, latents=latents + 1).load(np.array([2]))[0, 4:] == 1).all()


def test_a_gain_makes_up_for_what_the_autoencoder_loses() -> None:
    measured = np.random.default_rng(0).normal(size=(20, 5))
    measured[:, 2] = np.nan
    assert gain_of(measured, 0.4 * measured) == pytest.approx(2.5)
    assert gain_of(measured, -measured) == 0.0
    assert gain_of(measured, 0 * measured) == 1.0
    noise = np.random.default_rng(1).normal(size=(20, 5))
    assert abs(gain_of(measured, noise)) < 0.3  # what tells nothing about volumes changes none


def test_the_run_opens_as_others_do(flow: Path) -> None:
    run = load_run(flow)
    assert run.kind == "latent_flow"
    assert run.model_config.form.startswith("flow in 2 x ")
