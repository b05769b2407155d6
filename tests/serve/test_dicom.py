"""A zip of DICOM files in the queue: what was typed in with it counts, what the files say otherwise is told."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from gen3d.cohort.manifest import read_manifest
from gen3d.serve.jobs import UPLOAD, Given, Job
from gen3d.serve.models_folder import open_models
from gen3d.serve.parts import results_of
from gen3d.serve.steps import JobSettings, steps_of, write_table
from gen3d.verbs import verb_class
from tests.phantoms import matrix, scan_of

pytest.importorskip("pydicom")
pytest.importorskip("dicognito")
if importlib.util.find_spec("dcm2niix") is None:
    pytest.skip("dcm2niix is not installed", allow_module_level=True)

from tests.prepare.dicom.scanner import write_series
from tests.prepare.dicom.test_source import zipped

GIVEN = Given("5" * 32, "anna", 0.0, "dicom", "dicom.zip", 41.0, "M", "a", {"diagnosis": "AD"})
"""The files of `write_series` are of a woman of 70 at a scanner that no norm knows."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A head as a zip of DICOM files, uploaded with what somebody typed in."""
    home = tmp_path_factory.mktemp("job")
    scan = scan_of(matrix(), spacing_mm=1.6)
    write_series(home / "dicom", scan.data.round().astype("uint16"), scan.affine)
    (home / UPLOAD).mkdir()
    zipped(home / UPLOAD / "dicom.zip", home / "dicom")
    job = Job(home, GIVEN)
    write_table(job)
    (home / "steps").mkdir()
    return job


def test_scanner_and_labels_count_and_the_header_decides_on_age_and_sex(models: Path, job: Job) -> None:
    steps = steps_of(job, open_models(models), JobSettings())
    for step in steps[:2]:
        verb_class(step.verb).model_validate(step.settings).run()
        job.end(step.name, "", 0.0)
    row = read_manifest(job.folder / steps[0].name).iloc[0]
    assert row[["subject", "site", "sex", "diagnosis"]].tolist() == [GIVEN.subject, "a", "F", "AD"]
    assert row["age_years"] == pytest.approx(70.3)
    quality, maps = results_of(job, steps).parts
    assert [text.split(":")[0] for text in quality.warnings if text.startswith("The files say")] == [
        "The files say age 70, and 41 was typed in",
        "The files say sex F, and M was typed in",
    ]
    assert maps.title == "Against healthy controls: norm"
    assert not any(text.startswith("Not evaluable") for text in maps.sentences)


def test_without_a_chosen_scanner_the_files_name_theirs(models: Path, job: Job, tmp_path: Path) -> None:
    (tmp_path / UPLOAD).mkdir()
    other = Job(tmp_path, replace(GIVEN, site=""))
    assert "site" not in write_table(other).read_text().splitlines()[0]
    volume = Job(tmp_path, replace(GIVEN, kind="volume", site=""))
    (maps,) = [step for step in steps_of(volume, open_models(models), JobSettings()) if step.verb == "anomaly"]
    assert maps.lacks == "This norm has no controls of an unknown scanner, and none was chosen; it knows a, b."
