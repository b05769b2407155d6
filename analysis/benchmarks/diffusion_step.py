"""How fast is a training step of latent diffusion against the loop of MONAI's own 3D latent diffusion tutorial?

    python analysis/benchmarks/diffusion_step.py [--steps 20] [--shape 64 80 64] [--batch 2] [--device cpu|cuda]

Inputs: none (simulated volumes). Every row trains the same DiffusionModelUNet (widths 32, 64, 64 of the tutorial, one
residual block per level, attention on the two coarse levels), from the same initial weights, on volumes of the same grid:

  tutorial      the loop of MONAI's 3d_ldm tutorial (notebook and train_diffusion.py): AutoencoderKL (32, 64, 64; three
                latent channels) encodes every batch with its frozen weights, LatentDiffusionInferer, DDPMScheduler,
                mean squared error of the noise, Adam. On a CPU its autocast("cuda") does nothing: float32. On a GPU
                float16 with its GradScaler. Without the attention of the notebook's autoencoder (the tutorial's
                train_diffusion.py has none either), which would make the step slower still
  ... bf16      the same under torch.autocast in bfloat16, on the CPU too
  ... latents kept   the same loop on latents that were encoded once: what keeping them alone is worth
  gen3d fp32    our task, engine and loop (rectified flow, averaged weights, clipping) on kept latents, float32
  ... bf16      the same in bfloat16 (loss in float32)
  ... channels last    bfloat16, latents in channels_last_3d layout
  ... compiled  and with torch.compile

Every row is a process of its own, so that peak memory is that row's: resident size on a CPU, torch's allocator on a GPU.
Prints seconds per step (median after two warm-up steps), volumes/s, peak memory and the ratio to the tutorial; then the
seconds to encode a volume, which is done once. Not run on a GPU so far.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from gen3d.cli import run_script

WIDTHS = {"base_channels": 32, "max_channels": 64, "levels": 3, "res_blocks": 1}
LATENT_CHANNELS, REDUCTION = 3, 4
LEARNING_RATE = 1e-4
BETAS = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}
"""The tutorial's noise schedule."""
NUM_VOLUMES = 8
ROWS: dict[str, dict[str, Any]] = {
    "tutorial": {},
    "  bf16": {"autocast": True},
    "  latents kept": {"kept": True},
    "gen3d fp32": {"engine": {"precision": "fp32"}},
    "gen3d bf16": {"engine": {"precision": "bf16"}},
    "  channels last": {"engine": {"precision": "bf16", "channels_last": "on"}},
    "  compiled": {"engine": {"precision": "bf16", "compile": True}},
}


class Arrays:
    """Volumes or latents [n, C, ...] as a source of the trainer."""

    channels = ("t1w",)

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.subjects = data, [f"p{index}" for index in range(len(data))]

    def load(self, rows: np.ndarray) -> np.ndarray:
        return self.data[rows]

    def conditions(self, rows: np.ndarray) -> None:
        return None

    def labels(self, rows: np.ndarray) -> None:
        return None


def volumes_of(shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth random volumes with unit variance."""
    rng = np.random.default_rng(0)
    fields = [gaussian_filter(rng.standard_normal(shape), 1.5) for _ in range(NUM_VOLUMES)]
    return np.stack([field / field.std() for field in fields])[:, None].astype(np.float32)


def latent_shape(shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Shape of a latent of the tutorial's autoencoder."""
    return (LATENT_CHANNELS, shape[0] // REDUCTION, shape[1] // REDUCTION, shape[2] // REDUCTION)


def built(shape: tuple[int, int, int], **settings: Any) -> Any:
    """Our latent diffusion model with the tutorial's U-Net, without conditions; the weights come from a fixed seed."""
    import torch

    from gen3d.imaging.plan import GridPlan
    from gen3d.models.base import Statistics
    from gen3d.models.diffusion.latent_diffusion import LatentDiffusionConfig
    from gen3d.models.normative.vae import VAEConfig

    plan = GridPlan(spacing_mm=2.0, shape=shape, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))
    whole = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(shape, bool))
    config = LatentDiffusionConfig(
        conditions=(),
        attention_levels=2,
        head_channels=32,
        autoencoder=VAEConfig(latent="spatial", stem=1, latent_channels=LATENT_CHANNELS, **WIDTHS),
        latent_shape=latent_shape(shape),
        **WIDTHS,
        **settings,
    )
    torch.manual_seed(0)
    return config.build(plan, ("t1w",), whole, 0)


def tutorial_autoencoder() -> Any:
    """The tutorial's autoencoder, without attention."""
    from monai.networks.nets import AutoencoderKL

    return AutoencoderKL(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=(32, 64, 64),
        latent_channels=LATENT_CHANNELS,
        num_res_blocks=1,
        norm_num_groups=16,
        attention_levels=(False, False, False),
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    ).eval()


