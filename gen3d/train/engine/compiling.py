"""Fusing a network's blocks with torch.compile, where that works."""

from __future__ import annotations

import torch

from gen3d.core.progress import say
from gen3d.models.task import Task


def compile_blocks(task: Task, device: torch.device) -> None:
    """Compile the task's repeated blocks; where no compiler works, say so and go on without."""
    try:
        import torch._inductor.cpp_builder as builder

        if device.type == "cpu":
            builder.get_cpp_compiler()
    except Exception as error:
        say(f"engine.compile: no C++ compiler works here ({type(error).__name__}), training without it.")
        return
    for block in task.repeated_blocks():
        block.compile(dynamic=False)
