"""One complete set of folders and one report of it, shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen3d.report.report import Report
from tests.report.folders import World, build
from tests.report.heads_folders import build_heads


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Prepared, two runs with maps, latents, reconstructed and evaluation folders, and those of heads on latents."""
    world = build(tmp_path_factory.mktemp("world"))
    build_heads(world.root, world.plan)
    return world


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
        "heads/ad",
        "strata",
        "latents_h",
        "predictions",
    )
    return Report(inputs=tuple(world[name] for name in names), out=tmp_path_factory.mktemp("out") / "report").run()
