"""How many times faster than the 1,000-step DDPM of MONAI's tutorial is each sampler, and is it as good?

    python analysis/benchmarks/sampling.py [--shape 64 80 64] [--samples 400] [--train-steps 3000] [--device cpu|cuda]
    python analysis/benchmarks/sampling.py --run RUN --latents LATENTS     with a run's network and held-out latents

Time. The tutorial's row is its DDPMScheduler and DiffusionInferer with the U-Net of its 3d_ldm notebook (widths 32, 64, 64)
in float32, one volume at a time, and decoding by its AutoencoderKL; on a GPU in float16, as its inference.py. Ours is the
same U-Net sampled in bfloat16, --per-call volumes at once, and our decoder. Seconds per volume; of rows with more than
--timed-steps evaluations so many are timed and the rest is extrapolated, since all cost the same.

Quality. Without --run, two small U-Nets are trained on latents of known statistics (two groups in the ratio 6 : 4, smooth
variation, white detail of SD 0.2): one to predict the noise under the tutorial's schedule, one as rectified flow. Then
every sampler draws from the same first noise, and each row shows the energy distance to held-out latents (relative to its
largest value, x 1000; about 0 for perfect samples, may be negative) with the bootstrap's 95 % interval, its difference to
the DDPM of 1,000 steps with the tutorial's objective, and two statistics whose true values are known. With --run the
network and its noising are the run's, the held-out latents those of `gen3d encode` that it never saw, and the reference is
DDPM with 1,000 steps of the same network. With --exact the networks are replaced by the best denoiser of the known
latents, in closed form, so that only the errors of the samplers remain.

A row is "as good" when its distance exceeds the DDPM's by no more than two sets of real latents of that size differ by in
97.5 % of cases, and the interval of the difference reaches 0. More --samples make this stricter. The row `clipped` is the
tutorial as it stands: its scheduler clips the estimate of the clean latent to [-1, 1] (`clip_sample` is on unless turned
off); no other row does.

Prints one table: evaluations of the network, seconds per volume, ratio to the tutorial, quality. Not run on a GPU so far.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusion_step import BETAS, LATENT_CHANNELS, REDUCTION, WIDTHS, built, tutorial_autoencoder
from sampling_quality import (
    SHAPE,
    STATISTICS,
    Distances,
    Exact,
    Learned,
    Network,
    Row,
    draw_known,
    floor_of,
    interval,
    sampled,
    train,
)
from torch import Tensor

from gen3d.cli import run_script
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from gen3d.models.diffusion.noising import Noising
from gen3d.nets.device import computes_bfloat16

NUM_TRAINED, BATCH_SIZE = 4000, 32
"""Latents of known statistics that the networks learn from, and their batch."""
LEAST_HELD_OUT = 10
"""Latents in each of the two real sets."""
REFERENCE = Row("scaled_linear", "ddpm", 1000)
STEPS: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    "scaled_linear": (("ddpm", (100,)), ("ddim", (25, 50, 100)), ("dpm_solver", (10, 15, 25, 50)), ("heun", (13,))),
    "flow": (("euler", (10, 25, 50)), ("heun", (5, 8, 13)), ("dpm_solver", (5, 10, 15, 25, 50))),
}


def rows_of(noising: str) -> list[Row]:
    """The rows of a noising's network."""
    steps = STEPS["flow" if noising == "flow" else "scaled_linear"]
    return [Row(noising, sampler, num) for sampler, nums in steps for num in nums]


@dataclass(frozen=True)
class Setting:
    """Material of the comparison: networks to draw from and to time, by noising; real latents in two sets; conditions [n, p]."""

    rows: list[Row]
    reference: Row
    networks: dict[str, Network]
    timed: dict[str, LatentDiffusion]
    held_out: Tensor
    other: Tensor
    conditions: Tensor
    decode: Callable[[Tensor], Tensor]
    known: bool


def known_setting(given: argparse.Namespace) -> Setting:
    """Small networks of latents of known statistics; the tutorial's U-Net and decoder for the times."""
    rows = [REFERENCE, Row("scaled_linear", "ddpm", 1000, clipped=True), *itertools.chain(*map(rows_of, STEPS))]
    timed = {noising: built(tuple(given.shape), noising=noising).to(given.device).eval() for noising in STEPS}
    held_out, other = draw_known(given.samples, seed=2), draw_known(given.samples, seed=3)
    decode = tutorial_autoencoder().to(given.device).decode
    conditions = torch.zeros(given.samples, 0)
    networks = {noising: Exact(Noising(noising)) for noising in STEPS} if given.exact else known_networks(given)
    return Setting(rows, REFERENCE, networks, timed, held_out, other, conditions, decode, known=True)


