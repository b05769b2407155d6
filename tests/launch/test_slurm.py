"""launch/slurm.sbatch under a real SLURM with two nodes on this machine.

Skipped without root or SLURM; with GEN3D_TEST_SLURM=1 root installs it from the distribution's packages.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.training import (
    LAUNCH,
    PROJECT,
    arguments,
    distance,
    environment,
    has_checkpoint,
    lacks,
    shell,
    wait_until,
)

pytestmark = [pytest.mark.multi, pytest.mark.slow, pytest.mark.timeout(1200)]

START_AND_END_S = 240
SCRIPT = Path(__file__).with_name("slurm_two_nodes.sh")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two idle nodes; the folder with slurm.conf."""
    if not lacks() and shutil.which("slurmctld") is None and os.environ.get("GEN3D_TEST_SLURM") == "1":
        shell("apt-get", "update", "-qq")
        shell("apt-get", "install", "-y", "-qq", "--no-install-recommends", "slurm-wlm", "munge")
    if lacks("slurmctld", "slurmd", "munged", "runuser"):
        pytest.skip(lacks("slurmctld", "slurmd", "munged", "runuser"))
    folder = tmp_path_factory.mktemp("slurm")
    try:
        shell(SCRIPT, "up", folder)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield folder
    finally:
        os.environ.pop("SLURM_CONF", None)
        shell(SCRIPT, "down", folder)


def submit(folder: Path, words: list[str], project: Path = PROJECT, **given: str) -> str:
    """Submit a training on two nodes; the job's number. Its log is folder/job.log."""
    command = ["sbatch", "--parsable", "--nodes", "2", "--cpus-per-task", "1", "--output", str(folder / "job.log")]
    return shell(*command, "launch/slurm.sbatch", *words, env=environment(folder, **given), cwd=project).strip()


def told(job: str, key: str) -> str:
    """One item of what SLURM knows about a job."""
    found = re.search(rf"\b{key}=(\S+)", shell("scontrol", "show", "job", job, "-o"))
    assert found, key
    return found.group(1)


def log_of(folder: Path) -> str:
    log = folder / "job.log"
    return log.read_text(errors="replace") if log.exists() else ""


def finish(job: str, folder: Path) -> str:
    """Wait for a job's end; its log."""
    wait_until(lambda: told(job, "JobState") in ENDED, START_AND_END_S, "the job did not end")
    return log_of(folder)


def test_a_job_stopped_before_its_time_limit_is_requeued_and_ends_with_one_process_s_weights(
    cluster: Path, cohort: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vae"
    job = submit(tmp_path, arguments(cohort, out), COPY_DATA="1", LOCAL_SCRATCH=str(tmp_path))
    wait_until(lambda: has_checkpoint(out), 400, "no checkpoint was written")
    shell("scancel", "--signal=USR1", job)  # what --signal=USR1@180 sends: to the steps, not to the batch script
    wait_until(lambda: told(job, "JobState") == "PENDING", 60, "the job was not requeued")
    log = log_of(tmp_path)
    assert "ended with code 138" in log, log
    assert not (out / "members").exists(), "it was to be stopped in the middle"
    assert has_checkpoint(out)
    time.sleep(5)  # a node refuses a job that it is just ending
    shell("scontrol", "update", f"jobid={job}", "StartTime=now")  # instead of the two minutes that SLURM waits
    log = finish(job, tmp_path)
    assert (told(job, "JobState"), told(job, "Restarts")) == ("COMPLETED", "1"), log
    assert distance(out, alone) < 1e-4
    assert sorted(path.name for path in (tmp_path / job).iterdir()) == [f"{job}.0.saved", "node1", "node2"]


def test_a_user_s_mistake_fails_the_job_with_code_2_and_does_not_requeue_it(
    cluster: Path, cohort: Path, tmp_path: Path
) -> None:
    job = submit(tmp_path, [*arguments(cohort, tmp_path / "vae"), "optim.batch_size=3"])
    log = finish(job, tmp_path)
    assert (told(job, "JobState"), told(job, "ExitCode"), told(job, "Restarts")) == ("FAILED", "2:0", "0"), log
    assert sum("batch_size" in line for line in log.splitlines()) == 1, log


def test_a_node_that_cannot_start_fails_the_job_and_does_not_requeue_it(cluster: Path, tmp_path: Path) -> None:
    """SLURM then ends the others with SIGTERM, which looks like the code of a training that stopped with a checkpoint."""
    (tmp_path / "launch").mkdir()
    shutil.copy(LAUNCH / "slurm.sbatch", tmp_path / "launch")
    node = tmp_path / "launch" / "node.sh"
    node.write_text('#!/bin/sh\n[ "$SLURMD_NODENAME" != node2 ] || exit 127\nexec sleep 60\n', encoding="utf-8")
    node.chmod(0o755)
    job = submit(tmp_path, ["train"], project=tmp_path)
    log = finish(job, tmp_path)
    assert "ended with code 143" in log, log
    assert (told(job, "JobState"), told(job, "Restarts")) == ("FAILED", "0"), log


def test_a_cancelled_job_saves_and_stays_cancelled(cluster: Path, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "vae"
    job = submit(tmp_path, [*arguments(cohort, out), "optim.steps=1000"])
    wait_until(lambda: has_checkpoint(out), 400, "no checkpoint was written")
    shell("scancel", job)
    wait_until(lambda: told(job, "JobState") == "CANCELLED", 60, "the job was not cancelled")
    said = "".join(path.read_text() for path in (tmp_path / job).rglob("stderr.log"))
    assert re.search(r"stopped by SIGTERM after step \d+ of 1000, the checkpoint is saved", said), said
