"""An array of SLURM tasks: what is submitted, and the tasks themselves run by submitit on this machine."""

from __future__ import annotations

import csv
import json
import sys
import threading
import time
from pathlib import Path

import pytest

from gen3d.cli import main
from gen3d.core.errors import UserError
from gen3d.sweep.settings import Slurm
from gen3d.sweep.slurm import TrialTask, submit
from tests.cohorts import write_cohort

SWEEP = """
prepared: cohort
search: random
trials: 2
steps: {train: {settings: {model: {kind: pca}, channels: [t1w], engine: {threads: 1}, track: []}}}
vary: {train.model.num_components: {low: 1, high: 4}}
objective: {file: artefact.json, key: summary.num_people}
where: slurm
slurm: {options: [--time=01:00:00, --partition=gpu, --exclusive], setup: [export MARK=set], at_once: 4}
out: out
"""
WORDS = ["sweep", "sweep.yaml"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a sweep, and programs named like SLURM's: the queue is what the file `queue` says."""
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(SWEEP)
    write_cohort(tmp_path / "cohort", num_controls=24, num_patients=1)
    for name, body in {
        "srun": "exit 1",
        "sbatch": f'cp "$1" {tmp_path}/array.sbatch; echo "Submitted batch job 17"',
        "squeue": f"cat {tmp_path}/queue 2>/dev/null || true",
    }.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.slow
@pytest.mark.multi
def test_an_array_is_submitted_run_collected_and_extended(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0
    assert "trials submitted: 2, as job 17" in capsys.readouterr().out
    lines = Path("array.sbatch").read_text().splitlines()
    for option in ("array=0-1%2", "time=01:00:00", "partition=gpu", "signal=USR1@120"):
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --exclusive" in lines
    assert "#SBATCH --requeue" in lines
    assert lines.index("export MARK=set") < next(n for n, line in enumerate(lines) if line.startswith("srun"))

    Path("queue").write_text("17_[0-1]\n")
    assert main(WORDS) == 0
    assert "trials ended: 0; in the queue: 17_[0-1]" in capsys.readouterr().out
    Path("queue").unlink()

    [job] = submit(Slurm(options=("--time=1",)), Path("out"), Path("out/sweep.yaml"), [0], cluster="local")
    job.result()
    assert main(["sweep", "out/sweep.yaml", "task=1"]) == 0  # the command of the second task
    assert main(WORDS) == 0
    assert "2 trials: 2 done" in capsys.readouterr().out
    record = json.loads(Path("out/artefact.json").read_text())
    assert (record["status"], record["summary"]["trials"]) == ("finished", {"done": 2})
    assert main(["sweep", "out/sweep.yaml", "task=0"]) == 0
    assert main(["sweep", "out/sweep.yaml", "task=2"]) == 2
    assert "the sweep has 2 trials, 0 to 1" in capsys.readouterr().err

    before = table()
    assert main([*WORDS, "where=local", "trials=3"]) == 0
    assert table()[:2] == before, "what was finished is not done again"
    assert [row["status"] for row in table()] == ["done"] * 3
    assert json.loads(Path("out/artefact.json").read_text())["summary"]["trials"] == {"done": 3}


def test_what_slurm_cannot_take_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "sweep.yaml"
    with pytest.raises(UserError, match="has no time limit"):
        submit(Slurm(), tmp_path, settings, [0])
    with pytest.raises(UserError, match="`-p gpu` is not an option like --partition=gpu"):
        submit(Slurm(options=("-p gpu",)), tmp_path, settings, [0])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="or use where=local"):
        submit(Slurm(options=("--time 01:00:00",)), tmp_path, settings, [0])


@pytest.mark.multi
def test_a_task_whose_time_is_up_stops_its_work_and_is_submitted_again(tmp_path: Path) -> None:
    task = TrialTask(tmp_path / "sweep.yaml", 3)
    assert task.command[1:] == ["-m", "gen3d", "sweep", str(tmp_path / "sweep.yaml"), "task=3"]
    task.command = [sys.executable, "-c", "import time; time.sleep(100)"]
    codes: list[int | str | None] = []

    def work() -> None:
        with pytest.raises(SystemExit) as end:
            task()
        codes.append(end.value.code)

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: task.process is not None)
    again = task.checkpoint()
    worker.join()
    assert codes == [143]
    assert again.function is task
    assert task.process is None


def wait_for(condition: object, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def table() -> list[dict[str, str]]:
    with Path("out/trials.tsv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))
