"""launch/norm_array.sbatch with stand-ins for SLURM: the commands that it makes, and the norm that its jobs make together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from gen3d.cli import main
from tests.cohorts import write_cohort
from tests.launch.training import LAUNCH, PROJECT
from tests.runs import fit

SCRIPT = LAUNCH / "norm_array.sbatch"
WORDS = ("configs/norm/standard.yaml", "prepared=[a,b c]", "run=runs/pca", "licence=of the hospital", "out=norms/adult")


def stand_in(folder: Path, name: str, body: str) -> None:
    """An executable of a name that notes its words, a line of JSON per call, and then does `body`."""
    path = str(folder / f"{name}.txt")
    note = f"import json, sys; print(json.dumps(sys.argv[1:]), file=open({path!r}, 'a'))"
    script = folder / "bin" / name
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\n{sys.executable} -c "{note}" "$@"\n{body}\n', encoding="utf-8")
    script.chmod(0o755)


def calls(folder: Path, name: str) -> list[list[str]]:
    path = folder / f"{name}.txt"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def start(folder: Path, words: Iterable[str], **given: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the stand-ins in front of everything else."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment |= {"PATH": path, "GEN3D_BIN": str(folder / "bin"), "OMP_NUM_THREADS": "1"} | given
    return subprocess.run([SCRIPT, *words], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """SLURM's commands, which note how they were called; Python ends as `srun` is told by a file."""
    stand_in(tmp_path, "sbatch", "echo 71")
    stand_in(tmp_path, "scontrol", "")
    stand_in(tmp_path, "python", f"exit $(cat {tmp_path / 'code'} 2>/dev/null || echo 0)")
    stand_in(tmp_path, "srun", 'exec "$@"')
    return tmp_path


def test_it_submits_an_array_and_a_fit_that_waits_for_it(cluster: Path) -> None:
    done = start(cluster, ["3", *WORDS])
    assert (done.returncode, done.stdout) == (0, "71\n")
    array, last = calls(cluster, "sbatch")
    assert array == ["--parsable", "--array=1-3", "launch/norm_array.sbatch", "3", *WORDS]
    waits = ["--parsable", "--dependency=afterok:71", "--kill-on-invalid-dep=yes"]
    assert last == [*waits, "launch/norm_array.sbatch", "3", *WORDS]
    assert not calls(cluster, "python")


def test_a_job_of_the_array_compares_its_share_and_the_last_one_fits_from_all(cluster: Path) -> None:
    given = {"SLURM_JOB_ID": "72", "SLURM_SUBMIT_DIR": str(PROJECT)}
    assert start(cluster, ["3", *WORDS], SLURM_ARRAY_TASK_ID="2", **given).returncode == 0
    assert start(cluster, ["3", *WORDS], **given).returncode == 0
    share, fitted = calls(cluster, "python")
    same = ["-m", "gen3d", "norm", *WORDS[:-1]]
    assert share == [*same, "part=2/3", "out=norms/adult.parts/2"]
    parts = ",".join(f"norms/adult.parts/{number}" for number in (1, 2, 3))
    assert fitted == [*same, f"parts=[{parts}]", "out=norms/adult"]


@pytest.mark.parametrize(("code", "again"), [(138, [["requeue", "72"]]), (143, []), (2, [])])
def test_only_a_job_that_was_stopped_before_its_time_limit_goes_on(
    code: int, again: list[list[str]], cluster: Path
) -> None:
    (cluster / "code").write_text(str(code), encoding="utf-8")
    done = start(cluster, ["3", *WORDS], SLURM_JOB_ID="72", SLURM_ARRAY_TASK_ID="1", SLURM_SUBMIT_DIR=str(PROJECT))
    assert done.returncode == code
    assert f"ended with code {code}" in done.stdout
    assert calls(cluster, "scontrol") == again


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the first word is the number of jobs, not ''"),
        (["0", "out=x"], "the first word is the number of jobs, not '0'"),
        (["norm", "out=x"], "the first word is the number of jobs, not 'norm'"),
        (["3", "prepared=a"], "out=FOLDER is missing"),
        (["3", "out=x", "part=1/3"], "the shares are named here, not by part=1/3"),
    ],
)
def test_a_mistake_is_told_before_anything_is_submitted(words: list[str], sentence: str, cluster: Path) -> None:
    done = start(cluster, words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not calls(cluster, "sbatch")


@pytest.mark.slow
def test_its_jobs_make_the_norm_that_one_command_makes(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 44, 0, seed=3)
    run = fit(cohort, tmp_path / "run")
    stand_in(tmp_path, "srun", 'exec "$@"')
    words = [f"prepared={cohort}", f"run={run}", "workers=1"]
    out, alone = tmp_path / "norm", tmp_path / "alone"
    given = {"SLURM_JOB_ID": "5", "SLURM_SUBMIT_DIR": str(PROJECT), "GEN3D_BIN": str(Path(sys.executable).parent)}
    for task in ({"SLURM_ARRAY_TASK_ID": "1"}, {"SLURM_ARRAY_TASK_ID": "2"}, {}):
        done = start(tmp_path, ["2", *words, f"out={out}"], **given, **task)
        assert done.returncode == 0, done.stdout + done.stderr
    assert main(["norm", *words, f"out={alone}"]) == 0
    for path in sorted((alone / "channels").iterdir()):
        with np.load(path) as mine, np.load(out / "channels" / path.name) as theirs:
            for name in mine.files:
                np.testing.assert_array_equal(mine[name], theirs[name], err_msg=f"{path.name}: {name}")
