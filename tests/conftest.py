"""Shared fixtures: small scans made from the template, and the folder of real scans where there is one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch and NumPy are loaded: with two workers on two cores, more threads than one would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel as nib
import numpy as np
import pytest

from gen3d.report.report import Report
from tests.cohorts import write_cohort
from tests.explain.world import write_explained
from tests.explore.small import explore
from tests.forecast.world import write_forecasts
from tests.forecast_folder import write_judged
from tests.genotypes.people import write_genotypes
from tests.runs import fit
from tests.schedule import Schedule, seconds
from tests.stages.staged import write_stages
from tests.world import World, build
from tests.world_heads import build_heads
from tests.world_norm import build_norm

# A run of the tests that was started in the background ignores these, and so would every process that it starts.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule | None:
    """Of `--dist loadfile`: by file, and never two at once of what takes the whole machine."""
    return Schedule(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker the longest files come first; one process alone takes them in the order of their names."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: -seconds(item.nodeid))


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    """No file leaves torch with more threads than it found: with a worker per core they would wait for each other."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if before is not None:
        assert sys.modules["torch"].get_num_threads() == before, "torch's number of threads was changed"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans named by GEN3D_REAL_DATA; tests that need it are skipped without it."""
    folder = os.environ.get("GEN3D_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GEN3D_REAL_DATA names no folder of real scans")
    return Path(folder)


@pytest.fixture
def write_scan(tmp_path: Path) -> Callable[..., Path]:
    """Write a small NIfTI file: `write_scan(name, data=..., affine=...)`."""

    def write(
        name: str = "scan.nii.gz",
        data: np.ndarray | None = None,
        affine: np.ndarray | None = None,
        folder: Path = tmp_path,
    ) -> Path:
        if data is None:
            data = np.random.default_rng(0).random((12, 14, 10)).astype(np.float32)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine), path)
        return path

    return write


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"), repeats=4)


@pytest.fixture(scope="session")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(cohort, tmp_path_factory.mktemp("runs") / "voxelwise")


@pytest.fixture(scope="session")
def pca_run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(cohort, tmp_path_factory.mktemp("runs") / "pca", kind="pca", num_components=4)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Prepared, two runs with maps, latents, reconstructed and evaluation folders, and those of heads on latents."""
    world = build(tmp_path_factory.mktemp("world"))
    build_heads(world.root, world.plan)
    build_norm(world)
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
        "norm",
    )
    explained = write_explained(tmp_path_factory.mktemp("explained"))
    described = explore(world["prepared"], tmp_path_factory.mktemp("described") / "explored", fewest=2)
    forecasts = write_forecasts(tmp_path_factory.mktemp("forecasts"))
    judged = write_judged(tmp_path_factory.mktemp("judged"))
    stages = write_stages(tmp_path_factory.mktemp("stages"))
    genotypes = write_genotypes(tmp_path_factory.mktemp("genotypes"))
    inputs = (*(world[name] for name in names), explained, described, forecasts, judged, stages, genotypes)
    return Report(inputs=inputs, out=tmp_path_factory.mktemp("out") / "report").run()
