"""One complete set of folders and one report of it, shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen3d.report.report import Report
from tests.report.folders import World, build


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Prepared, two runs with maps, latents, reconstructed and evaluation folders."""
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def report(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of everything in the world."""
    names = (
        "latents",
        "maps/vae",
        "prepared",
        "evaluation",
        "maps/pca",
        "reconstructed",
        "runs/pca",
        "runs/vae",
        "change",
        "quality",
        "synthetic",
    )
    return Report(inputs=tuple(world[name] for name in names), out=tmp_path_factory.mktemp("out") / "report").run()
