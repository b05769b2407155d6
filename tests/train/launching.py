"""Starting small trainings in several processes, as torchrun does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.train.conftest import SMALL_VAE

REPOSITORY = Path(__file__).parents[2]
CRITIC = {"adversarial_weight": 0.1, "adversarial_start": 0.3}


def settings(cohort: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A training of 12 steps on the tiny cohort, JSON-ready; nested groups are merged."""
    tree: dict[str, Any] = {
        "prepared": [str(cohort)],
        "out": str(out),
        "model": {**SMALL_VAE, **CRITIC},
        "optim": {"steps": 12, "batch_size": 6, "ema_decay": 0.9, "learning_rate": 3e-3},
        "engine": {"device": "cpu", "precision": "fp32", "checkpoint_every": 5, "timeout_s": 60},
        "augment": {"flip": True, "intensity": 0.02},
        "log_every": 1,
        "picture_every": 100,
        "track": [],
    }
    for group, values in changes.items():
        tree[group] = {**tree[group], **values} if isinstance(values, Mapping) else values
    return tree


def launch(
    num_processes: int, cases: list[dict[str, Any]], folder: Path, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Train the cases one after another in `num_processes` processes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "results.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_processes)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", *options, "-m", "tests.train.worker"]
    command += [str(folder / "cases.json"), str(folder / "results.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560, cwd=folder)


def train_with(num_processes: int, cases: list[dict[str, Any]], folder: Path, options: Sequence[str] = ()) -> list[str]:
    """Train the cases; the sentence each ended with, '' for a training that finished."""
    done = launch(num_processes, cases, folder, options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    sentences: list[str] = json.loads((folder / "results.json").read_text())
    return sentences