def run_tutorial(given: argparse.Namespace, autocast: bool = False, kept: bool = False) -> list[float]:
    """The training cell of the tutorial: seconds of each step."""
    import torch
    from monai.inferers import DiffusionInferer, LatentDiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    from gen3d.train.random_numbers import rows_at

    device, shape = torch.device(given.device), tuple(given.shape)
    autoencoder, unet = tutorial_autoencoder().to(device), built(shape).denoiser.network.to(device)
    data = np.random.default_rng(1).standard_normal((NUM_VOLUMES, *latent_shape(shape)), np.float32)
    source = Arrays(data if kept else volumes_of(shape))
    scheduler = DDPMScheduler(num_train_timesteps=1000, **BETAS)
    inferer = DiffusionInferer(scheduler) if kept else LatentDiffusionInferer(scheduler, scale_factor=1.0)
    stage_1 = {} if kept else {"autoencoder_model": autoencoder}
    optimizer_diff = torch.optim.Adam(params=unet.parameters(), lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and not autocast)
    precision = torch.bfloat16 if autocast else torch.float16
    mixed = autocast or device.type == "cuda"
    unet.train()
    seconds = []
    for step in range(given.steps):
        began = time.perf_counter()
        images = torch.from_numpy(source.load(rows_at(step, given.batch, NUM_VOLUMES, 0, 0))).to(device)
        optimizer_diff.zero_grad(set_to_none=True)
        with torch.autocast(device.type, precision) if mixed else nullcontext():
            noise = torch.randn((len(images), *latent_shape(shape))).to(device)
            timesteps = torch.randint(0, scheduler.num_train_timesteps, (len(images),), device=device).long()
            noise_pred = inferer(inputs=images, diffusion_model=unet, noise=noise, timesteps=timesteps, **stage_1)
            loss = torch.nn.functional.mse_loss(noise_pred.float(), noise.float())
        scaler.scale(loss).backward()
        scaler.step(optimizer_diff)
        scaler.update()
        assert np.isfinite(loss.item())
        seconds.append(time.perf_counter() - began)
    return seconds


def run_ours(given: argparse.Namespace, engine: dict[str, Any]) -> list[float]:
    """Our task, engine and loop on kept latents: seconds of each step."""
    from gen3d.train.augment import AugmentConfig
    from gen3d.train.batches import Batches
    from gen3d.train.engine.config import EngineConfig
    from gen3d.train.engine.start import start_engine
    from gen3d.train.optim import OptimConfig

    shape = tuple(given.shape)
    optim = OptimConfig(steps=given.steps, learning_rate=LEARNING_RATE, batch_size=given.batch)
    model = built(shape)
    local = start_engine(EngineConfig(device=given.device, **engine), model.config.task_of(model, given.steps), optim)
    data = np.random.default_rng(1).standard_normal((NUM_VOLUMES, *latent_shape(shape)), np.float32)
    rows = np.arange(NUM_VOLUMES)
    batches = Batches(Arrays(data), rows, given.batch, 1, (0, 0), AugmentConfig(), local.device)
    seconds = []
    for step in range(given.steps):
        began = time.perf_counter()
        terms = local.forward(batches.at(step, 0), "model")
        local.backward(terms, "model", 0, 1)
        local.update("model", step)
        assert np.isfinite(local.mean({"loss": terms["loss"].detach()})["loss"])
        seconds.append(time.perf_counter() - began)
    batches.close()
    return seconds


def seconds_to_encode(given: argparse.Namespace) -> list[float]:
    """Seconds that `gen3d encode` takes per volume, once: the posterior mean by our autoencoder, in its precision."""
    import torch

    from gen3d.nets.device import computes_bfloat16

    device = torch.device(given.device)
    autoencoder = built(tuple(given.shape)).autoencoder.to(device).eval()
    volumes = torch.from_numpy(volumes_of(tuple(given.shape))).to(device)
    seconds = []
    for volume in volumes[:, None]:
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
            autoencoder.encode(volume).float().sum().item()
        seconds.append(time.perf_counter() - began)
    return seconds


def one_row(name: str, given: argparse.Namespace) -> dict[str, float]:
    """Run one row in this process."""
    if name == "encode":
        return {"seconds": statistics.median(seconds_to_encode(given)[2:])}
    settings = ROWS[name]
    seconds = run_ours(given, settings["engine"]) if "engine" in settings else run_tutorial(given, **settings)
    if given.device == "cuda":
        import torch

        peak_gib = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": statistics.median(seconds[2:]), "peak_gib": peak_gib}


def measured(name: str, given: argparse.Namespace) -> dict[str, float]:
    """The figures of one row, from a process of its own."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--row", name, "--steps", str(given.steps)]
    command += ["--shape", *map(str, given.shape), "--batch", str(given.batch), "--device", given.device]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    row: dict[str, float] = json.loads(output.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 80, 64])
    parser.add_argument("--batch", type=int, default=2, help="volumes per step (the tutorial has 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="all, unless some are named")
    parser.add_argument("--row", choices=[*ROWS, "encode"], help="run one row and print its figures as JSON")
    given = parser.parse_args()
    if given.row:
        print(json.dumps(one_row(given.row, given)))
        return
    sides = " x ".join(map(str, latent_shape(tuple(given.shape))))
    where = f"{len(os.sched_getaffinity(0))} cores" if given.device == "cpu" else "one GPU"
    print(f"{' x '.join(map(str, given.shape))} voxels, latents {sides}, batch {given.batch}, {where}")
    print(f"{'':22s}{'s/step':>9s}{'volumes/s':>11s}{'peak GiB':>10s}{'speed':>8s}{'memory':>8s}")
    reference = None
    for name in given.rows:
        row = measured(name, given)
        reference = reference or row
        print(
            f"{name:22s}{row['seconds']:9.3f}{given.batch / row['seconds']:11.2f}{row['peak_gib']:10.2f}"
            f"{reference['seconds'] / row['seconds']:7.2f}x{row['peak_gib'] / reference['peak_gib']:7.2f}x",
            flush=True,
        )
    print(f"encoding a volume, once: {measured('encode', given)['seconds']:.3f} s")


if __name__ == "__main__":
    run_script(main)
