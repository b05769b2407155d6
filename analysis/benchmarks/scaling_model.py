"""How would training scale from 1 to 8 nodes of 4 GPUs? A model with its assumptions, not a measurement.

    python analysis/benchmarks/scaling_model.py [--seconds-per-volume S] [--overlap 0] [--loader 20] ...

Inputs: none, or figures measured elsewhere, as options: seconds of forward and backward pass per volume of one GPU, the
loader's ceiling per process (analysis/benchmarks/loader.py), the share of communication that hides behind computing.

    step = compute + update + exposed communication + waiting for the slowest
    compute = volumes of a GPU x seconds per volume + parts x seconds per part
    seconds per volume, if not given = operations / (share x peak) + 3 x bytes written / (share x memory bandwidth)
    communication = collectives x hops x latency + bytes sent / (share x bandwidth of the slowest link of the ring)
    volumes/s = global batch / max(step, time in which the loaders read the batch)

Bytes sent come from the same plan as `gen3d train --dry-run`; operations and bytes written are counted by running the
network on tensors without contents (every byte written is assumed to be read twice, and no kernels to be fused). The
GPU's peak and bandwidth come from its data sheet: expect a factor of two either way.
Between nodes a ring runs over every network port of a node, so that a GPU's ring has all of them together.
Weak scaling: the volumes of each GPU stay, the global batch grows (which changes the science: see optim.rate_rule).
Strong scaling: the global batch stays, each GPU's share shrinks. Efficiency = T1 / (N TN), volumes/s per GPU against one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from gen3d.cli import run_script
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.memory import MemoryEstimator, StepSettings, run_on_meta, step_flops

CONFIG = Path(__file__).parents[2] / "configs" / "train" / "vae_normative.yaml"
NODES = (1, 2, 4, 8)
GPUS_PER_NODE = 4
NUM_STEPS = 100
CHANNELS = ("t1w", "log_jacobian")


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
class Machine:
    """A cluster by its makers' data sheets; nothing was measured here. GB/s in one direction."""

    name: str
    parts: str
    gpu: Gpu
    inside_gb_s: float
    ports: int


PORT_GB_S = 25.0
"""200 Gb/s: NDR200 and HDR200."""

MACHINES = {
    "mn5": Machine("MareNostrum 5 ACC", "4 x H100 64 GB and 4 x NDR200 per node", GPUS[0], 150, 4),
    "meluxina": Machine("MeluXina GPU", "4 x A100 40 GB and 2 x HDR200 per node", GPUS[1], 100, 2),
}
"""Inside a node: NVLink between its GPUs."""

PUBLISHED = (
    (
        "3D U-Net on 32 GPUs, BSC MareNostrum (earlier GPUs, TensorFlow and Ray)",
        "12 x (data parallel), efficiency 0.38",
    ),
    ("the same, one experiment per GPU", "14 x, efficiency 0.44"),
    ("CosmoFlow and 3D U-Net, up to 2048 V100", "hybrid of data and model parallel; no single figure"),
    ("VAE of Down syndrome, 1 to 8 nodes of 4 H100", "no figure published"),
)


@dataclass(frozen=True)
class Assumed:
    """Numbers of the model that are assumed and not counted."""

    seconds_per_volume: float
    seconds_per_part: float
    update_s: float
    overlap: float
    link_share: float
    collectives: int
    latency_s: float
    jitter: float
    loader_volumes_s: float


def task_of(config: Any, shape: tuple[int, int, int]) -> Any:
    """The task of the model on a grid."""
    from gen3d.imaging.plan import GridPlan
    from gen3d.models.base import Statistics

    plan = GridPlan(spacing_mm=1.0, shape=shape, affine=tuple(tuple(map(float, row)) for row in np.eye(4)))
    num = len(CHANNELS)
    whole = Statistics(np.zeros(num, np.float32), np.ones(num, np.float32), np.ones(shape, bool))
    return config.task_of(config.build(plan, CHANNELS, whole, 1), NUM_STEPS)


