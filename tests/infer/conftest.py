from __future__ import annotations

from pathlib import Path

import pytest

from gen3d.train.train import Train
from tests.cohorts import write_cohort


def fit(prepared: Path, out: Path, **model: object) -> Path:
    """A run of a closed-form model on both channels."""
    cross_fit = model.pop("cross_fit", 1)
    keys = {"prepared": prepared, "out": out, "model": {"kind": "voxelwise", **model}, "cross_fit": cross_fit}
    return Train.model_validate({**keys, "tensorboard": False}).run()


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"), repeats=4)


@pytest.fixture(scope="session")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(cohort, tmp_path_factory.mktemp("runs") / "voxelwise")


@pytest.fixture(scope="session")
def pca_run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(cohort, tmp_path_factory.mktemp("runs") / "pca", kind="pca", num_components=4)
