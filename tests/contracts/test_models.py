"""What holds for every kind of model in the registry, and what a kind that is new to it takes: one file and one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen3d.cli import main
from gen3d.core.config import read_yaml
from gen3d.core.errors import UserError
from gen3d.imaging.plan import read_plan
from gen3d.models.base import BaseModelConfig, Statistics
from gen3d.models.forecast.loading import MATERIALS as FORECAST_MATERIALS
from gen3d.models.registry import KINDS, config_class, read_config, trained_in_steps
from gen3d.models.run import load_run
from gen3d.models.run_folder import LOG, is_baseline
from gen3d.models.weights import fill, read_weights, save_weights, statistics_in
from gen3d.report.open import open_context
from gen3d.train.log import read_log
from gen3d.train.material import TrainingMaterial
from gen3d.train.train import MATERIALS, Train
from tests.contracts.test_configs import FILES
from tests.train.conftest import write_cohort
from tests.train.fused_people import write_people
from tests.train.plans import MODELS
from tests.visit_cohort import write_visits

SHAPE = (24, 28, 24)
NUM_STEPS = 2
IMPORTED = {
    "autoencoder_kl": {"channels": (8, 8), "num_res_blocks": (1, 1), "attention_levels": (False, False)}
    | {"norm_num_groups": 8, "latent_channels": 2}
}
"""Small settings of kinds whose weights come from elsewhere; every other kind has a debug config."""

RunOf = Callable[[str], Path]


def configs_of(kind: str, folder: str) -> list[dict[str, Any]]:
    """The YAML files of a folder of configs/ that train a kind."""
    trees = [read_yaml(file) for file in FILES if file.parent.name == folder]
    return [tree for tree in trees if isinstance(tree.get("model"), dict) and tree["model"].get("kind") == kind]


TRAINED = [kind for kind in KINDS if kind not in IMPORTED]
LABELLED = [kind for kind in TRAINED if config_class(kind).material in ("labels", "stages", "modalities")]
"""Kinds that learn from a column of the table and expect nothing of a scan."""
FORECASTING = [kind for kind in TRAINED if config_class(kind).material in FORECAST_MATERIALS]
"""Kinds that tell what comes; `gen3d forecast` draws it."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort") / "prepared", shape=SHAPE)


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("visits") / "prepared"
    return write_visits(out, lambda visitor: 0.05, num_people=12, spacing_mm=8.0)


