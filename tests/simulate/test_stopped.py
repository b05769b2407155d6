"""A verb that is stopped or killed takes its workers along, and the same command ends with what one process makes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gen3d.cli import main
from gen3d.core.artefact import read
from gen3d.imaging.volume import read_map
from gen3d.simulate.making import CACHE
from tests.core.test_pool import all_gone

PEOPLE = 6
BEGUN_S = 400.0


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_killed_and_stopped_it_leaves_no_worker_and_ends_with_the_cohort_of_one_process(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    settings = [
        f"subjects={PEOPLE}",
        "spacing_mm=4",
        "figures=false",
        "conditions={a: {kind: 'null', count: 1}}",
        "seed=3",
    ]
    command = [sys.executable, "-m", "gen3d", "simulate", *settings, f"out={out}", "workers=2"]

    def made() -> int:
        return len(list((out / CACHE).glob("*.json")))

    for number in (signal.SIGKILL, signal.SIGTERM):
        before = made()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            end = time.monotonic() + BEGUN_S
            while made() == before and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            workers = children(process.pid)
            assert len(workers) >= 2, "it ended before it could be stopped"
            process.send_signal(number)
            told = process.communicate()[1]
        assert all_gone(workers)
        assert before < made() < PEOPLE
        if number == signal.SIGTERM:
            assert process.returncode == 128 + number
            assert told == (
                "gen3d: Stopped by SIGTERM. What was finished is kept; the same command goes on from there.\n"
            )
    assert main(["simulate", *settings, f"out={out}", "workers=1"]) == 0
    assert read(out, ("simulate",)).summary["num_scans"] == PEOPLE

    one = tmp_path / "one"
    assert main(["simulate", *settings, f"out={one}", "workers=1"]) == 0
    files = sorted(path.relative_to(one) for path in one.rglob("*.nii*"))
    assert len(files) == 2 + PEOPLE * 4
    for file in files:
        np.testing.assert_array_equal(read_map(one / file), read_map(out / file), err_msg=str(file))
    for table in ("manifest.tsv", "truth/truth_volumes.tsv"):
        assert (one / table).read_bytes() == (out / table).read_bytes()
