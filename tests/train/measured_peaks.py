"""The memory that a real step takes, measured in a process that has done nothing else.

    python -m tests.train.measured_peaks

prints one JSON object, bytes by the name of each case of `CASES`; those in bfloat16 only where the processor computes in it, for
others convert maps and weights in every convolution, which no plan counts (measured: two to 2.7 times the plan). For the
bfloat16 gradients of weights oneDNN keeps a copy of a feature map per thread, 6 MiB of some 50 MiB here, so the peak depends on
how many threads the process was left with. A new process of one thread measures the same peak every time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from gen3d.models.base import BaseModelConfig
from gen3d.models.task import Batch
from gen3d.nets.device import computes_bfloat16
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.start import start_engine
from gen3d.train.optim import OptimConfig
from tests.train.plans import MODELS, NUM_STEPS, allocated_peak, task_of

SHAPE = (32, 48, 32)


class Case(NamedTuple):
    """One training whose peak is measured."""

    name: str
    checkpointing: bool
    precision: str

    def __str__(self) -> str:
        return f"{self.name}-{self.checkpointing}-{self.precision}"

    @property
    def config(self) -> BaseModelConfig:
        return MODELS[self.name].model_copy(update={"gradient_checkpointing": self.checkpointing})


def _offers(model: BaseModelConfig) -> tuple[bool, ...]:
    """Whether gradient checkpointing can be off, and on."""
    field = type(model).model_fields.get("gradient_checkpointing")
    return (False, True) if field is not None and field.annotation is bool else (False,)


IN_FLOAT32_ONLY = ("forecast", "transition", "flow", "fusion", "classifier")
"""Small networks of many weights, whose bfloat16 copies of weights the plan does not count (measured: 2.6 times the plan); and
classifiers, whose bfloat16 gradients on CPUs are not finite now and then, so that an update is skipped."""

CASES = [
    Case(name, on, precision)
    for precision in ("fp32", "bf16")
    for name, model in MODELS.items()
    if precision == "fp32" or name not in IN_FLOAT32_ONLY
    for on in _offers(model)
]


def measured_elsewhere() -> dict[str, int]:
    """The peak in bytes of every case, by its name, from a new process of one thread."""
    command = [sys.executable, "-m", "tests.train.measured_peaks"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peaks: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def measured_peak(config: BaseModelConfig, precision: str) -> int:
    """Most bytes that torch's CPU allocator had given out at once during two steps, from the first weight on."""
    optim = OptimConfig(batch_size=1, steps=NUM_STEPS)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        engine = start_engine(EngineConfig(device="cpu", precision=precision), task_of(config, SHAPE), optim)
        for step in (NUM_STEPS - 2, NUM_STEPS - 1):
            batch = Batch(torch.randn(1, *engine.task.input_shape), ("p",), step, (step,))
            for player in engine.task.playing(step):
                losses = engine.forward(batch, player)
                engine.backward(losses, player, 0, 1)
            for player in engine.task.playing(step):
                assert engine.update(player, step)
    return allocated_peak(profiler)


if __name__ == "__main__":
    torch.set_num_threads(1)
    measured = [case for case in CASES if case.precision == "fp32" or computes_bfloat16(torch.device("cpu"))]
    print(json.dumps({str(case): measured_peak(case.config, case.precision) for case in measured}))