def seconds_on(gpu: Gpu, operations: float, written: float) -> float:
    """Rough seconds of a volume in bfloat16, from its operations and the bytes that they write."""
    arithmetic = operations / (gpu.peak_tflops * 1e12 * PEAK_SHARE)
    return arithmetic + TOUCHES * written / (gpu.memory_gb_s * 1e9 * BANDWIDTH_SHARE)


def communication_s(sent_bytes: int, num_gpus: int, machine: Machine, assumed: Assumed) -> float:
    """Seconds of a step's collectives: a ring is as fast as its slowest link, and waits for every hop."""
    if num_gpus == 1:
        return 0.0
    between = min(machine.inside_gb_s, machine.ports * PORT_GB_S)
    link = machine.inside_gb_s if num_gpus <= GPUS_PER_NODE else between
    hops = 2 * (num_gpus - 1)
    return assumed.collectives * hops * assumed.latency_s + sent_bytes / (link * 1e9 * assumed.link_share)


@dataclass(frozen=True)
class Step:
    """A predicted step: seconds, volumes/s of all GPUs, and the shares of communication and loading."""

    seconds: float
    speed: float
    exchange: float
    loading: float


def predict(total: int, num_gpus: int, at_once: int, sent_bytes: int, machine: Machine, assumed: Assumed) -> Step:
    """A step of `total` volumes."""
    volumes = total // num_gpus
    compute = volumes * assumed.seconds_per_volume + volumes / at_once * assumed.seconds_per_part
    exposed = (1 - assumed.overlap) * communication_s(sent_bytes, num_gpus, machine, assumed)
    # The slowest decides: the largest of N normal deviations grows with the root of the logarithm of N.
    waiting = compute * assumed.jitter * float(np.sqrt(2 * np.log(num_gpus)))
    loading = volumes / assumed.loader_volumes_s
    seconds = max(compute + assumed.update_s + exposed + waiting, loading)
    return Step(seconds, total / seconds, exposed / seconds, loading / seconds)


