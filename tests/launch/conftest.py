"""One cohort and one uninterrupted training of one process for all launch tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen3d.cli import main
from tests.cohorts import write_cohort
from tests.launch.training import PROJECT, arguments


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("launch") / "cohort", num_controls=12, num_patients=0)


@pytest.fixture(scope="session")
def alone(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one process, not stopped by anybody."""
    out = tmp_path_factory.mktemp("alone") / "vae"
    words = [word.replace("configs/", f"{PROJECT}/configs/") for word in arguments(cohort, out)]
    assert main(words) == 0
    return out
