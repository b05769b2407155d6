"""How far is the memory that `gen3d train --dry-run` plans from the memory that a training step takes?

    python analysis/benchmarks/memory.py [--shape 64 80 64] [--device cpu|cuda]

Inputs: none (random volumes). Every row is a process of its own that trains one model for two steps with our engine:

  planned     the plan's estimate without its fixed allowance (Python, libraries, CUDA's context), MiB
  allocated   most bytes that torch's allocator had given out at once: the profiler's record of every allocation on a
              CPU, torch.cuda.max_memory_allocated() on a GPU, MiB
  error       planned / allocated - 1
  total       planned with the allowance, which is what `--dry-run` compares with the machine's memory, MiB
  resident    largest resident size of the process, MiB (CPU only): what the operating system sees, with Python, all
              libraries and what they keep for later

Not run on a GPU so far: there `planned` assumes torch's autocast rules for CUDA and an allowance for cuDNN that were not
measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from gen3d.cli import run_script

STEPS = 10
WIDTH = {"base_channels": 16}
LATENT_CHANNELS, REDUCTION = 3, 4
"""Of the latents that the diffusion model learns: channels, and a volume's side over a latent's."""

FULL = {**WIDTH, "stem": 1}
ROWS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "dense VAE": ("vae", {**FULL, "latent_size": 16}, "fp32", 1),
    "dense VAE, checkpointing": ("vae", {**FULL, "latent_size": 16, "gradient_checkpointing": True}, "fp32", 1),
    "dense VAE, bf16": ("vae", {**FULL, "latent_size": 16}, "bf16", 1),
    "spatial VAE": ("vae", {**FULL, "latent": "spatial"}, "fp32", 1),
    "spatial VAE, bf16": ("vae", {**FULL, "latent": "spatial"}, "bf16", 1),
    "spatial VAE, bf16, checkpointing": (
        "vae",
        {**FULL, "latent": "spatial", "gradient_checkpointing": True},
        "bf16",
        1,
    ),
    "with critic and SSIM": (
        "vae",
        {**FULL, "latent": "spatial", "adversarial_weight": 0.1, "ssim_weight": 0.1},
        "fp32",
        1,
    ),
    "with critic and SSIM, bf16": (
        "vae",
        {**FULL, "latent": "spatial", "adversarial_weight": 0.1, "ssim_weight": 0.1},
        "bf16",
        1,
    ),
    "restorer": ("restorer", FULL, "fp32", 1),
    "restorer, bf16, checkpointing": ("restorer", {**FULL, "gradient_checkpointing": True}, "bf16", 1),
    "vae_laptop.yaml, 4 volumes": ("vae", {}, "fp32", 4),
    "vae_laptop.yaml, 4 volumes, bf16": ("vae", {}, "bf16", 4),
    "restorer_laptop.yaml, 4 volumes": ("restorer", {}, "fp32", 4),
    "latent diffusion, 4 latents": ("latent_diffusion", {"conditions": ()}, "fp32", 4),
    "latent diffusion, 4 latents, bf16": ("latent_diffusion", {"conditions": ()}, "bf16", 4),
}
"""Model, its settings, precision and volumes at once."""


def config_of(name: str, shape: tuple[int, int, int]) -> Any:
    """The settings of a row's model."""
    from gen3d.models.diffusion.latent_diffusion import LatentDiffusionConfig
    from gen3d.models.normative.restorer import RestorerConfig
    from gen3d.models.normative.vae import VAEConfig

    kind, settings, _, _ = ROWS[name]
    if kind == "latent_diffusion":
        autoencoder = VAEConfig(latent="spatial", latent_channels=LATENT_CHANNELS, **WIDTH)
        latent = (LATENT_CHANNELS, *(side // REDUCTION for side in shape))
        return LatentDiffusionConfig(autoencoder=autoencoder, latent_shape=latent, **settings)
    return VAEConfig(**settings) if kind == "vae" else RestorerConfig(**settings)


def task_of(config: Any, shape: tuple[int, int, int]) -> Any:
    """The task of a model on a grid."""
    import numpy as np

    from gen3d.imaging.plan import GridPlan
    from gen3d.models.base import Statistics

    plan = GridPlan(spacing_mm=2.0, shape=shape, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))
    whole = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(shape, bool))
    return config.task_of(config.build(plan, ("t1w",), whole, 1), STEPS)


