"""`gen3d register`: a run in MLflow's registry, opened by MLflow itself, and the sentences where it cannot be."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.seen import identities
from gen3d.cohort.target import Target
from gen3d.core.config import load
from gen3d.core.errors import UserError
from gen3d.exports.register import Register
from gen3d.exports.registered import UNKNOWN, RegisteredRun
from gen3d.exports.registered_folder import open_registered
from gen3d.models.run import covariates_of, load_run
from gen3d.train.tracking import mlflow_store
from tests.exports.classifier_run import write_run
from tests.runs import fit


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a run, which takes MLflow seconds to make."""
    pytest.importorskip("mlflow")
    home = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(mlflow_store.URI, raising=False)
        mlflow_store.open_store(home)
    return home / mlflow_store.DATABASE


@pytest.fixture(scope="module")
def runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    fit(cohort, folder / "pca", kind="pca", num_components=4, cross_fit=3)
    fit(cohort, folder / "voxelwise")
    return folder


@pytest.fixture
def home(tables: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(mlflow_store.URI, raising=False)
    shutil.copytree(runs, tmp_path / "runs")
    shutil.copy(tables, tmp_path / "runs" / mlflow_store.DATABASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def by_name(home: Path) -> Iterator[Callable[[str], Any]]:
    """Open a model as a user of MLflow does, by its address."""
    mlflow = mlflow_store.load_mlflow()
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(mlflow_store.store_uri(home))
    mlflow.set_registry_uri(mlflow_store.store_uri(home))

    def opened(address: str) -> Any:
        with mlflow_store.unwarned():
            return mlflow.pyfunc.load_model(address)

    yield opened
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def register(run: Path, name: str, *more: str) -> Path:
    return load(Register, None, [f"run={run}", f"name={name}", *more]).run()


def test_mlflow_opens_a_run_by_name_and_answers_as_gen3d_does(
    home: Path, cohort: Path, by_name: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = register(home / "pca", "pca", "alias=champion")
    assert folder == home / "registered" / "pca"
    assert open_registered(folder).name == "models:/pca/1"

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something is unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    model = by_name("models:/pca@champion")
    prepared, run = open_prepared([cohort]), load_run(home / "pca")
    table = prepared.manifest[prepared.manifest["role"] != "excluded"].reset_index(drop=True)
    answers = model.predict(str(cohort))
    assert list(answers["key"]) == list(table["key"])
    people = identities(table)
    for index in (0, len(table) - 1):
        row, volume = table.iloc[index], prepared.load([table["key"][index]], run.channels)[0]
        expectation = run.expect(volume, people[index], covariates_of(run, row))
        assert expectation is not None
        rest = (volume - expectation[0])[:, prepared.mask]
        assert answers["rms_t1w"][index] == pytest.approx(float(np.sqrt((rest[0] ** 2).mean())), rel=1e-5)
        assert answers["members"][index] == " ".join(map(str, run.seen.blind_to(people[index])))
    volumes = prepared.load(list(table["key"][:2]), run.channels)
    expected = model.predict(volumes)
    assert expected.shape == volumes.shape
    covariates = run.covariates_of([np.nan], [""], [""])[0]
    alone = run.expect(volumes[0], UNKNOWN, covariates)
    assert alone is not None
    np.testing.assert_array_equal(expected[0], alone[0])


def test_nothing_is_said_of_people_whom_every_member_saw(home: Path, cohort: Path) -> None:
    run = RegisteredRun.open(home / "voxelwise")
    answers = run.predict(pd.DataFrame({"folder": [str(cohort)]}))  # as a server passes a path on
    seen = run.run.seen.by_any(open_prepared([cohort]).manifest.query("role != 'excluded'"))
    assert 0 < int(np.sum(seen)) < len(answers)
    assert (answers["rms_t1w"].isna() == np.asarray(seen)).all()
    assert (answers.loc[np.asarray(seen), "members"] == "").all()


@pytest.mark.parametrize("task", ["categories", "number"])
def test_a_classifier_answers_with_probabilities_or_a_number(cohort: Path, tmp_path: Path, task: str) -> None:
    target = (
        Target("diagnosis", "categories", ("CN", "AD")) if task == "categories" else Target("age_years", "number", ())
    )
    network = {"network": {"kind": "liu", "width": 1}, "grid": (87, 87, 87)}
    folder = write_run(tmp_path / "cnn", cohort, target, ("t1w",), **network)
    run = RegisteredRun.open(folder)
    answers = run.predict(str(cohort))
    if task == "number":
        assert np.isfinite(answers["predicted"]).all()
    else:
        np.testing.assert_allclose(answers[["p_CN", "p_AD"]].sum(axis=1), 1, rtol=1e-6)
        assert set(answers["predicted"]) <= {"CN", "AD"}


def test_a_name_holds_versions_and_an_alias_moves(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = register(home / "pca", "model", "alias=champion", f"out={home / 'one'}")
    second = register(home / "voxelwise", "model", "alias=champion", f"out={home / 'two'}")
    assert [open_registered(folder).name for folder in (first, second)] == ["models:/model/1", "models:/model/2"]
    client = mlflow_store.open_store(home).client
    assert int(client.get_model_version_by_alias("model", "champion").version) == 2
    register(home / "pca", "model", "alias=champion", f"out={home / 'one'}")
    assert "finished before" in capsys.readouterr().out
    register(home / "pca", "model", "alias=former", f"out={home / 'one'}")  # another alias of the same version
    assert int(client.get_model_version_by_alias("model", "former").version) == 1
    assert len(client.search_model_versions("name='model'")) == 2


def test_registering_goes_on_where_it_was_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped after the version was made and before the folder was finished."""
    with monkeypatch.context() as patch:
        patch.setattr("gen3d.exports.register.write_registered", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            register(home / "pca", "model")
    assert open_registered(register(home / "pca", "model")).name == "models:/model/1"
    assert len(mlflow_store.open_store(home).client.search_model_versions("name='model'")) == 1


def test_the_copy_of_the_run_is_a_run_folder_and_its_seal_is_checked(home: Path) -> None:
    folder = open_registered(register(home / "pca", "model"))
    assert load_run(folder.run_folder).artefact.key == load_run(home / "pca").artefact.key
    (folder.run_folder / "config.yaml").write_text("model: {kind: pca}\n")
    with pytest.raises(UserError, match="was changed after"):
        RegisteredRun.open(folder.run_folder)


def test_what_cannot_be_registered_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow_store.open_store(home).client.create_registered_model("theirs")
    with pytest.raises(UserError, match=r"name=theirs: taken in .*mlflow\.db by a model that gen3d did not register"):
        register(home / "pca", "theirs")
    for key, sentence in (("name=a/b", "is no name of a model"), ("alias=v2", "is no alias")):
        with pytest.raises(UserError, match=sentence):
            load(Register, None, [f"run={home / 'pca'}", "name=x", key])
    with pytest.raises(UserError, match="no such folder"):
        register(home / "absent", "x")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setenv(mlflow_store.URI, f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(UserError, match=r"the model registry cannot be used .*; start the server, or `unset"):
            register(home / "pca", "x")


def test_what_a_model_is_asked_must_fit(home: Path, tmp_path: Path) -> None:
    run = RegisteredRun.open(home / "pca")
    for asked, sentence in (
        (np.zeros((1, 2, 3, 3, 3), np.float32), "do not fit"),
        (np.full((2, *run.run.plan.shape), np.nan, np.float32), "hold NaN"),
        (7, "takes one prepared folder"),
        (str(tmp_path / "absent"), "no such folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            run.predict(asked)


def test_the_command_of_mlflow_predicts(home: Path, cohort: Path, tmp_path: Path) -> None:
    folder = register(home / "pca", "model")
    asked, answer = tmp_path / "asked.json", tmp_path / "answer.json"
    asked.write_text(json.dumps({"inputs": [str(cohort)]}))
    words = ["models", "predict", "-m", str(folder / "model"), "-i", str(asked), "-o", str(answer), "-t", "json"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mlflow", *words, "--env-manager", "local"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(answer.read_text())["predictions"]
    assert len(rows) == int((open_prepared([cohort]).manifest["role"] != "excluded").sum())
    assert all(row["rms_t1w"] > 0 for row in rows if row["members"])
