"""A sweep as an array of tasks of a real SLURM with two nodes on this machine; skipped without root or SLURM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gen3d.cli import main
from tests.cohorts import write_cohort
from tests.launch.test_slurm import cluster  # noqa: F401 (a fixture)
from tests.launch.training import shell, wait_until

pytestmark = [pytest.mark.multi, pytest.mark.slow, pytest.mark.timeout(1200)]

SWEEP = """
prepared: cohort
steps: {train: {settings: {model: {kind: pca}, channels: [t1w], track: []}}}
vary: {train.model.num_components: [1, 4, 500]}
objective: {file: artefact.json, key: summary.num_people}
where: slurm
slurm: {options: [--cpus-per-task=1, --time=00:10:00]}
out: out
"""


@pytest.mark.usefixtures("cluster")
def test_an_array_is_submitted_runs_and_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cohort(tmp_path / "cohort", num_controls=24, num_patients=1)
    Path("sweep.yaml").write_text(SWEEP)
    assert main(["sweep", "sweep.yaml"]) == 0
    assert "trials submitted: 3" in capsys.readouterr().out
    assert main(["sweep", "sweep.yaml"]) == 0
    assert "in the queue: " in capsys.readouterr().out, "the same trials are not submitted twice"
    wait_until(lambda: not shell("squeue", "--noheader").strip(), 240, "the array did not end")
    assert main(["sweep", "sweep.yaml"]) == 0
    assert "3 trials: 2 done, 1 failed" in capsys.readouterr().out
    assert json.loads(Path("out/artefact.json").read_text())["status"] == "finished"
    assert len(list(Path("out/slurm").glob("*_log.out"))) == 3
