"""A folder of models for the tests of the server: a norm on the grid of `gen3d prepare spacing_mm=4`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gen3d.anomaly.norm.norm import Norm
from gen3d.prepare.prepare import Prepare
from tests.anomaly.norm.test_by_norm import on_the_grid
from tests.cohorts import write_cohort
from tests.runs import fit


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One norm, of sites a and b, alone in a folder."""
    home = tmp_path_factory.mktemp("served")
    cohort = write_cohort(home / "cohort", 60, 0, sites=("a", "b"), seed=3)
    on_the_grid(cohort, Prepare(source=(cohort,), out=home, spacing_mm=4).grid())
    run = fit(cohort, home / "run")
    norm = Norm.model_validate({"prepared": cohort, "run": run, "out": home / "norm"}).run()
    folder = home / "models"
    shutil.copytree(norm, folder / "norm", copy_function=shutil.copy2)
    return folder