@pytest.fixture(scope="module")
def run_of(cohort: Path, visits: Path, tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """A run of a kind with the model of its debug config, made when first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run(kind: str) -> Path:
        tree = configs_of(kind, "debug")[0]
        model = tree["model"] | ({"num_components": 2} if kind == "pca" else {})
        asked: dict[str, Any] = {"model": model, "out": folder / kind, "track": []}
        asked |= {"optim": {"steps": NUM_STEPS, "batch_size": 2}, "engine": {"precision": "fp32", "device": "cpu"}}
        asked |= {"prepared": cohort, "picture_every": NUM_STEPS}
        if kind in LABELLED:
            grid = {"grid": list(SHAPE)} if "grid" in config_class(kind).model_fields else {}
            asked |= {"model": model | {"target": "sex"} | grid, "channels": ["t1w"]}
        if kind in FORECASTING:
            asked |= {"prepared": visits, "workers": 1}
        if config_class(kind).material == "modalities":
            asked["prepared"], asked["genotypes"] = write_people(folder / "fused", 16)
        if config_class(kind).material in ("latents", "latent_visits"):
            spatial = next(
                tree["model"] for tree in configs_of("vae", "debug") if tree["model"].get("latent") == "spatial"
            )
            asked["vae"] = Train.model_validate({**asked, "model": spatial, "out": folder / f"vae_of_{kind}"}).run()
            asked["model"] = model | {"conditions": ["age_years", "sex"]}
        return Train.model_validate(asked).run()

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_its_settings_name_it_and_what_it_learns_from(kind: str) -> None:
    config = config_class(kind)
    assert issubclass(config, BaseModelConfig)
    assert config.model_fields["kind"].default == kind
    assert issubclass(MATERIALS[config.material], TrainingMaterial)
    assert set(config.written_by_train) <= set(config.model_fields)
    assert KINDS[kind].title
    assert [entry.title for entry in KINDS.values()].count(KINDS[kind].title) == 1
    with pytest.raises(ValueError, match="unknown kind of model 'gan'; the kinds are vae, "):
        read_config({"kind": "gan"})


@pytest.mark.parametrize("kind", TRAINED)
def test_it_trains_or_is_fitted_and_is_drawn(kind: str, run_of: RunOf) -> None:
    run = run_of(kind)
    entries = read_log(run / LOG)
    if not load_run(run).model_config.closed_form:
        assert entries[-1]["step"] == NUM_STEPS
        assert all(np.isfinite(entry["loss"]) for entry in entries)
    else:
        assert [entry["step"] for entry in entries] == [0]
        assert entries[0]["volumes"] == (8 if kind in FORECASTING else 4)
    assert bool(list((run / "pictures").glob("member_0*.png"))) == (kind not in LABELLED + FORECASTING)


@pytest.mark.parametrize("kind", [kind for kind in TRAINED if kind not in LABELLED + FORECASTING])
def test_what_a_run_expects_is_what_its_weights_expect(kind: str, run_of: RunOf, tmp_path: Path) -> None:
    run = load_run(run_of(kind))
    model = run.member(0)
    volume = torch.rand((1, *model.volume_shape), generator=torch.Generator().manual_seed(0))
    rows = torch.zeros((1, run.num_covariates), dtype=torch.float64)
    expected = model.expect(volume, rows).mean
    assert torch.isfinite(expected).all()
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), run.plan.key, kind)
    tensors = read_weights(path, run.plan.key, kind)
    again = run.model_config.build(run.plan, run.channels, statistics_in(path, tensors), len(run.design.columns))
    fill(path, again, tensors)
    assert torch.equal(again.expect(volume, rows).mean, expected)
    assert read_config(run.model_config.model_dump(mode="json")) == run.model_config


@pytest.mark.parametrize("kind", IMPORTED)
def test_one_from_elsewhere_is_kept_and_opened_and_not_trained(kind: str, cohort: Path, tmp_path: Path) -> None:
    config = read_config({"kind": kind, **IMPORTED[kind]})
    with pytest.raises(UserError, match="is not trained by gen3d"):
        Train.model_validate({"prepared": cohort, "out": tmp_path / "run", "model": config.model_dump()}).run()
    plan = read_plan(cohort / "plan.json")
    mask = np.ones(plan.shape, bool)
    statistics = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), mask)
    model = config.build(plan, ("t1w",), statistics, 1)
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), plan.key, kind)
    tensors = read_weights(tmp_path / "weights.safetensors", plan.key, kind)
    again = config.build(plan, ("t1w",), statistics, 1)
    fill(tmp_path / "weights.safetensors", again, tensors)
    volume = torch.rand((1, *model.volume_shape))
    assert torch.equal(again.expect(volume).mean, model.expect(volume).mean)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_with_settings_to_start_from(kind: str) -> None:
    if kind in TRAINED:
        assert configs_of(kind, "debug"), f"no configs/debug/train_*.yaml trains {kind}"
        assert configs_of(kind, "train"), f"no file of configs/train trains {kind}"
    else:
        assert any(file.parent.name == "import-weights" for file in FILES)


def test_help_names_every_kind_and_each_of_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for kind, entry in KINDS.items():
        assert f"{kind} ({entry.title})" in text
        for key in config_class(kind).model_fields:
            assert f"model[kind={kind}].{key}" in text


@pytest.mark.parametrize("kind", TRAINED)
def test_the_report_calls_it_by_its_title(kind: str, run_of: RunOf) -> None:
    folder = run_of(kind)
    assert [run.name for run in open_context([folder]).opened] == [KINDS[kind].title]
    assert is_baseline(KINDS[kind].title) == KINDS[kind].baseline
    assert load_run(folder).artefact.summary["form"] == load_run(folder).model_config.form


def test_every_kind_that_trains_in_steps_is_planned_in_the_tests_of_the_planner() -> None:
    assert {config.kind for config in MODELS.values()} == {kind for kind in KINDS if trained_in_steps(kind)}


def test_a_new_model_is_one_file_and_one_line(cohort: Path, tmp_path: Path) -> None:
    """It is planned, trained, opened and reconstructed, and latent diffusion runs on it, by code that does not know it."""
    settings = ["channels=[t1w]", "optim.steps=3", "optim.batch_size=2", "engine.precision=fp32", "track=[]"]
    smoother = ["train", f"prepared={cohort}", f"out={tmp_path / 'run'}", "model.kind=smoother", *settings]
    sizes = {"base_channels": 16, "max_channels": 16, "head_channels": 8}
    narrow = [f"model.{name}={size}" for name, size in sizes.items()]
    diffusion = ["train", f"prepared={cohort}", f"vae={tmp_path / 'run'}", f"out={tmp_path / 'ldm'}"]
    commands = [
        ["train", "--help"],
        [*smoother, "--dry-run"],
        smoother,
        ["reconstruct", f"prepared={cohort}", f"run={tmp_path / 'run'}", f"out={tmp_path / 'reconstructed'}"],
        [*diffusion, "model.kind=latent_diffusion", *narrow, *settings],
    ]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    process = [sys.executable, "-m", "tests.contracts.train_new_model", str(tmp_path / "commands.json")]
    done = subprocess.run(process, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "smoother (Smoother)" in text
    assert "model[kind=smoother].width" in text
    assert "parameters: model" in text
    losses = [entry["loss"] for entry in read_log(tmp_path / "run" / LOG)]
    assert losses
    assert np.isfinite(losses).all()
    assert (tmp_path / "run" / "pictures" / "member_0_step_000003.png").is_file()
    assert (tmp_path / "reconstructed" / "artefact.json").is_file()
    assert read_yaml(tmp_path / "ldm" / "config.yaml")["model"]["autoencoder"] == {"kind": "smoother", "width": 2}
