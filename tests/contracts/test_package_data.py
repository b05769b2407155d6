"""What the package reads beside its modules is shipped with it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gen3d.core.errors import UserError
from gen3d.core.package_data import package_text

ROOT = Path(__file__).parents[2]
PACKAGE, CONFIGS = ROOT / "gen3d", ROOT / "configs"
READS = (Path("core/package_data.py"), Path("serve/pages.py"))
"""Modules that read what is shipped; all others read through the first."""


def test_every_file_that_is_no_module_is_package_data() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = {path for glob in settings["tool"]["setuptools"]["package-data"]["gen3d"] for path in PACKAGE.glob(glob)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.parent.name != "__pycache__"}
    data = {path for path in files if path.suffix != ".py"}
    assert data <= shipped
    assert PACKAGE / "cohort" / "columns.json" in data
    configs = {
        path for glob in settings["tool"]["setuptools"]["package-data"]["gen3d.configs"] for path in CONFIGS.glob(glob)
    }
    assert {path for path in CONFIGS.rglob("*") if path.is_file()} == configs


def test_an_installation_that_lacks_a_file_says_how_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn_package").mkdir()
    (tmp_path / "torn_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    sentence = (
        r"torn_package/columns\.json: cannot be read \(No such file or directory\).*`pip install --force-reinstall"
    )
    with pytest.raises(UserError, match=sentence):
        package_text("torn_package", "columns.json")


def test_what_is_shipped_is_read_in_one_place() -> None:
    others = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    own_way = ("importlib.resources", "importlib import resources", "PackageLoader", "FileSystemLoader", "pkgutil")
    found = {name for name in others if any(way in (PACKAGE / name).read_text(encoding="utf-8") for way in own_way)}
    assert found <= set(READS)