def planned_bytes(name: str, shape: tuple[int, int, int], device: str) -> list[int]:
    """The plan's estimate without its allowance and with it."""
    import torch

    from gen3d.train.engine.config import EngineConfig
    from gen3d.train.optim import OptimConfig
    from gen3d.train.plan.memory import MemoryEstimator, StepSettings

    _, _, precision, batch_size = ROWS[name]
    engine = EngineConfig(device=device, precision=precision)
    dtype, layout = engine.chosen_precision(torch.device(device)), engine.layout(torch.device(device))
    step = StepSettings(
        config_of(name, shape),
        OptimConfig(batch_size=batch_size, steps=STEPS),
        device=device,
        precision=dtype,
        channels_last=layout is torch.channels_last_3d,
    )
    memory = MemoryEstimator(lambda config: task_of(config, shape)).memory(step)
    return [memory.total - memory.allowance, memory.total]


def train(name: str, shape: tuple[int, int, int], device: str) -> None:
    """Two weight updates of a row."""
    import torch

    from gen3d.models.task import Batch
    from gen3d.train.engine.config import EngineConfig
    from gen3d.train.engine.start import start_engine
    from gen3d.train.optim import OptimConfig

    _, _, precision, batch_size = ROWS[name]
    optim = OptimConfig(batch_size=batch_size, steps=STEPS)
    engine = start_engine(
        EngineConfig(device=device, precision=precision), task_of(config_of(name, shape), shape), optim
    )
    for step in (STEPS - 2, STEPS - 1):
        volumes = torch.randn(batch_size, *engine.task.input_shape).to(engine.device)
        batch = Batch(volumes, ("p",) * batch_size, step, tuple(range(batch_size)))
        for player in engine.task.playing(step):
            losses = engine.forward(batch, player)
            engine.backward(losses, player, 0, 1)
        for player in engine.task.playing(step):
            engine.update(player, step)
    engine.close()


def allocated_bytes(name: str, shape: tuple[int, int, int], device: str) -> int:
    """Most bytes that torch's allocator had given out at once."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if device == "cuda":
        train(name, shape, device)
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train(name, shape, device)
    live = highest = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest


def resident_bytes(name: str, shape: tuple[int, int, int], device: str) -> int:
    """Largest resident size of a training process."""
    train(name, shape, device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MEASURES = {"planned": planned_bytes, "allocated": allocated_bytes, "resident": resident_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 80, 64])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--row", choices=ROWS, help="one row; prints its figure as JSON")
    parser.add_argument("--measure", choices=MEASURES, default="planned")
    arguments = parser.parse_args()
    shape = (arguments.shape[0], arguments.shape[1], arguments.shape[2])
    if arguments.row:
        print(json.dumps(MEASURES[arguments.measure](arguments.row, shape, arguments.device)))
        return
    print(f"{' x '.join(map(str, shape))} voxels, one process on a {arguments.device}; MiB")
    print(f"{'':34s}{'planned':>9s}{'allocated':>11s}{'error':>8s}{'total':>9s}{'resident':>10s}")
    errors = []
    for name in ROWS:
        planned, total = measured(name, "planned", arguments.shape, arguments.device)
        allocated = measured(name, "allocated", arguments.shape, arguments.device)
        errors.append(planned / allocated - 1)
        print(
            f"{name:34s}{planned / 2**20:9.0f}{allocated / 2**20:11.0f}{errors[-1]:+8.1%}{total / 2**20:9.0f}", end=""
        )
        if arguments.device == "cpu":
            resident = measured(name, "resident", arguments.shape, arguments.device)
            print(f"{resident / 2**20:10.0f}", end="")
        print(flush=True)
    print(f"error from {min(errors):+.1%} to {max(errors):+.1%}")


def measured(name: str, measure: str, shape: list[int], device: str) -> Any:
    """One figure of one row, from a process of its own."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--row", name, "--measure", measure]
    command += ["--shape", *map(str, shape), "--device", device]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


if __name__ == "__main__":
    run_script(main)
