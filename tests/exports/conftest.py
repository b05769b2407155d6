"""The C++ programs, built once and kept for as long as neither their sources nor torch change."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "gen3d" / "exports" / "cpp"


@pytest.fixture(scope="session")
def programs() -> Path:
    """Folder of gen3d_predict and gen3d_train_liu; tests that need it are skipped where there is no compiler."""
    if not shutil.which("cmake") or not any(shutil.which(name) for name in ("g++", "clang++")):
        pytest.skip("no cmake or no C++ compiler here")
    content = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    name = hashlib.sha256(content + torch.__version__.encode() + torch.__path__[0].encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"gen3d-cpp-{name}"
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:  # several processes may run tests at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "gen3d_train_liu").is_file() or not (folder / "gen3d_predict").is_file():
            subprocess.run([ROOT / "launch" / "build_cpp.sh", folder, sys.executable], check=True, capture_output=True)
    return folder
