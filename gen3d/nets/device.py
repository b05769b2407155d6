"""Where to compute and in which precision."""

from __future__ import annotations

import torch

from gen3d.core.errors import UserError


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic; emulating it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def device_of(setting: str, local_rank: int, key: str) -> torch.device:
    """The device of this process: auto takes a GPU if there is one; `key` is what the user sets it by.

    Raises:
        UserError: a GPU was requested and there is none, or none for this process.
    """
    available = torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise UserError(f"{key}=cuda, but torch sees no GPU; use {key}=cpu or install torch for CUDA.")
    if not available or setting == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this node has no GPU of its own (there are {torch.cuda.device_count()}); start as many "
            "processes per node as it has GPUs (torchrun --nproc-per-node)."
        )
    return torch.device("cuda", local_rank)


def precision_of(setting: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; auto is bfloat16 where the device computes in it."""
    if setting == "auto":
        return torch.bfloat16 if computes_bfloat16(device) else torch.float32
    return torch.bfloat16 if setting == "bf16" else torch.float32
