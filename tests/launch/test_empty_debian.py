"""launch/container/install.sh in an empty Debian, to the end of the demo; 20 to 40 minutes, so only where it is asked for.

Skipped without GEN3D_TEST_DEBIAN=1, root and debootstrap. TORCH, TORCH_INDEX, EXTRAS, MIRROR and MOUNT are passed on.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.launch.training import LAUNCH, lacks, shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * 3600)]

SUITE = os.environ.get("GEN3D_TEST_DEBIAN_SUITE", "bookworm")
DEFAULTS = {"TORCH": "torch==2.13.0", "EXTRAS": "none"}


@pytest.mark.skipif(
    os.environ.get("GEN3D_TEST_DEBIAN") != "1", reason="takes 20 to 40 minutes: set GEN3D_TEST_DEBIAN=1"
)
def test_gen3d_is_installed_into_an_empty_debian_and_runs_its_demo(tmp_path: Path) -> None:
    if lacks("debootstrap"):
        pytest.skip(lacks("debootstrap"))
    debian, log = tmp_path / "debian", tmp_path / "log.txt"
    given = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    try:
        with log.open("wb") as told:
            done = subprocess.run(
                [LAUNCH / "container" / "empty_debian.sh", SUITE, debian],
                env=DEFAULTS | given,
                stdout=told,
                stderr=subprocess.STDOUT,
                check=False,
            )
        assert done.returncode == 0, log.read_text(errors="replace")[-5000:]
        assert (debian / "data" / "demo" / "report" / "index.html").is_file()
    finally:  # several GB that pytest would keep; the mounts inside ended with the script
        shell("rm", "-rf", "--one-file-system", debian)
