from __future__ import annotations

import subprocess
from pathlib import Path

from gen3d.sweep.settings import Slurm
from gen3d.sweep.slurm import script, spans


def test_numbers_as_slurm_writes_them() -> None:
    assert spans([3, 0, 1, 2, 7, 9, 8]) == "0-3,7-9"
    assert spans([5]) == "5"
    assert spans([1, 3]) == "1,3"


def test_the_script_runs_the_task_and_passes_its_exit_code_on(tmp_path: Path) -> None:
    """With commands of the same names in place of SLURM's."""
    slurm = Slurm(options=("--partition=gpu", "--time=01:00:00"), setup=("export MARK=set",), at_once=4)
    text = script(slurm, tmp_path / "a b", tmp_path / "a b" / "sweep.yaml", [0, 1, 2], retry_failed=True)
    head = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --array=0-2%4" in head
    assert "#SBATCH --partition=gpu" in head
    for name, body in {"srun": 'echo "$MARK $@"; exit "$CODE"', "scontrol": 'echo "scontrol $@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "17"}
    for code, requeued in ((0, False), (2, False), (138, True), (143, True)):
        done = subprocess.run(
            ["bash", "-c", text], env=environment | {"CODE": str(code)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert f"-m gen3d sweep {tmp_path}/a b/sweep.yaml task=2 retry_failed=true" in done.stdout
        assert done.stdout.startswith("set ")
        assert ("scontrol requeue 17" in done.stdout) == requeued