def print_table(
    config: Any, shape: tuple[int, int, int], machine: Machine, assumed: Assumed, given: argparse.Namespace
) -> None:
    """Weak and strong scaling, one row per number of GPUs."""
    each, batch = given.volumes_per_gpu, given.batch
    estimator = MemoryEstimator(lambda model: task_of(model, shape))

    def step(num_gpus: int, total: int) -> Step:
        at_once = min(given.at_once or total, total // num_gpus)
        optim = OptimConfig(batch_size=total, steps=NUM_STEPS)
        settings = StepSettings(config, optim, "cuda", torch.bfloat16, True, given.zero, num_gpus, at_once)
        sent = estimator.traffic(settings).total if num_gpus > 1 else 0
        return predict(total, num_gpus, at_once, sent, machine, assumed)

    print(f"\n{machine.name}: {machine.parts}")
    print(f"      |{f'weak scaling, {each} volumes per GPU':^49s}|{f'strong scaling, batch of {batch}':^42s}")
    print(f"{'GPUs':>5s} |{'s/step':>8s}{'volumes/s':>11s}{'exchange':>10s}{'loader':>8s}{'efficiency':>12s}", end="|")
    print(f"{'s/step':>9s}{'volumes/s':>11s}{'exchange':>10s}{'efficiency':>12s}")
    alone, alone_strong = step(1, each).speed, step(1, batch).speed
    for count in (1, 2, *(GPUS_PER_NODE * nodes for nodes in NODES)):
        weak = step(count, each * count)
        print(f"{count:5d} |{weak.seconds:8.3f}{weak.speed:11.1f}{weak.exchange:10.1%}{weak.loading:8.0%}", end="")
        print(f"{weak.speed / count / alone:12.3f}|", end="")
        if batch % count:
            print(f"{'-':>9s}{'-':>11s}{'-':>10s}{'-':>12s}")
        else:
            strong = step(count, batch)
            print(f"{strong.seconds:9.3f}{strong.speed:11.1f}{strong.exchange:10.1%}", end="")
            print(f"{strong.speed / count / alone_strong:12.3f}")


def say_assumptions(machine: Machine, assumed: Assumed, source: str, zero: int) -> None:
    """Print every assumed number."""
    print(
        f"  assumed: {assumed.seconds_per_volume:.3f} s per volume\n  ({source});\n"
        f"  {assumed.seconds_per_part:g} s per part and {assumed.update_s:g} s per update; {machine.inside_gb_s:g} GB/s "
        f"inside a node, {machine.ports} x {PORT_GB_S:g} GB/s between nodes,\n"
        f"  {assumed.link_share:.0%} of it reached; {assumed.collectives} collectives, {assumed.latency_s * 1e6:g} us "
        f"per hop; {assumed.overlap:.0%} of the exchange hidden;\n"
        f"  computing varies by {assumed.jitter:.1%}; a process reads {assumed.loader_volumes_s:g} volumes/s; "
        f"ZeRO {zero}, gradients in float32"
    )


def main() -> None:
    from gen3d.models.normative.vae import VAEConfig

    settings = yaml.safe_load(CONFIG.read_text())
    at_once = settings.get("engine", {}).get("volumes_at_once", 0)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[160, 224, 160], help="voxels at 1 mm")
    parser.add_argument("--volumes-per-gpu", type=int, default=8, help="weak scaling")
    parser.add_argument("--batch", type=int, default=settings["optim"]["batch_size"], help="strong scaling")
    parser.add_argument("--at-once", type=int, default=at_once, help="volumes a GPU computes at once; 0: all")
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=0)
    parser.add_argument("--machine", choices=(*MACHINES, "all"), default="all")
    parser.add_argument("--seconds-per-volume", type=float, help="forward and backward on one GPU, if it was measured")
    parser.add_argument(
        "--seconds-per-part", type=float, default=SECONDS_PER_PART, help="launching kernels, reading the loss"
    )
    parser.add_argument("--update-s", type=float, default=0.005, help="clipping, AdamW, running average")
    parser.add_argument("--overlap", type=float, default=0.0, help="share of communication hidden behind computing")
    parser.add_argument("--link-share", type=float, default=0.7, help="of a link's speed that a collective reaches")
    parser.add_argument("--collectives", type=int, default=6, help="per step")
    parser.add_argument("--latency-us", type=float, default=10.0, help="of one hop of a ring")
    parser.add_argument("--jitter", type=float, default=0.01, help="standard deviation of a GPU's computing time")
    parser.add_argument("--loader", type=float, default=60.0, help="volumes/s that one process can read")
    given = parser.parse_args()
    shape = (given.shape[0], given.shape[1], given.shape[2])
    config = VAEConfig(**settings["model"])
    with torch.device("meta"):
        task = task_of(config, shape)
    alone = StepSettings(config, OptimConfig(batch_size=1, steps=NUM_STEPS), "cuda", torch.bfloat16)
    operations, written = step_flops(task, NUM_STEPS - 1), run_on_meta(task, alone).made
    print(f"vae_normative.yaml at {' x '.join(map(str, shape))}, 2 channels: per volume and step ", end="")
    print(f"{operations / 1e12:.2f} TFLOP and {written / 1e9:.1f} GB written")
    for name, machine in MACHINES.items():
        if given.machine not in (name, "all"):
            continue
        source = f"from {operations / 1e12:.2f} TFLOP at {PEAK_SHARE:.0%} of the GPU's peak and {TOUCHES} x "
        source += f"{written / 1e9:.1f} GB at {BANDWIDTH_SHARE:.0%} of its bandwidth; not measured"
        assumed = Assumed(
            seconds_per_volume=given.seconds_per_volume or seconds_on(machine.gpu, operations, written),
            seconds_per_part=given.seconds_per_part,
            update_s=given.update_s,
            overlap=given.overlap,
            link_share=given.link_share,
            collectives=given.collectives,
            latency_s=given.latency_us * 1e-6,
            jitter=given.jitter,
            loader_volumes_s=given.loader,
        )
        print_table(config, shape, machine, assumed, given)
        say_assumptions(machine, assumed, "measured" if given.seconds_per_volume else source, given.zero)
    print("\npublished, none of it with this network or this software:")
    for what, found in PUBLISHED:
        print(f"  {what}: {found}")


if __name__ == "__main__":
    run_script(main)
