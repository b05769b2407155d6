"""What is installed from a wheel, built from the source distribution, is all of gen3d and runs in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest

from gen3d import __version__
from gen3d.doctor.packages import USES
from gen3d.reference.sources import read_documents

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("gen3d", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
HOOK = "import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
"""What pip and build call, without their download of setuptools."""
SETTINGS = "configs/simulate/demo.yaml"


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


@dataclass(frozen=True)
class Installed:
    """An environment of its own with the wheel in it, and an empty folder to work in."""

    environment: Path
    package: Path
    folder: Path

    def run(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment."""
        path = f"{self.environment / 'bin'}{os.pathsep}{os.defpath}"
        given = {"PATH": path, "HOME": str(self.folder.parent), "OMP_NUM_THREADS": "1"}
        program = str(self.environment / "bin" / command)
        return subprocess.run(
            [program, *words], cwd=self.folder, env=given, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def environment(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A virtual environment in which pip has installed the wheel, and the folder of the package there.

    What gen3d requires is that of this Python: its folders stand in a .pth file, behind the environment's own, and
    Python does not read the .pth files in them, among them that of an editable gen3d.
    """
    pytest.importorskip("pip", minversion="22.3")
    folder = tmp_path_factory.mktemp("installed") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    options = ("--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "--python", python, "install", *options, built[1]]
    own = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (package,) = folder.glob("lib/python*/site-packages/gen3d")
    required = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    (package.parent / "required.pth").write_text("".join(f"{entry}\n" for entry in required))
    return folder, package


@pytest.fixture
def installed(environment: tuple[Path, Path], tmp_path: Path) -> Installed:
    (tmp_path / "empty").mkdir()
    return Installed(*environment, tmp_path / "empty")


def files_below(name: str) -> set[str]:
    """The files of a folder of the repository."""
    files = (path for path in (ROOT / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_both_hold_every_file_of_the_package_and_the_settings(built: tuple[Path, Path]) -> None:
    package, settings = files_below("gen3d"), files_below("configs")
    assert {Path(name).suffix for name in package} >= {".py", ".j2", ".css", ".json", ".tsv", ".cpp", ".typed"}
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        assert package | settings <= {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == package | {f"gen3d/{name}" for name in settings}


def test_the_wheel_names_its_extras(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        described = message_from_bytes(archive.read(f"gen3d-{__version__}.dist-info/METADATA"))
    assert set(USES) <= set(described.get_all("Provides-Extra", []))


def test_its_commands_are_installed_and_run(installed: Installed) -> None:
    place = installed.run("python", "-c", "import gen3d; print(gen3d.__file__)")
    assert Path(place.stdout.strip()).parent == installed.package
    for command, word in (("gen3d", "Verbs, in the order of the data:"), ("gen3d-bids", "participant")):
        done = installed.run(command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert word in done.stdout


def test_its_settings_are_found_from_an_empty_folder(installed: Installed) -> None:
    done = installed.run("gen3d", "simulate", SETTINGS, "--dry-run", "out=x")
    own = installed.package / SETTINGS
    assert done.stderr == f"{SETTINGS}: not in the working directory; reading {own}, which comes with gen3d.\n"
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith("to x")
    assert list(installed.folder.iterdir()) == []
    wrong = installed.run("gen3d", "reference", "configs/reference/standrad.yaml")
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("; did you mean configs/reference/standard.yaml?\n")


def test_its_reference_has_all_examples(installed: Installed) -> None:
    done = installed.run("gen3d", "reference", "--dry-run")
    assert done.returncode == 0, done.stderr
    documents = read_documents(ROOT)
    expected = f"{len(documents.settings)} settings to start from, {len(documents.howtos)} how-tos"
    assert done.stdout.splitlines()[0].endswith(expected)


def test_a_file_of_data_that_is_lost_is_a_sentence(installed: Installed) -> None:
    lost = installed.package / "cohort" / "columns.json"
    kept = lost.read_bytes()
    lost.unlink()
    try:
        done = installed.run("gen3d", "prepare", "--help")
    finally:
        lost.write_bytes(kept)
    assert done.returncode == 2
    assert "columns.json: cannot be read (No such file or directory)" in done.stderr
    assert "Traceback" not in done.stderr
