"""How fast is a training step against the loop of MONAI's own 3D autoencoder tutorial?

    python analysis/benchmarks/training_step.py [--steps 20] [--shape 64 80 64] [--batch 1] [--profile]

Inputs: none (simulated volumes). One run trains the same AutoencoderKL (1.3 million weights), from the same initial
weights, on the same volumes in the same order, for the same number of steps:

  tutorial      the loop of MONAI's 3d_autoencoderkl tutorial, warm-up phase: float32, Adam, L1 + 1e-6 KL, zero_grad
                (set_to_none); without its perceptual term, which needs a download, and without attention
  gen3d fp32    our task, engine and loop on that network, float32
  ... bf16      the same in bfloat16 (losses in float32)
  ... convolving the doubled map   as bf16, but the decoder repeats voxels and then convolves, as MONAI does; elsewhere the
                same numbers come from eight small kernels on the map before doubling (gen3d.nets.doubling)
  ... giving memory back   as bf16, but freed feature maps go back to the system and are requested again (glibc's default);
                elsewhere the engine keeps them (gen3d.nets.allocation)
  ... channels last   bf16, and volumes in channels_last_3d layout
  ... compiled  and with torch.compile
  gen3d stem 2  our default network of the same widths, whose stem folds 2 x 2 x 2 voxels: another network, so its
                loss is not comparable; it shows what a user gets by default

Every row is a process of its own, so that peak memory (resident size) is that row's. Prints seconds per step (median
after two warm-up steps), volumes/s, peak memory, the mean L1 of the last five steps, and the ratio to the tutorial.
With --profile, also where the time of the fastest comparable row goes, and its share of what the same threads reach in a
large bfloat16 matrix product (the arithmetic limit).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from gen3d.cli import run_script

WIDTHS = {"base_channels": 32, "max_channels": 64, "levels": 3, "res_blocks": 1, "latent_channels": 3}
KL_WEIGHT = 1e-6
LEARNING_RATE = 1e-4
NUM_VOLUMES = 8
LAST = {"precision": "bf16", "channels_last": "on"}
ROWS: dict[str, dict[str, Any]] = {
    "tutorial": {},
    "gen3d fp32": {"engine": {"precision": "fp32"}, "stem": 1},
    "gen3d bf16": {"engine": {"precision": "bf16"}, "stem": 1},
    "  convolving the doubled map": {"engine": {"precision": "bf16"}, "stem": 1, "doubled_map": True},
    "  giving memory back": {"engine": {"precision": "bf16"}, "stem": 1, "give_back": True},
    "  channels last": {"engine": LAST, "stem": 1},
    "  compiled": {"engine": {"precision": "bf16", "compile": True}, "stem": 1},
    "  channels last, compiled": {"engine": {**LAST, "compile": True}, "stem": 1},
    "gen3d stem 2": {"engine": {"precision": "bf16"}, "stem": 2},
}


class Volumes:
    """Smooth random volumes with unit variance, as a source of the trainer."""

    channels = ("t1w",)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        rng = np.random.default_rng(0)
        self.subjects = [f"p{index}" for index in range(NUM_VOLUMES)]
        fields = [gaussian_filter(rng.standard_normal(shape), 1.5) for _ in range(NUM_VOLUMES)]
        self.data = np.stack([field / field.std() for field in fields])[:, None].astype(np.float32)

    def load(self, rows: np.ndarray) -> np.ndarray:
        return self.data[rows]

    def conditions(self, rows: np.ndarray) -> None:
        return None

    def labels(self, rows: np.ndarray) -> None:
        return None


def built(shape: tuple[int, int, int], stem: int, steps: int) -> tuple[Any, Any]:
    """Our model and its task, initialised from a fixed seed; the L1 + 1e-6 KL of the tutorial."""
    import torch

    from gen3d.imaging.plan import GridPlan
    from gen3d.models.base import Statistics
    from gen3d.models.normative.vae import VAEConfig

    rows = tuple(tuple(map(float, row)) for row in np.eye(4))
    plan = GridPlan(spacing_mm=2.0, shape=shape, affine=rows)
    whole = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(shape, bool))
    beta = KL_WEIGHT * float(np.prod(shape))  # our KL term is divided by the number of values
    config = VAEConfig(latent="spatial", stem=stem, beta=beta, beta_warmup=0, **WIDTHS)
    torch.manual_seed(0)
    model = config.build(plan, ("t1w",), whole, 1)
    return model, config.task_of(model, steps)


def run_tutorial(shape: tuple[int, int, int], steps: int, batch_size: int) -> tuple[list[float], list[float]]:
    """The training cell of the tutorial, on the same weights and volumes."""
    import torch
    from torch.nn import L1Loss

    from gen3d.train.random_numbers import rows_at

    autoencoder = built(shape, 1, steps)[0].network.network
    volumes = Volumes(shape)
    l1_loss = L1Loss()
    optimizer_g = torch.optim.Adam(params=autoencoder.parameters(), lr=LEARNING_RATE)
    autoencoder.train()
    seconds, losses = [], []
    for step in range(steps):
        began = time.perf_counter()
        images = torch.from_numpy(volumes.load(rows_at(step, batch_size, NUM_VOLUMES, 0, 0)))
        optimizer_g.zero_grad(set_to_none=True)
        reconstruction, z_mu, z_sigma = autoencoder(images)
        kl = 0.5 * torch.sum(z_mu.pow(2) + z_sigma.pow(2) - torch.log(z_sigma.pow(2)) - 1, dim=[1, 2, 3, 4])
        kl_loss = torch.sum(kl) / kl.shape[0]
        recons_loss = l1_loss(reconstruction.float(), images.float())
        loss_g = recons_loss + KL_WEIGHT * kl_loss
        loss_g.backward()
        optimizer_g.step()
        losses.append(recons_loss.item())
        seconds.append(time.perf_counter() - began)
    return seconds, losses


def run_ours(
    shape: tuple[int, int, int], steps: int, batch_size: int, engine: dict[str, Any], stem: int
) -> tuple[list[float], list[float]]:
    """Our task and engine with Adam's settings of the tutorial; clipping and averaging stay on."""
    import torch

    from gen3d.train.augment import AugmentConfig
    from gen3d.train.batches import Batches
    from gen3d.train.engine.config import EngineConfig
    from gen3d.train.engine.start import start_engine
    from gen3d.train.optim import OptimConfig

    settings = {"steps": steps, "learning_rate": LEARNING_RATE, "warmup": 0, "final_rate": 1, "weight_decay": 0}
    optim = OptimConfig(**settings, beta2=0.999, clip=1e9, batch_size=batch_size)
    local = start_engine(EngineConfig(**engine), built(shape, stem, steps)[1], optim)
    batches = Batches(Volumes(shape), np.arange(NUM_VOLUMES), batch_size, 1, (0, 0), AugmentConfig(), local.device)
    seconds, losses = [], []
    for step in range(steps):
        began = time.perf_counter()
        terms = local.forward(batches.at(step, 0), "model")
        local.backward(terms, "model", 0, 1)
        local.update("model", step)
        losses.append(local.mean({"l1": terms["reconstruction"].detach()})["l1"])
        seconds.append(time.perf_counter() - began)
    batches.close()
    assert torch.isfinite(torch.tensor(losses)).all()
    return seconds, losses


