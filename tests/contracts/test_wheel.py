"""What is installed from a wheel, or built from the source distribution, is all of gen3d and runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from gen3d import __version__
from gen3d.doctor.packages import USES

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("gen3d", "pyproject.toml", "README.md", "LICENSE")
HOOK = "import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
"""What pip and build call, without their download of setuptools."""


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or an sdist of a source tree."""
    command = [sys.executable, "-c", HOOK.format(kind=kind), str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it as on the machine of a user."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("built")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    sdist = build("sdist", folder / "source", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return sdist, build("wheel", folder / "unpacked" / f"gen3d-{__version__}", folder)


def files_of_the_package() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gen3d").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_both_hold_every_file_of_the_package(built: tuple[Path, Path]) -> None:
    files = files_of_the_package()
    assert {Path(name).suffix for name in files} >= {".py", ".j2", ".css", ".json", ".tsv", ".cpp", ".typed"}
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        assert files <= {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("gen3d/")}
    assert held == files


def test_the_wheel_names_its_extras_and_its_command(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        described = message_from_bytes(archive.read(f"gen3d-{__version__}.dist-info/METADATA"))
        commands = archive.read(f"gen3d-{__version__}.dist-info/entry_points.txt").decode()
    assert set(USES) <= set(described.get_all("Provides-Extra", []))
    assert "gen3d = gen3d.cli:entry" in commands


def test_what_the_wheel_installs_runs_without_the_source(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Every verb's help is read from its settings, so every module that defines a verb is there.

    Before that a file of data is taken away: a sentence says so.
    """
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import pathlib
import gen3d
from gen3d.cli import main
print(gen3d.__file__)
place = pathlib.Path(gen3d.__file__).with_name("cohort") / "columns.json"
kept = place.read_bytes()
place.unlink()
assert main(["prepare", "--help"]) == 2
place.write_bytes(kept)
for name in ("register", "prepare"):
    assert main([name, "--help"]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(str(tmp_path / "site" / "gen3d"))
    assert "name in the registry" in done.stdout
    assert "columns.json: cannot be read (No such file or directory)" in done.stderr
    assert "Traceback" not in done.stderr
