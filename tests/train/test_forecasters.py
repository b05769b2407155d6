"""Forecasters from scans to errors: a planted growth of ventricles is found in people whom nobody learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cli import main
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.forecast_errors import read_errors
from gen3d.cohort.seen import identities
from gen3d.core.errors import UserError
from gen3d.models.forecast.loading import FLOORS, open_forecasters
from gen3d.report.open import open_context
from gen3d.train.material_visits import VisitMaterial
from gen3d.train.section import section
from gen3d.train.train import Train
from tests.visit_cohort import write_visits

MODELS = {"deformation_rate", *FLOORS}


def rate(visitor: Any) -> float:
    return 0.12 if visitor.diagnosis == "AD" else 0.03


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visits") / "prepared"
    return write_visits(folder, rate, num_people=12, years=(0.0, 1.5, 3.0), spacing_mm=5.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People for tests of the mechanics: too coarse to measure anything."""
    folder = tmp_path_factory.mktemp("small") / "prepared"
    return write_visits(folder, rate, num_people=10, spacing_mm=8.0)


def settings(cohort: Path, out: Path, **changed: Any) -> Train:
    model = {"kind": "deformation_rate", "components": 2, "modes": 2, "error_draws": 3} | changed.pop("model", {})
    asked = {"prepared": cohort, "out": out, "model": model, "cross_fit": 3, "workers": 1, "track": []}
    return Train.model_validate(asked | {"engine": {"device": "cpu", "precision": "fp32"}} | changed)


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settings(cohort, tmp_path_factory.mktemp("runs") / "run").run()


@pytest.fixture(scope="module")
def errors(run: Path) -> pd.DataFrame:
    return read_errors(run)


def ventricles(errors: pd.DataFrame) -> pd.DataFrame:
    return errors[errors["region"].isin(["left lateral ventricle", "right lateral ventricle"])]


def test_errors_are_of_every_pair_and_model_by_members_that_never_saw_the_person(
    run: Path, errors: pd.DataFrame, cohort: Path
) -> None:
    assert set(errors["model"]) == MODELS
    pairs = errors.drop_duplicates(["model", "key_1", "key_2", "member"])
    assert (pairs.groupby("model").size() == 36).all()
    opened = open_forecasters(run)
    table = open_prepared(cohort).manifest
    person = dict(zip(table["subject"], identities(table), strict=True))
    for subject, member in errors[["subject", "member"]].drop_duplicates().itertuples(index=False):
        assert opened.judges(person[subject]) == [member]


def test_growth_is_forecast_and_tells_the_diagnoses_apart(errors: pd.DataFrame) -> None:
    found = ventricles(errors)
    yearly = found.assign(forecast=found["forecast"] / found["years"], observed=found["observed"] / found["years"])
    mean = yearly.groupby(["model", "diagnosis"])[["forecast", "observed"]].mean()
    assert mean.loc[("copy_forward", "AD"), "observed"] > 2 * mean.loc[("copy_forward", "control"), "observed"] > 0
    for model in MODELS - {"copy_forward"}:
        assert mean.loc[(model, "AD"), "forecast"] > 1.3 * mean.loc[(model, "control"), "forecast"]
    wrong = found.assign(wrong=(found["forecast"] - found["observed"]).abs()).groupby("model")["wrong"].mean()
    assert (wrong.drop("copy_forward") < 0.6 * wrong["copy_forward"]).all()
    assert (errors.loc[errors["model"] == "copy_forward", "forecast"] == 0).all()
    assert (found.loc[found["model"] == "deformation_rate", "spread"] > 0).all()
    assert (found.loc[found["model"] != "deformation_rate", "spread"] == 0).all()


def test_models_come_back_as_they_were_trained(run: Path, cohort: Path, errors: pd.DataFrame) -> None:
    opened = open_forecasters(run)
    assert opened.names == ("deformation_rate", *FLOORS)
    assert opened.longest_years == 3.0
    assert opened.coding.names == ("age_years", "sex", "diagnosis")
    material = VisitMaterial.open(settings(cohort, run))
    examination = material._examination(1)
    pair = examination.pairs.iloc[0]
    known = examination.known(int(pair["row_1"]))
    own = errors[(errors["key_1"] == pair["key_1"]) & (errors["key_2"] == pair["key_2"]) & (errors["member"] == 1)]
    for name, model in opened.forecasters(1).items():
        told = own[own["model"] == name]["forecast"].to_numpy()
        again = model.region_changes(known, [float(pair["years"])])[0]
        assert np.allclose(again[np.isfinite(again)], told, atol=1e-9)