def profile_fastest(shape: tuple[int, int, int], batch_size: int) -> None:
    """Print the shares of the operations in one step, and the step's share of the arithmetic limit."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    from gen3d.models.task import Batch
    from gen3d.train.engine.config import EngineConfig
    from gen3d.train.engine.start import start_engine
    from gen3d.train.optim import OptimConfig

    engine = start_engine(EngineConfig(**LAST), built(shape, 1, 20)[1], OptimConfig(steps=20, batch_size=batch_size))
    volumes = torch.from_numpy(Volumes(shape).data[:batch_size])

    def step(number: int) -> float:
        began = time.perf_counter()
        batch = Batch(volumes.clone(), ("p",) * batch_size, number, tuple(range(batch_size)))
        engine.backward(engine.forward(batch, "model"), "model", 0, 1)
        engine.update("model", number)
        return time.perf_counter() - began

    for number in range(3):
        step(number)
    seconds = min(step(number) for number in range(3, 6))
    with FlopCounterMode(display=False) as counter:
        step(6)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step(7)
    first, second = (torch.rand((4096, 4096)).bfloat16() for _ in range(2))
    products = []
    for _ in range(5):
        began = time.perf_counter()
        first @ second
        products.append(time.perf_counter() - began)
    limit = 2 * 4096**3 / min(products)
    shares = {event.key: event.self_cpu_time_total for event in recorded.key_averages()}
    total = sum(shares.values())
    print(f"one step: {seconds:.2f} s, {counter.get_total_flops() / 1e9:.0f} GFLOP")
    print(
        f"arithmetic limit {limit / 1e9:.0f} GFLOP/s (bf16 product of 4096 x 4096): the step reaches "
        f"{counter.get_total_flops() / seconds / limit:.0%} of it"
    )
    for name, spent in sorted(shares.items(), key=lambda item: -item[1])[:10]:
        print(f"  {spent / total:6.1%}  {name}")


def one_row(name: str, shape: tuple[int, int, int], steps: int, batch_size: int) -> dict[str, float]:
    """Run one row in this process."""
    settings = ROWS[name]
    if settings.get("doubled_map"):
        from gen3d.nets import autoencoder

        autoencoder.convolution_of_doubling = lambda block: None
    if settings.get("give_back"):
        from gen3d.train.engine import interface as engine

        engine.keep_freed_memory = lambda: False
    if name == "tutorial":
        seconds, losses = run_tutorial(shape, steps, batch_size)
    else:
        seconds, losses = run_ours(shape, steps, batch_size, settings["engine"], settings["stem"])
    return {
        "seconds": statistics.median(seconds[2:]),
        "l1": statistics.mean(losses[-5:]),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 80, 64])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    parser.add_argument("--row", choices=ROWS, help="run one row and print its figures as JSON")
    arguments = parser.parse_args()
    shape = (arguments.shape[0], arguments.shape[1], arguments.shape[2])
    if arguments.row:
        print(json.dumps(one_row(arguments.row, shape, arguments.steps, arguments.batch)))
        return
    print(f"{' x '.join(map(str, shape))} voxels, batch {arguments.batch}, {arguments.steps} steps")
    print(f"{'':30s}{'s/step':>8s}{'volumes/s':>11s}{'peak GiB':>10s}{'last L1':>9s}{'speed':>8s}")
    reference = None
    for name in ROWS:
        command = [sys.executable, str(Path(__file__)), "--row", name, "--steps", str(arguments.steps)]
        command += ["--shape", *map(str, shape), "--batch", str(arguments.batch)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        reference = reference or row["seconds"]
        print(
            f"{name:30s}{row['seconds']:8.2f}{arguments.batch / row['seconds']:11.2f}{row['peak_gib']:10.2f}"
            f"{row['l1']:9.4f}{reference / row['seconds']:7.2f}x",
            flush=True,
        )
    if arguments.profile:
        profile_fastest(shape, arguments.batch)


if __name__ == "__main__":
    run_script(main)
