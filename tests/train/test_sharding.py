"""Memory and communication of data parallelism, against closed forms and against DeepSpeed itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gen3d.train.optim import OptimConfig
from gen3d.train.plan.sharding import Sizes, state_bytes, traffic

MILLION = 1_000_000
SIZES = Sizes(trained=3 * MILLION, model=2 * MILLION, constant_bytes=500)
WORKER = Path(__file__).with_name("zero_worker.py")


def test_one_process_holds_weights_gradients_moments_and_average() -> None:
    alone = state_bytes(SIZES, 3, 1, 10)
    assert (alone.weights, alone.gradients, alone.optimiser) == (12 * MILLION + 500, 12 * MILLION, 24 * MILLION)
    assert (alone.average, alone.buckets) == (8 * MILLION, 0)
    assert alone.lasting == 56 * MILLION + 500
    assert alone.exchanged == 0
    assert traffic(SIZES, 1, 1, 4).total == 0
    assert state_bytes(SIZES, 3, 1, 10, OptimConfig(method="sgd").num_moments).optimiser == 12 * MILLION


@pytest.mark.parametrize(
    ("zero", "weights", "gradients", "optimiser", "average", "exchange"),
    [(0, 12, 12, 24, 8, (0, 12)), (1, 15, 12, 6, 8, (4, 4)), (2, 15, 3, 6, 8, (8, 0)), (3, 18, 3, 6, 2, (8, 0))],
)
def test_what_four_processes_hold_in_megabytes(
    zero: int, weights: int, gradients: int, optimiser: int, average: int, exchange: tuple[int, int]
) -> None:
    each = state_bytes(SIZES, zero, 4, MILLION)
    assert each.weights == weights * MILLION + 500
    assert (each.gradients, each.optimiser) == (gradients * MILLION, optimiser * MILLION)
    assert each.average == average * MILLION
    assert (each.buckets, each.exchanged) == (exchange[0] * MILLION, exchange[1] * MILLION)


@pytest.mark.parametrize(("zero", "reduced", "gathered"), [(0, 18, 0), (1, 18, 9), (2, 5 * 18, 9), (3, 5 * 9, 5 * 9)])
def test_what_one_of_four_processes_sends_in_a_step_of_five_parts_in_megabytes(
    zero: int, reduced: int, gathered: int
) -> None:
    step = traffic(SIZES, zero, 4, 5)
    assert (step.reduced, step.gathered) == (reduced * MILLION, gathered * MILLION)


@pytest.mark.multi
def test_two_real_processes_send_and_hold_what_is_planned(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parents[2])}
    done = subprocess.run(
        [*command, str(tmp_path / "rows.json")], env=environment, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["zero"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        if row["zero"] < 3:
            assert row["sent"] == pytest.approx(row["planned_sent"], rel=1e-3), row
        else:  # small weights stay gathered from one part to the next
            assert 0.6 < row["sent"] / row["planned_sent"] < 1.001, row
        assert 0.97 < row["planned_bytes"] / row["bytes"] < 1.2, row
