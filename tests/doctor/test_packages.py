"""Requirements that are too old or not there, and extras with the command that installs them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gen3d.doctor import packages
from gen3d.doctor.finding import State


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that the environment is made to have; others are not installed."""
    versions = {"torch": "2.13.0+cpu", "numpy": "2.1.0", "tensorboard": "2.18"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    listed = ["torch>=2.8", "numpy>=2.0", 'tensorboard>=2.17; extra == "tracking"', 'optuna>=5; extra == "sweep"']
    monkeypatch.setattr(packages.importlib.metadata, "version", version)
    monkeypatch.setattr(packages.importlib.metadata, "requires", lambda _: listed)
    monkeypatch.setattr(packages.importlib.metadata, "files", lambda _: [])
    return versions


def found(installed: Any) -> dict[str, Any]:
    return {finding.what: finding for finding in packages.package_findings()}


def test_what_is_complete_is_good_and_a_missing_extra_has_its_command(installed: dict[str, str]) -> None:
    lines = found(installed)
    assert lines["requirements"].state is State.GOOD
    assert lines["requirements"].text == "all 2 are installed"
    assert lines["extra tracking"].state is State.GOOD
    assert lines["extra sweep"].state is State.MISSING
    assert "optuna is not installed" in lines["extra sweep"].text
    assert lines["extra sweep"].remedy == "pip install 'gen3d[sweep]'"


def test_a_requirement_that_is_too_old_or_not_there_is_harmful(installed: dict[str, str]) -> None:
    installed["torch"] = "2.1.0"
    del installed["numpy"]
    line = found(installed)["requirements"]
    assert line.state is State.HARMFUL
    assert "torch is 2.1.0, needed is >=2.8" in line.text
    assert "numpy is not installed" in line.text


def test_an_installation_that_lost_a_file_is_harmful(
    installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [importlib.metadata.PackagePath(f"gen3d/{name}") for name in ("cli.py", "columns.json", "lost.pyc")]
    for path in listed:
        path.dist = SimpleNamespace(locate_file=tmp_path.joinpath)  # type: ignore[assignment]
    monkeypatch.setattr(packages.importlib.metadata, "files", lambda _: listed)
    (tmp_path / "gen3d").mkdir()
    for name in ("cli.py", "columns.json"):
        (tmp_path / "gen3d" / name).touch()
    assert found(installed)["gen3d"].state is State.GOOD
    (tmp_path / "gen3d" / "columns.json").unlink()
    line = found(installed)["gen3d"]
    assert line.state is State.HARMFUL
    assert "lacks gen3d/columns.json" in line.text
    assert line.remedy == "pip install --force-reinstall --no-deps gen3d"


def test_gen3d_that_is_not_installed_is_harmful(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError("gen3d")

    monkeypatch.setattr(packages.importlib.metadata, "requires", none)
    assert found(None)["gen3d"].state is State.HARMFUL


def test_every_extra_of_users_says_what_it_is_for() -> None:
    listed = {name for _, name in packages._requirements() or [] if name} - set(packages.UNUSED_EXTRAS)
    assert listed == set(packages.USES)


def test_a_torch_that_cannot_be_imported_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Any:
        raise OSError("libtorch.so: undefined symbol")

    monkeypatch.setattr(packages.importlib, "import_module", broken)
    (finding,) = packages.torch_findings()
    assert finding.state is State.HARMFUL
    assert "undefined symbol" in finding.text


def test_a_gpu_that_torch_cannot_use_is_harmful(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU that torch can use")
    monkeypatch.setattr(packages.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    gpu = packages._gpus(torch)
    assert gpu.state is State.HARMFUL
    assert gpu.remedy.startswith("pip install")