def test_a_training_that_was_stopped_ends_with_the_same(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after, out = VisitMaterial.after, tmp_path / "run"
    run = settings(small, tmp_path / "whole").run()

    def stop(self: VisitMaterial, member: int, processes: Any) -> None:
        if member == 1:
            raise KeyboardInterrupt
        after(self, member, processes)

    monkeypatch.setattr(VisitMaterial, "after", stop)
    with pytest.raises(KeyboardInterrupt):
        settings(small, out).run()
    monkeypatch.undo()
    assert (out / "checkpoint" / "changes").is_dir()
    settings(small, out).run()
    for path in [*sorted(run.glob("members/*/*")), run / "forecast_errors.tsv"]:
        assert (out / path.relative_to(run)).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in (out / "members" / "0").iterdir()} == {
        "model.safetensors",
        *(f"{name}.safetensors" for name in FLOORS),
    }
    assert not (out / "checkpoint" / "changes").exists()


def test_a_network_starts_at_the_ridge_and_forecasts(small: Path, tmp_path: Path) -> None:
    model = {"predictor": "network", "widths": [8, 8], "stem": 1, "permuted": 1}
    out = settings(small, tmp_path / "run", model=model, cross_fit=1, optim={"steps": 3, "batch_size": 2}).run()
    opened = open_forecasters(out)
    assert opened.main_members == (0,)
    assert opened.run.num_members == 2
    found = read_errors(out)
    assert set(found["member"]) == {0, 1}
    assert np.isfinite(found["forecast"]).all()


def test_the_plan_and_the_report_tell_of_it(
    run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", f"prepared={cohort}", f"out={tmp_path / 'planned'}", "model.kind=deformation_rate"]
    assert main([*words, "model.predictor=network", "optim.batch_size=2", "--dry-run"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "visits: 36 pairs of 12 people, 1.50 to 3.00 years apart" in text
    assert "first member: 8 people are learned from, 4 are kept out and show its errors" in text
    assert "parameters: model" in text
    told = section(open_context([run]))
    assert told is not None
    lead = told.blocks[0].text
    assert "Forecasters learn from people with two visits or more, whatever the diagnosis" in lead
    assert "is forecast only by members that never learned from that person" in lead


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"prepared": None}, "deformation_rate needs prepared=FOLDER: scans of people with two visits or more"),
        ({"channels": ["log_jacobian"]}, "moves the channel t1w forward; name it in channels"),
        ({"patients": 0.5}, "learns from everybody with two visits"),
        ({"augment": {"flip": True}}, "augment.flip would put a rate into the other hemisphere"),
        ({"model": {"coding": {"a": {"codes": ["x"]}}}}, "are written by gen3d; leave them out"),
        ({"model": {"widths": [7]}}, "7 is not a multiple of 8"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    cohort: Path, tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        settings(cohort, tmp_path / "run", **changed)


def test_scans_without_deformation_are_refused(tmp_path: Path) -> None:
    flat = write_visits(tmp_path / "flat", rate, num_people=1, years=(0.0,), channels=("t1w",), spacing_mm=8.0)
    with pytest.raises(UserError, match="has no channel log_jacobian, only t1w"):
        settings(flat, tmp_path / "run").run()


@pytest.mark.parametrize(
    "words",
    [
        ["encode"],
        ["reconstruct"],
        ["anomaly"],
        ["sample", "count=1"],
        ["classify", "target=sex", "heads=[{run}]"],
        ["explain"],
        ["export-model"],
    ],
)
def test_other_verbs_refuse_it_in_one_sentence(
    words: list[str], run: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [] if words[0] in ("sample", "export-model") else [f"prepared={cohort}"]
    named = [] if words[0] == "classify" else [f"run={run}"]
    filled = [word.format(run=run) for word in words]
    assert main([*filled, *inputs, *named, f"out={tmp_path / 'out'}"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "a deformation_rate" in told or "is not a run of a classifier" in told
    assert not (tmp_path / "out" / "artefact.json").exists()
