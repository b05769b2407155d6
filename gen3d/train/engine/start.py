"""Which engine optimises a task: one process, or many with DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gen3d.models.task import Task
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.interface import Engine
from gen3d.train.engine.local import LocalEngine
from gen3d.train.engine.processes import Processes
from gen3d.train.optim import OptimConfig


def start_engine(
    config: EngineConfig,
    task: Task,
    optim: OptimConfig,
    processes: Processes | None = None,
    state: Mapping[str, Any] | None = None,
) -> Engine:
    """The engine for a task, going on from a checkpoint's state if one is given."""
    processes = processes or Processes()
    if config.chosen_kind(processes.num) == "local":
        return LocalEngine(task, config, optim, processes, state)
    config.check_zero(task.players, optim.method)
    # DeepSpeed is optional and takes seconds to import.
    from gen3d.train.engine.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(task, config, optim, processes, state)
