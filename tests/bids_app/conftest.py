"""A norm at 4 mm, and a raw BIDS dataset of three people with one scan or two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gen3d.anomaly.norm.norm import Norm
from gen3d.prepare.prepare import Prepare
from tests.anomaly.norm.test_by_norm import on_the_grid
from tests.cohorts import write_cohort
from tests.phantoms import matrix, scan_of, write
from tests.runs import fit

PEOPLE = "participant_id\tage\tsex\tsite\nsub-01\t61\tF\ta\nsub-02\t70\tM\tb\nsub-03\t55\tF\ta\n"


@pytest.fixture(scope="session")
def small_norm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("app_norm")
    cohort = write_cohort(home / "cohort", 60, 0, sites=("a", "b"), seed=3)
    on_the_grid(cohort, Prepare(source=(cohort,), out=home, spacing_mm=4).grid())
    run = fit(cohort, home / "run")
    return Norm.model_validate({"prepared": cohort, "run": run, "out": home / "adult"}).run()


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sub-01 with one scan, sub-02 with two sessions, sub-03 with a file that is no image; sub-04 without T1w."""
    folder = tmp_path_factory.mktemp("app_raw") / "study"
    for number, place in enumerate(("sub-01", "sub-02/ses-a", "sub-02/ses-b")):
        name = place.replace("/", "_")
        moved = matrix((8.0 - 3 * number, -4.0, 5.0))
        write(folder / place / "anat" / f"{name}_T1w.nii.gz", scan_of(moved, 4.0, seed=number))
        (folder / place / "anat" / f"{name}_T1w.json").write_text('{"MagneticFieldStrength": 3}\n')
    broken = folder / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not an image")
    (folder / "sub-04" / "anat").mkdir(parents=True)
    (folder / "participants.tsv").write_text(PEOPLE, encoding="utf-8")
    described = {"Name": "A study", "BIDSVersion": "1.10.0", "DatasetDOI": "doi:10.18112/openneuro.ds0.v1"}
    (folder / "dataset_description.json").write_text(json.dumps(described), encoding="utf-8")
    return folder
