"""`gen3d sweep`: what it refuses before it starts, and a whole sweep that is stopped, goes on, and is looked at again."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from gen3d.cli import main
from gen3d.train.tracking import mlflow_store
from gen3d.train.tracking.sinks import TRACKED_WITHIN
from tests.cohorts import write_cohort
from tests.train.conftest import write_cohort as write_small_cohort
from tests.train.wandb_records import begun_in

TRAIN = {"model": {"kind": "pca"}, "channels": ["t1w"], "engine": {"threads": 1}, "track": []}
SETTINGS = {
    "prepared": "cohort",
    "steps": {"train": {"settings": TRAIN}, "reconstruct": {"settings": {"run": "{train}"}}},
    "vary": {"train.model.num_components": [4, 500]},
    "discard": ["reconstruct/volumes"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the settings of a sweep."""
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    return tmp_path


def table(path: str = "out/trials.tsv") -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def stop_when(number: int, words: list[str], reached: Callable[[], bool]) -> None:
    """Run gen3d in a process of its own, and send it a signal once something is reached."""
    with subprocess.Popen([sys.executable, "-m", "gen3d", *words], stderr=subprocess.PIPE, text=True) as process:
        while not reached():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        process.wait()
        if number == signal.SIGTERM:
            assert process.stderr is not None
            assert "stopped by SIGTERM" in process.stderr.read()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["vary={train.model.num_component: [1]}"], "step train with train.model.num_component = 1: "),
        (["vary={train.model.num_component: [1]}"], "did you mean `num_components`?"),
        (["vary={train.model.num_components: [3, -1]}"], "step train with train.model.num_components = -1: "),
        (["vary={trian.seed: [1]}"], "`trian` is not a step of this sweep; did you mean `train`?"),
        (["vary={train: [1]}"], "names a step but no key of it"),
        (["vary={}"], "vary is empty"),
        (["vary={train.seed: []}"], "train.seed: the list of values is empty"),
        (["vary={train.seed: 3}"], "3 is neither a list of values nor a range"),
        (["vary={train.seed: {low: 1, high: 5, step: 2}}"], "a range has the keys low, high and log, not step"),
        (["vary={train.seed: {low: 5, high: 1}}", "search=random"], "low=5 must be less than high=1"),
        (["vary={train.seed: {low: 1, high: 5}}"], "search=grid needs lists, but train.seed is a range"),
        (["steps={}"], "steps is empty"),
        (["steps={train: {file: nowhere.yaml}}"], "no such configuration file"),
        (["steps={fit: {settings: {}}}", "vary={fit.seed: [1]}"], "`fit` is not a verb of a trial"),
        (
            ["steps.reconstruct.settings.run='{trian}'"],
            "`{trian}` names no earlier step of the trial; did you mean `train`?",
        ),
        (["steps.reconstruct.settings.sample=3"], "step reconstruct: `sample` is not a key of `reconstruct`"),
        (["objective.step=evaluate"], "objective.step: `evaluate` is not a step of this sweep"),
        (["prune={step: fit}"], "prune.step: `fit` is not a step of this sweep"),
        (["task=0"], "run the sweep itself first"),
        (["prepared=nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_mistakes_are_said_before_anything_is_started(
    here: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "prepared=nowhere" not in words:
        Path("cohort").mkdir()
    assert main(["sweep", "sweep.yaml", "out=out", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not Path("out/trials").exists()


def test_without_optuna_or_submitit_a_sweep_is_refused_with_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cohort").mkdir()
    for package, module, words in (("submitit", "slurm", ["where=slurm"]), ("optuna", "search", [])):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"gen3d.sweep.{module}", raising=False)
        assert main(["sweep", "sweep.yaml", "out=out", *words]) == 2
        assert 'is not installed here: pip install "gen3d[sweep]"' in capsys.readouterr().err
        assert not Path("out/trials").exists()


def test_a_dry_run_lists_the_trials(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "sweep.yaml", "out=out", "--dry-run"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "trial 1: train.model.num_components = 500" in shown
    assert "objective: maximise psnr (role calibration) of reconstruct" in shown
    assert main([*words, "search=random", "trials=7", "vary.train.model.num_components={low: 1, high: 9}"]) == 0
    assert "whole numbers from 1 to 9" in capsys.readouterr().out
    assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.multi
def test_a_sweep_is_killed_and_stopped_goes_on_and_is_looked_at_again(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(here / "cohort", num_controls=24, num_patients=1)
    words = ["sweep", "sweep.yaml", "out=out"]
    stop_when(signal.SIGKILL, words, lambda: Path("out/trials/0000/train.log").is_file())
    stop_when(signal.SIGTERM, words, lambda: Path("out/trials/0001/train.log").is_file())
    assert [row["status"] for row in table()] == ["done", "stopped"]
    written = (here / "out/trials/0000/train/artefact.json").stat().st_mtime_ns

    assert main(words) == 0
    shown = capsys.readouterr().out
    assert written == (here / "out/trials/0000/train/artefact.json").stat().st_mtime_ns
    rows = table()
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert "model.num_components=500 needs more than 500 training volumes" in rows[1]["error"]
    assert rows[1]["objective"] == "n/a"
    metrics = pd.read_csv(Path(rows[0]["folder"]) / "reconstruct" / "metrics.tsv", sep="\t")
    mean = metrics[metrics["role"] == "calibration"]["psnr"].mean()  # computed another way
    assert float(rows[0]["objective"]) == pytest.approx(mean, rel=1e-5)
    assert not Path("out/trials/0000/reconstruct/volumes").exists()
    assert "best: trial 0 with psnr" in shown
    assert "failed: trial 1; " in shown
    chosen = yaml.safe_load(Path("out/best.yaml").read_text())
    assert chosen["model"]["num_components"] == 4
    assert main(["train", "out/best.yaml", "out=again", "--show"]) == 0
    with Image.open("out/sweep.png") as picture:
        assert min(picture.size) > 300
    assert json.loads(Path("out/artefact.json").read_text())["summary"]["trials"] == {"done": 1, "failed": 1}

    # Another objective: read from what is there, nothing is trained again.
    assert main([*words, "objective.key=mse", "objective.direction=minimise"]) == 0
    assert "best: trial" in capsys.readouterr().out
    assert float(table()[0]["objective"]) < 1
    assert main([*words, "objective.key=rmse"]) == 2
    assert "has no `rmse`; there are mse" in capsys.readouterr().err
    assert written == (here / "out/trials/0000/train/artefact.json").stat().st_mtime_ns
    assert main([*words, "vary={train.model.num_components: [1, 2]}"]) == 2
    assert "holds a result of other settings" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.multi
def test_trials_at_the_same_time_are_recorded_within_their_sweep(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In MLflow as runs within a run, in a store that the first of them makes; in Weights & Biases as one group."""
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    for name in (mlflow_store.URI, "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT", TRACKED_WITHIN):
        monkeypatch.delenv(name, raising=False)
    write_small_cohort(here / "cohort")
    changes = {
        "steps": {"train": {"settings": TRAIN | {"track": ["mlflow", "wandb"]}}},
        "vary": {"train.model.num_components": [1, 2]},
        "objective": {"file": "log.jsonl", "key": "volumes", "where": {}},
        "discard": [],
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(SETTINGS | changes, sort_keys=False))
    assert main(["sweep", "sweep.yaml", "out=out", "parallel=2"]) == 0
    assert [row["status"] for row in table()] == ["done", "done"]

    store = mlflow_store.open_store(here)
    runs = {run.info.run_name: run for run in store.client.search_runs([store.experiment()])}
    assert set(runs) == {"out", "trials/0000/train", "trials/0001/train"}
    parent = runs.pop("out")
    assert "mlflow.parentRunId" not in parent.data.tags
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in (parent, *runs.values())} == {"FINISHED"}
    given = {name: run.data.params["model.num_components"] for name, run in runs.items()}
    assert given == {"trials/0000/train": "1", "trials/0001/train": "2"}

    begun = [begun_in(path) for path in (here / "wandb").glob("offline-run-*/run-*.wandb")]
    assert {(run.display_name, run.run_group) for run in begun} == {(name, "out") for name in runs}
    assert len({run.run_id for run in begun}) == len(begun) == 2
