"""Networks among a server's models: a classifier and a fusion predict the uploaded scan, with what they were worth on others."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.folder import VERDICTS, open_prepared
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.latents.encode import Encode
from gen3d.models.supervised import classifier as classifier_module
from gen3d.serve.jobs import Given, Job
from gen3d.serve.models_folder import ServedModel, open_models
from gen3d.serve.parts import results_of
from gen3d.serve.results import Part, Results
from gen3d.serve.steps import JobSettings, JobStep, steps_of
from gen3d.train.train import Train
from gen3d.verbs import verb_class
from tests.anomaly.norm.test_by_norm import on_the_grid
from tests.cohorts import write_cohort
from tests.train.classifiers import classifier
from tests.train.fused_people import VARIANTS, fusion, write_genotypes
from tests.train.small_network import small_network

EFFECT = -0.6


@pytest.fixture(scope="module")
def labelled(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Controls and patients on the grid of the norm."""
    cohort = write_cohort(tmp_path_factory.mktemp("labelled") / "cohort", 24, 24, seed=4, effect=EFFECT, prefix="l")
    on_the_grid(cohort, open_models(models).of("norm")[0].plan)
    return cohort


def served_with(models: Path, run: Path, folder: Path) -> Path:
    """The models, and a run beside them."""
    shutil.copytree(models, folder, copy_function=shutil.copy2)
    shutil.copytree(run, folder / run.name, copy_function=shutil.copy2)
    return folder


def ran(models: Path, home: Path, verb: str, known: dict[str, str] | None = None) -> tuple[JobStep, Results]:
    """A patient's scan, prepared as the queue would have it, and the one step of a verb: the step, and what the page shows."""
    job = Job(home, Given("0" * 32, "anna", 0.0, "volume", "scan.nii", 60.0, "F", "a", known or {}))
    (home / "steps").mkdir(parents=True)
    served = open_models(models)
    steps = steps_of(job, served, JobSettings())
    (step,) = [step for step in steps if step.verb == verb]
    assert not step.lacks
    assert str(home / step.name) in steps[-1].settings["inputs"]
    prepared = write_cohort(home / "prepared", 0, 1, seed=8, effect=EFFECT, sites=("a",), prefix="x")
    on_the_grid(prepared, served.of("norm")[0].plan)
    key = open_prepared(prepared).manifest["key"].iloc[0]
    VERDICTS.write(prepared, pd.DataFrame({"key": [key], "source": "scan.nii.gz", "verdict": "keep", "reason": ""}))
    settings = {**step.settings, "subjects": ["x000"]} if "subjects" in step.settings else step.settings
    verb_class(verb).model_validate(settings).run()
    job.end(step.name, "", 0.0)
    return step, results_of(job, steps)


def predicted(models: Path, home: Path) -> tuple[JobStep, Part]:
    """A patient's scan, predicted by the one network: its step, and the part of the page."""
    step, results = ran(models, home, "predict")
    (part,) = results.parts
    return step, part


