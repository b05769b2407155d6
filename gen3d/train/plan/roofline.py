"""How long a volume takes on a GPU that is not here: a rough figure from its data sheet.

seconds = operations / (share of the peak) + traffic / (share of the memory's bandwidth)

Operations and bytes are counted by running forward and backward pass on tensors without contents. Every byte is assumed
to be written once and read twice, and no two operations to be fused. Not measured: expect a factor of two either way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from gen3d.models.task import Batch, Task
from gen3d.train.plan.footprint import LiveBytes, MetaAutocast, backward

PEAK_SHARE, BANDWIDTH_SHARE, TOUCHES = 0.4, 0.7, 3
SECONDS_PER_PART = 0.015
"""Starting the operations of a part and reading its losses."""


@dataclass(frozen=True)
class Gpu:
    """Dense bfloat16 operations per second, in 1e12, and memory bandwidth in GB/s."""

    name: str
    peak_tflops: float
    memory_gb_s: float


GPUS = (Gpu("H100 64 GB", 989, 2000), Gpu("A100 40 GB", 312, 1555))
"""The GPUs of MareNostrum 5 and of MeluXina."""


@dataclass(frozen=True)
class Work:
    """Of the training step of one volume, all players together, recomputation included."""

    operations: float
    bytes_made: float

    def seconds_on(self, gpu: Gpu) -> float:
        """Rough time of one volume in bfloat16."""
        arithmetic = self.operations / (gpu.peak_tflops * 1e12 * PEAK_SHARE)
        return arithmetic + TOUCHES * self.bytes_made / (gpu.memory_gb_s * 1e9 * BANDWIDTH_SHARE)


def work_of(task: Task, step: int) -> Work:
    """Count the work of one volume; `task` was built under `torch.device("meta")`, `step` decides who plays."""
    task.train()
    shape = task.input_shape
    counter, live = FlopCounterMode(display=False), LiveBytes("meta", [*task.parameters(), *task.buffers()])
    with live, counter, MetaAutocast("cuda"):
        batch = Batch(torch.empty((1, *shape), device="meta"), ("",), step, (0,))
        for player in task.playing(step):
            backward(task(batch, player)["loss"])
    for parameter in task.parameters():
        parameter.grad = None
    return Work(float(counter.get_total_flops()), float(live.made))
