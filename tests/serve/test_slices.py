"""The published walk: one slice is uploaded with its stage, and every later stage that a chain makes of it is shown."""

from __future__ import annotations

import io
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gen3d.prepare.slices import PrepareSlices
from gen3d.serve.jobs import UPLOAD, Given, Job, Jobs
from gen3d.serve.models_folder import ServedModels, open_models
from gen3d.serve.parts import results_of
from gen3d.serve.steps import JobSettings, steps_of
from gen3d.serve.uploads import store
from gen3d.serve.worker import Worker
from tests.stages.staged import RADII, STAGES, head, train_chain

SIZE = (32, 32, 1)


def picture(person: int, stage: int) -> bytes:
    """A slice of a person at a stage, as a PNG."""
    written = io.BytesIO()
    grey = (200 * np.clip(head(person, RADII[stage], SIZE)[:, :, 0], 0, 1.2)).astype(np.uint8)
    Image.fromarray(np.flipud(grey.T)).save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ServedModels:
    """A chain that was trained for two steps on one slice of each of twelve people."""
    home, rows = tmp_path_factory.mktemp("slices"), []
    for person in range(12):
        (home / f"{person}.png").write_bytes(picture(person, person % 3))
        rows.append(
            {"subject": f"p{person}", "slice": 1, "path": f"{person}.png", "cdr": STAGES[person % 3], "diagnosis": "CN"}
        )
    pd.DataFrame(rows).to_csv(home / "slices.csv", index=False)
    split = {"train": 1, "calibration": 0, "test": 0}
    prepared = PrepareSlices.model_validate(
        {"source": home / "slices.csv", "out": home / "prepared", "split": split, "workers": 1}
    ).run()
    train_chain(home / "models" / "chain", prepared, steps=2, slices=1)
    return open_models(home / "models")


def job_of(models: ServedModels, folder: Path, stage: str) -> Job:
    jobs = Jobs(folder / "jobs")
    job_id, coming = jobs.new("anna")
    content = picture(50, 0)
    stored = store(io.BytesIO(content), len(content), coming / UPLOAD)
    labels = {"cdr": stage}
    return jobs.add(Given(job_id, "anna", time.time(), stored.kind, stored.path.name, 70.0, "F", "", labels), coming)


def test_the_chain_is_listed_with_what_it_needs(models: ServedModels) -> None:
    (chain,) = models.all
    assert (models.takes_slices, models.takes_volumes) == (True, False)
    assert chain.needs == "the stage today (cdr)"
    assert models.labels == {"cdr": STAGES}


def test_a_slice_is_sent_to_every_later_stage(models: ServedModels, tmp_path: Path) -> None:
    job, over = job_of(models, tmp_path, "0"), []
    worker = Worker(Jobs(tmp_path / "jobs"), models, JobSettings(), 10, over.append)
    worker._work_on(job)
    ends = {step.name: job.end_of(step.name) for step in steps_of(job, models, JobSettings())}
    assert {name: end.sentence for name, end in ends.items() if end} == {"prepared_1": "", "stages_1": ""}
    assert (over, job.state) == ([job], "done")
    found = results_of(job, steps_of(job, models, JobSettings()))
    (part,) = [part for part in found.parts if part.views]
    assert [layer.name for layer in part.views[0].layers] == ["Today", "Made: 0.5", "Made: 1"]
    assert "compared with nobody" in part.sentences[0]
    today, made, last = (np.asarray(nib.load(found.files[layer.file]).dataobj) for layer in part.views[0].layers)
    assert today.shape == made.shape == last.shape == SIZE
    assert today.std() > 0.1
    assert not np.array_equal(today, made)


def test_without_a_stage_nothing_is_sent_and_the_page_says_why(models: ServedModels, tmp_path: Path) -> None:
    for stage, sentence in (("", "which was not given"), ("1", "has no later stage")):
        job = job_of(models, tmp_path / (stage or "none"), stage)
        (step,) = [step for step in steps_of(job, models, JobSettings()) if step.verb == "stages"]
        assert sentence in step.lacks
