"""Where and how a training computes: one process or many, on CPUs or GPUs. None of it changes the result."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from gen3d.core.config import Config, execution
from gen3d.core.errors import UserError
from gen3d.nets.device import device_of, precision_of
from gen3d.train.optim import OptimConfig

LARGEST_BUCKET = 2**25
"""Values that DeepSpeed reduces or gathers at once; its own default of 5e8 would set 2 GB aside."""

BUCKET_STEP = 2**10
"""Buckets are a multiple of this: DeepSpeed wants them aligned."""


class EngineConfig(Config):
    """One process, or many with DeepSpeed. The number of processes changes the speed, and the result by rounding alone."""

    kind: Literal["auto", "local", "deepspeed"] = execution(
        "auto", "local: one process; deepspeed: one or many; auto: deepspeed when started with several processes"
    )
    zero: Literal[0, 1, 2, 3] = execution(
        0,
        "DeepSpeed's ZeRO stage: what is split over the processes (0 nothing, 1 optimiser, 2 also gradients, 3 also weights; "
        "3 excludes adversarial training). Activations take most of the memory of these models, so 0, which sends least",
    )
    volumes_at_once: int = execution(
        0,
        "volumes that a process computes at once; 0: its whole share of the batch. A smaller number needs less "
        "memory: the share is computed in parts and accumulated",
        ge=0,
    )
    processes: int = execution(0, "processes (GPUs) to plan for with --dry-run; 0: as many as were started", ge=0)
    memory_gib: float = execution(
        0.0, "memory of one process that --dry-run compares with, GiB; 0: this machine's", ge=0
    )
    timeout_s: float = execution(
        600.0, "seconds that a process waits for another before the training ends with an error", gt=0
    )
    backend: Literal["auto", "gloo", "nccl"] = execution(
        "auto", "how processes exchange gradients; auto: nccl for GPUs, gloo for CPUs"
    )
    device: Literal["auto", "cpu", "cuda"] = execution("auto", "where to compute; auto: a GPU if there is one")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="number format of the network; auto: bf16 if the processor supports it. Losses are always float32",
    )
    channels_last: Literal["auto", "on", "off"] = execution(
        "auto", "memory layout of volumes; auto: on for GPUs. On CPUs it changes the speed by a few per cent either way"
    )
    compile: bool = execution(False, "fuse the network's blocks with torch.compile (needs a C++ compiler)")
    threads: int = execution(0, "CPU threads per process; 0: as many as torch chooses", ge=0)
    checkpoint_every: int = execution(500, "steps between checkpoints", gt=0)

    def chosen_kind(self, num_processes: int) -> str:
        """`local` or `deepspeed`.

        Raises:
            UserError: engine.kind=local with several processes.
        """
        if self.kind == "local" and num_processes > 1:
            raise UserError(
                f"engine.kind=local is one process, but {num_processes} were started; use engine.kind=deepspeed."
            )
        if self.kind == "auto":
            return "deepspeed" if num_processes > 1 else "local"
        return self.kind

    def chosen_device(self, local_rank: int = 0) -> torch.device:
        """This process's device.

        Raises:
            UserError: engine.device=cuda, but there is no GPU, or none for this process.
        """
        return device_of(self.device, local_rank, "engine.device")

    def chosen_backend(self, device: torch.device) -> str:
        """`nccl` or `gloo`.

        Raises:
            UserError: engine.backend=nccl without GPUs.
        """
        if self.backend == "nccl" and device.type != "cuda":
            raise UserError(
                "engine.backend=nccl needs GPUs, and this training runs on the CPU; use engine.backend=gloo."
            )
        if self.backend == "auto":
            return "nccl" if device.type == "cuda" else "gloo"
        return self.backend

    def chosen_precision(self, device: torch.device, exact_on_cpu: bool = False) -> torch.dtype:
        """bfloat16 or float32; with `exact_on_cpu` auto is float32 on a CPU."""
        if exact_on_cpu and self.precision == "auto" and device.type == "cpu":
            return torch.float32
        return precision_of(self.precision, device)

    def layout(self, device: torch.device) -> torch.memory_format:
        """Memory format of five-dimensional tensors."""
        last = self.channels_last == "on" or (self.channels_last == "auto" and device.type == "cuda")
        return torch.channels_last_3d if last else torch.contiguous_format

    def num_processes(self, started: int) -> int:
        """Processes that a plan is for, or that the training has.

        Raises:
            UserError: engine.processes names another number than were started.
        """
        if self.processes and started > 1 and self.processes != started:
            raise UserError(
                f"engine.processes={self.processes}, but {started} processes were started; leave engine.processes out or "
                f"start {self.processes}."
            )
        return self.processes or started

    def parts(self, batch_size: int, num_processes: int) -> int:
        """Parts in which each process computes its share of the global batch.

        Raises:
            UserError: the batch cannot be shared out evenly.
        """
        if batch_size % num_processes:
            fitting = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
            near = max((n for n in fitting if n <= num_processes), default=1)
            raise UserError(
                f"optim.batch_size={batch_size} volumes cannot be shared out over {num_processes} processes; start {near} "
                f"processes, or choose an optim.batch_size that {num_processes} divides (which changes the result)."
            )
        share = batch_size // num_processes
        at_once = self.volumes_at_once or share
        if share % at_once:
            fitting = [n for n in range(1, share + 1) if share % n == 0]
            raise UserError(
                f"engine.volumes_at_once={at_once} does not divide the {share} volumes that each of {num_processes} "
                f"process(es) computes per step; use one of {', '.join(map(str, fitting))}."
            )
        return share // at_once

    def check_zero(self, players: tuple[str, ...], method: str = "adamw") -> None:
        """Refuse stage 3 for a task with two players: DeepSpeed cannot split the weights of two models at once; and any stage
        above 0 for an optimiser other than AdamW, whose state is not split here."""
        if self.zero and method != "adamw":
            raise UserError(f"engine.zero={self.zero} is for optim.method=adamw; use engine.zero=0 with {method}.")
        if self.zero == 3 and len(players) > 1:
            raise UserError(
                f"engine.zero=3 works for one player, and this model has {' and '.join(players)}; use engine.zero=2, or "
                "model.adversarial_weight=0."
            )

    def deepspeed_settings(self, optim: OptimConfig, num_processes: int, num_parameters: int) -> dict[str, Any]:
        """The dictionary that DeepSpeed is set up with; written here and nowhere else.

        Autocast is ours, around the task's forward pass, so that bf16 means the same with and without DeepSpeed;
        DeepSpeed sees float32 weights and gradients. We say when an update is complete, and clip what it reduces.
        """
        bucket = min(-(-num_parameters // BUCKET_STEP) * BUCKET_STEP, LARGEST_BUCKET)
        parts = self.parts(optim.batch_size, num_processes)
        return {
            "train_batch_size": optim.batch_size,
            "train_micro_batch_size_per_gpu": optim.batch_size // num_processes // parts,
            "gradient_accumulation_steps": parts,
            "gradient_clipping": optim.clip,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": self.zero,
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
                "stage3_prefetch_bucket_size": bucket,
            },
            "steps_per_print": 10**9,
        }