def run_setting(given: argparse.Namespace) -> Setting:
    """A run's network, and in two halves the latents of people it never saw, with their conditions."""
    from gen3d.models.run import load_run

    run = load_run(given.run)
    model = run.member(0)
    assert isinstance(model, LatentDiffusion), f"{given.run} is no latent diffusion model"
    model = model.to(given.device).eval()
    table = pd.read_csv(given.latents / "latents.tsv", sep="\t", dtype={"subject": str})
    unseen = np.flatnonzero(~run.seen.by_any(table))
    unseen = np.random.default_rng(0).permutation(unseen)[: 2 * (len(unseen) // 2)]
    if len(unseen) < 2 * LEAST_HELD_OUT:
        sys.exit(f"{given.latents}: {len(unseen)} scans of people the run never saw; {2 * LEAST_HELD_OUT} are needed.")
    latents = torch.from_numpy(np.load(given.latents / "latents.npy")[unseen]).reshape(-1, *model.latent_shape)
    held_out, other = latents.chunk(2)
    conditions = torch.from_numpy(model.coding.encode(table.iloc[unseen[: len(held_out)]]))
    noising = model.config.noising
    reference = Row(noising, "ddpm", 1000)
    rows = [reference, *rows_of(noising)]

    def decode(latents: Tensor) -> Tensor:
        return model.decode(model.unstandardise(latents))

    return Setting(
        rows, reference, {noising: Learned(model)}, {noising: model}, held_out, other, conditions, decode, known=False
    )


def seconds_of_tutorial(setting: Setting, given: argparse.Namespace) -> float:
    """Seconds of one volume: 1,000 steps and decoding."""
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    device, model = torch.device(given.device), next(iter(setting.timed.values()))
    scheduler = DDPMScheduler(num_train_timesteps=1000, **BETAS)
    scheduler.set_timesteps(num_inference_steps=1000)
    scheduler.timesteps = scheduler.timesteps[: given.timed_steps]
    noise = torch.randn((1, *model.latent_shape)).to(device)
    conditions = torch.full((1, len(model.coding.covariates)), torch.nan, device=device)

    def unet(image: Tensor, timesteps: Tensor, context: Tensor | None) -> Tensor:
        output: Tensor = model.denoiser(image, timesteps, conditions)
        return output

    with torch.no_grad(), torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        decode_once = setting.decode(noise)  # warm
        decode_once.sum().item()
        began = time.perf_counter()
        latent = DiffusionInferer(scheduler).sample(noise, unet, scheduler, verbose=False)
        latent.sum().item()
        denoised = time.perf_counter()
        setting.decode(latent).sum().item()
        decoded = time.perf_counter()
    return (denoised - began) / len(scheduler.timesteps) * 1000 + decoded - denoised


def seconds_of(row: Row, model: LatentDiffusion, given: argparse.Namespace) -> float:
    """Seconds per volume of one of our rows: sampling, decoding, in calls of several volumes."""
    device, times = model.latent_mean.device, row.times(model.noising)[: given.timed_steps + 1]
    first = torch.randn((given.per_call, *model.latent_shape)).to(device)
    conditions = torch.full((given.per_call, len(model.coding.covariates)), torch.nan, device=device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
        began = time.perf_counter()
        latents = row.sample(Learned(model), conditions, first, times, 0)
        latents.sum().item()
        denoised = time.perf_counter()
        model.decode(model.unstandardise(latents)).sum().item()
        decoded = time.perf_counter()
    steps = len(times) - 1
    return ((denoised - began) / steps * row.steps + decoded - denoised) / given.per_call


def known_networks(given: argparse.Namespace) -> dict[str, Network]:
    """Networks trained on latents of known statistics, by noising."""
    latents = draw_known(NUM_TRAINED, seed=1)
    networks: dict[str, Network] = {}
    for noising in STEPS:
        began = time.perf_counter()
        settings: dict[str, Any] = {"noising": noising}
        if noising != "flow":  # as in the tutorial: predict the noise, at times drawn evenly, without weights
            settings |= {"prediction": "epsilon", "times": "uniform", "snr_gamma": float("inf")}
        model = small(settings)
        train(model, latents, given.train_steps, BATCH_SIZE, given.device)
        networks[noising] = Learned(model)
        print(f"{noising}: trained {given.train_steps} steps in {time.perf_counter() - began:.0f} s", flush=True)
    return networks


def small(settings: dict[str, Any]) -> LatentDiffusion:
    """A small untrained model of latents of SHAPE; its autoencoder is not used."""
    from gen3d.imaging.plan import GridPlan
    from gen3d.models.base import Statistics
    from gen3d.models.normative.vae import VAEConfig

    shape = (SHAPE[1] * REDUCTION, SHAPE[2] * REDUCTION, SHAPE[3] * REDUCTION)
    plan = GridPlan(spacing_mm=2.0, shape=shape, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))
    whole = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(shape, bool))
    autoencoder = VAEConfig(latent="spatial", stem=1, latent_channels=LATENT_CHANNELS, **WIDTHS)
    widths = {"base_channels": 16, "max_channels": 32, "head_channels": 16}
    config = LatentDiffusionConfig(
        conditions=(), autoencoder=autoencoder, latent_shape=SHAPE, times="logit_normal", **widths
    )
    torch.manual_seed(0)
    return LatentDiffusionConfig(**(config.model_dump() | settings)).build(plan, ("t1w",), whole, 0)


def print_table(setting: Setting, given: argparse.Namespace) -> None:
    """Draw, measure and print row by row."""
    distances = Distances(setting.held_out)
    least, most = floor_of(setting.held_out, setting.other)
    tutorial = seconds_of_tutorial(setting, given)
    print(
        f"tutorial: {tutorial:.1f} s per volume; real against real, 95 % of pairs: {1e3 * least:+.2f} to {1e3 * most:+.2f}"
    )
    names = list(STATISTICS) if setting.known else []
    for known in names:
        print(f"true {known}: {STATISTICS[known](draw_known(NUM_TRAINED, seed=4)):.3f}", flush=True)
    print(
        f"{'':28s}{'steps':>6s}{'calls':>6s}{'s/volume':>10s}{'speed':>8s}{'distance x 1000':>28s}{'more than DDPM':>28s}  "
        + "".join(f"{known:>9s}" for known in names)
        + "  as good"
    )
    for noising, model in setting.timed.items():
        seconds_of(Row(noising, "ddim", 2), model, given)  # warm
    reference = None
    for row in setting.rows:
        seconds = seconds_of(row, setting.timed[row.noising], given)
        latents = sampled(
            row, setting.networks[row.noising], setting.conditions, "cpu" if given.exact else given.device
        )
        values = distances.of(latents)
        reference = values if row == setting.reference else reference
        assert reference is not None
        more = values - reference
        as_good = more[0] <= most and interval(more)[0] <= 0
        verdict = "" if row == setting.reference else "yes" if as_good else "no"
        name = f"{row.noising} {row.sampler}{' clipped' if row.clipped else ''}"
        print(
            f"{name:28s}{row.steps:6d}{row.evaluations:6d}{seconds:10.3f}{tutorial / seconds:7.1f}x"
            f"{with_interval(values):>28s}{with_interval(more):>28s}  "
            + "".join(f"{STATISTICS[known](latents):9.3f}" for known in names)
            + f"  {verdict}",
            flush=True,
        )


def with_interval(values: np.ndarray) -> str:
    """A distance x 1000 with its interval."""
    low, high = interval(values)
    return f"{1e3 * values[0]:.2f} [{1e3 * low:+.2f}, {1e3 * high:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 80, 64], help="volumes of the timing, without --run")
    parser.add_argument("--per-call", type=int, default=4, help="volumes that we sample at once")
    parser.add_argument("--timed-steps", type=int, default=100, help="longer rows are timed on so many steps")
    parser.add_argument("--samples", type=int, default=400, help="samples per row and held-out latents, without --run")
    parser.add_argument("--exact", action="store_true", help="the best denoiser in closed form instead of networks")
    parser.add_argument("--train-steps", type=int, default=3000)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--run", type=Path, help="run folder of a latent diffusion model")
    parser.add_argument("--latents", type=Path, help="folder of `gen3d encode` with people that the run never saw")
    given = parser.parse_args()
    if (given.run is None) != (given.latents is None):
        parser.error("--run and --latents go together")
    where = f"{len(os.sched_getaffinity(0))} cores" if given.device == "cpu" else "one GPU"
    print(f"{where}, {given.per_call} volumes per call", flush=True)
    print_table(run_setting(given) if given.run else known_setting(given), given)


if __name__ == "__main__":
    run_script(main)
