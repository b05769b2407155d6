"""One of two processes that train under every ZeRO stage and count what they send and hold. Started by test_sharding."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gen3d.models.normative.vae import VAEConfig
from gen3d.models.task import Batch
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.processes import Processes
from gen3d.train.engine.start import start_engine
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.memory import MemoryEstimator, StepSettings
from tests.train.plans import NUM_STEPS, task_of

SHAPE = (16, 16, 16)
NUM_PARTS = 2
MODEL = VAEConfig(base_channels=32, levels=2, latent_size=64)
OPTIM = OptimConfig(batch_size=2 * NUM_PARTS, steps=NUM_STEPS)


class Observed(TorchDispatchMode):
    """Bytes that this process sends, if every collective is a ring, and most bytes of its tensors alive at once."""

    def __init__(self, num_processes: int) -> None:
        super().__init__()
        self.share = (num_processes - 1) / num_processes
        self.sent = 0.0
        self.live = self.highest = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::")
            whole = num_bytes(args[1] if name == "_reduce_scatter_base_" else args[0])
            self.sent += self.share * whole * (2 if name == "allreduce_" else 1)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.follow(leaf.untyped_storage())
        return result

    def follow(self, storage: torch.UntypedStorage) -> None:
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.live += storage.nbytes()
            self.highest = max(self.highest, self.live)
            weakref.finalize(storage, self.end, storage.data_ptr(), storage.nbytes())

    def end(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size


def num_bytes(tensors: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))


def row(zero: int, processes: Processes) -> dict[str, float]:
    with Observed(processes.num) as observed:
        config = EngineConfig(kind="deepspeed", device="cpu", precision="fp32", zero=zero, volumes_at_once=1)
        engine = start_engine(config, task_of(MODEL, SHAPE), OPTIM, processes)
        for number in range(3):
            observed.sent = 0.0
            for part in range(NUM_PARTS):
                losses = engine.forward(Batch(torch.randn(1, 1, *SHAPE), ("p",), number, (part,)), "model")
                engine.backward(losses, "model", part, NUM_PARTS)
            del losses
            assert engine.update("model", number)
    engine.close()
    del engine
    gc.collect()
    estimator = MemoryEstimator(lambda model: task_of(model, SHAPE))
    step = StepSettings(MODEL, OPTIM, zero=zero, num_processes=processes.num, volumes_at_once=1)
    memory = estimator.memory(step)
    return {
        "zero": zero,
        "sent": observed.sent,
        "planned_sent": estimator.traffic(step).total,
        "bytes": observed.highest,
        "planned_bytes": memory.total - memory.allowance,
    }


def main() -> None:
    dist.init_process_group("gloo")
    processes = Processes(dist.get_rank(), dist.get_rank(), dist.get_world_size())
    rows = [row(zero, processes) for zero in (0, 1, 2, 3)]
    # The last process: the first one keeps a whole copy of the model under ZeRO 3, for pictures.
    if processes.rank == processes.num - 1:
        Path(sys.argv[1]).write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