@pytest.fixture(scope="module")
def network(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small classifier of diagnosis."""
    changes: dict[str, Any] = {"model": {"crop_around": [], "grid": None}, "optim": {"steps": 40}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier_module, "build_network", small_network)
        yield Train.model_validate(classifier(labelled, tmp_path_factory.mktemp("runs") / "cnn", **changes)).run()


def test_a_classifier_predicts_the_scan_and_says_what_it_was_worth(models: Path, network: Path, tmp_path: Path) -> None:
    _, part = predicted(served_with(models, network, tmp_path / "models"), tmp_path / "job")
    assert part.title == "Prediction of diagnosis: cnn"
    said = " ".join([*part.sentences, *part.warnings])
    chance = {name: float(text.rstrip(" %")) for name, text in part.rows}
    assert chance["AD"] > chance["control"]
    assert "AD, with a calibrated probability of" in part.sentences[0]
    assert re.search(r"In cross-validation, of people with such a probability of AD \(\d+ %\) \S+ \[.*\] were AD", said)
    assert "of people that the networks never saw, AUC" in said
    assert "calibrated on people who only watched the training" in said


def test_where_a_classifier_looks_is_laid_over_the_scan(
    models: Path, network: Path, labelled: Path, tmp_path: Path
) -> None:
    """With people of its labels among the models, and the label of the scan known."""
    folder = served_with(models, network, tmp_path / "models")
    shutil.copytree(labelled, folder / "people", copy_function=shutil.copy2)
    _, results = ran(folder, tmp_path / "job", "explain", {"diagnosis": "AD"})
    (part,) = [part for part in results.parts if part.title.startswith("Where the classifier")]
    (view,) = part.views
    assert view.base is not None
    assert [layer.kind for layer in view.layers] == ["attribution"] * len(view.layers)
    assert view.layers
    assert all(results.files[layer.file].is_file() for layer in view.layers)


@pytest.fixture(scope="module")
def genotypes(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the labelled people; they tell nothing."""
    generator = np.random.default_rng(0)
    subjects = open_prepared(labelled).manifest["subject"].astype(str).tolist()
    calls = generator.binomial(2, 0.3, (len(subjects), len(VARIANTS)))
    return write_genotypes(tmp_path_factory.mktemp("genes"), labelled, subjects, calls, generator)


def test_a_fusion_predicts_by_the_scan_alone(models: Path, labelled: Path, genotypes: Path, tmp_path: Path) -> None:
    tree = fusion(labelled, genotypes, tmp_path / "fused", model={"classes": ["control", "AD"]})
    run = Train.model_validate(tree).run()
    step, part = predicted(served_with(models, run, tmp_path / "models"), tmp_path / "job")
    assert step.title.endswith("by the scan alone")
    said = " ".join([*part.sentences, *part.warnings])
    assert "A scan alone (1 row): of people that the networks never saw, AUC" in said
    assert read(tmp_path / "job" / step.name).summary["num_scans"] == 1


def test_a_network_that_reads_the_age_says_that_none_was_given(models: Path, tmp_path: Path) -> None:
    served = open_models(models)
    (norm,) = served.of("norm")
    run = ServedModel("classifier", "cnn", norm.artefact, norm.plan, "sex (F, M)", "sex", ("F", "M"), takes_age=True)
    assert run.needs.startswith("the age; ")
    given = Given("0" * 32, "anna", 0.0, "volume", "scan.nii", None, "F", "a", {})
    steps = steps_of(Job(tmp_path, given), replace(served, all=(*served.all, run)), JobSettings())
    (step,) = [step for step in steps if step.verb == "predict"]
    assert step.lacks == "This network takes the age beside the scan, and none was given."
    assert str(tmp_path / step.name) not in steps[-1].settings["inputs"]


def test_a_fusion_of_latents_needs_the_run_that_makes_them(
    models: Path, labelled: Path, genotypes: Path, tmp_path: Path
) -> None:
    pca = {"kind": "pca", "num_components": 3}
    encoder = Train.model_validate({"prepared": labelled, "model": pca, "out": tmp_path / "pca", "track": []}).run()
    latents = Encode(prepared=labelled, run=encoder, out=tmp_path / "latents").run()
    tree = fusion(labelled, genotypes, tmp_path / "fused", model={"classes": ["control", "AD"]}, optim={"steps": 4})
    run = Train.model_validate({**tree, "latents": str(latents)}).run()
    folder = served_with(models, run, tmp_path / "models")
    with pytest.raises(UserError, match=r"fused: needs the run .* that makes its latents; copy that run's folder"):
        open_models(folder)
    shutil.copytree(encoder, folder / "pca", copy_function=shutil.copy2)
    given = Given("0" * 32, "anna", 0.0, "volume", "scan.nii", 60.0, "F", "a", {})
    steps = steps_of(Job(tmp_path, given), open_models(folder), JobSettings())
    assert [step.verb for step in steps] == ["prepare", "anomaly", "encode", "predict", "report"]
    assert steps[3].needs == (steps[2].name,)
    assert steps[3].settings["latents"] == [str(tmp_path / steps[2].name)]
