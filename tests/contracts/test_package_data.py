"""What the package reads beside its modules is shipped with it."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gen3d"


def test_every_file_that_is_no_module_is_package_data() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = {path for glob in settings["tool"]["setuptools"]["package-data"]["gen3d"] for path in PACKAGE.glob(glob)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.parent.name != "__pycache__"}
    data = {path for path in files if path.suffix != ".py"}
    assert data <= shipped
    assert PACKAGE / "cohort" / "columns.json" in data
