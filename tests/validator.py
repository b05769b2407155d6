"""What the BIDS validator says of a dataset; a test that asks is skipped where the validator is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def _program() -> str | None:
    beside = str(Path(sys.executable).parent)
    return shutil.which("bids-validator-deno", path=beside) or shutil.which("bids-validator-deno")


def is_installed() -> bool:
    """Whether it can be asked."""
    return _program() is not None


def bids_errors(dataset: Path) -> list[tuple[str, str]]:
    """(code, file) of every error. `bids-validator-deno` of PyPI holds the schema, so that it needs no network."""
    program = _program()
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([program, "--format", "json", str(dataset)], capture_output=True, text=True, check=False)
    said = json.loads(done.stdout)
    assert said["summary"]["totalFiles"] > 3, "the validator saw the dataset"
    issues = [issue for issue in said["issues"]["issues"] if issue["severity"] == "error"]
    return sorted((str(issue["code"]), str(issue.get("location", ""))) for issue in issues)
