"""How much faster are more processes on this machine, and what does their communication cost?

    python analysis/benchmarks/scaling.py [--processes 1 2 4] [--shape 48 64 48] [--steps 12] [--zero 0]

Inputs: none (random volumes). Starts torchrun once per row, one CPU thread per process, with the laptop VAE:

  weak     one volume per process and step: the global batch grows with the processes
  strong   the same global batch of max(processes) volumes in every row, in parts where a process has several

Each row prints seconds per step (median after three warm-up steps), volumes/s, efficiency against one process, and the
seconds that one all-reduce of the gradients takes by itself between the same processes, as a share of the step. Rows with
more processes than cores are oversubscribed and marked so: they show overhead, not speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gen3d.cli import run_script


def worker(arguments: argparse.Namespace) -> None:
    """One process of one row; the first prints its figures as JSON."""
    import torch
    import torch.distributed as dist

    from gen3d.imaging.plan import GridPlan
    from gen3d.models.base import Statistics
    from gen3d.models.normative.vae import VAEConfig
    from gen3d.models.task import Batch
    from gen3d.train.engine.config import EngineConfig
    from gen3d.train.engine.preflight import meet
    from gen3d.train.engine.processes import launched
    from gen3d.train.engine.start import start_engine
    from gen3d.train.optim import OptimConfig

    torch.set_num_threads(1)
    place = launched()
    config = EngineConfig(device="cpu", zero=arguments.zero, volumes_at_once=1)
    processes = meet(place, lambda: {"backend": "gloo"}, 300.0)
    shape = tuple(arguments.shape)
    rows = tuple(tuple(map(float, row)) for row in np.eye(4))
    plan = GridPlan(spacing_mm=3.0, shape=shape, affine=rows)
    model = VAEConfig()
    torch.manual_seed(0)
    known = Statistics(np.zeros(2, np.float32), np.ones(2, np.float32), np.ones(shape, bool))
    network = model.build(plan, ("t1w", "log_jacobian"), known, 1)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    optim = OptimConfig(steps=arguments.steps, batch_size=arguments.batch)
    engine = start_engine(config, model.task_of(network, arguments.steps), optim, processes)
    parts = config.parts(arguments.batch, processes.num)
    volumes = torch.rand((1, 2, *shape))
    seconds = []
    for step in range(arguments.steps):
        began = time.perf_counter()
        for part in range(parts):
            losses = engine.forward(Batch(volumes.clone(), ("p",), step, (step,)), "model")
            engine.backward(losses, "model", part, parts)
        engine.update("model", step)
        seconds.append(time.perf_counter() - began)
    talk = [0.0]
    if processes.num > 1:
        gradients = torch.zeros(num_parameters)
        talk = []
        for _ in range(5):
            began = time.perf_counter()
            dist.all_reduce(gradients)
            talk.append(time.perf_counter() - began)
    if processes.first:
        figures = {"seconds": statistics.median(seconds[3:]), "talk": min(talk), "parameters": num_parameters}
        Path(arguments.worker).write_text(json.dumps(figures))
    processes.part()
    os._exit(0)


def one_row(arguments: argparse.Namespace, num: int, batch: int, result: Path) -> dict[str, float]:
    """Start `num` processes with this global batch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num), "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", str(Path(__file__).resolve()), "--worker", str(result)]
    command += ["--shape", *map(str, arguments.shape), "--steps", str(arguments.steps), "--zero", str(arguments.zero)]
    command += ["--batch", str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    figures: dict[str, float] = json.loads(result.read_text())
    result.unlink()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shape", type=int, nargs=3, default=[48, 64, 48])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--zero", type=int, default=0, choices=(0, 1, 2, 3))
    parser.add_argument("--batch", type=int, default=1, help="global batch (set by the script for each row)")
    parser.add_argument("--worker", help="file for the figures of one row (set by the script)")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    cores = len(os.sched_getaffinity(0))
    result = Path(f"/tmp/scaling_{os.getpid()}.json")
    whole = max(arguments.processes)
    print(
        f"{' x '.join(map(str, arguments.shape))} voxels, 2 channels, ZeRO {arguments.zero}, {cores} cores, 1 thread each"
    )
    print(
        f"{'':8s}{'processes':>10s}{'batch':>7s}{'s/step':>9s}{'volumes/s':>11s}{'efficiency':>12s}{'all-reduce':>12s}"
    )
    for kind in ("weak", "strong"):
        alone = None
        for num in arguments.processes:
            batch = num if kind == "weak" else whole
            row = one_row(arguments, num, batch, result)
            rate = batch / row["seconds"]
            alone = alone or rate / num
            note = "  oversubscribed" if num > cores else ""
            print(
                f"{kind:8s}{num:10d}{batch:7d}{row['seconds']:9.3f}{rate:11.2f}{rate / num / alone:12.2f}"
                f"{row['talk'] * 1e3:9.1f} ms{note}",
                flush=True,
            )
    print(f"gradients: {row['parameters']:,.0f} float32 values, {4e-6 * row['parameters']:.1f} MB")


if __name__ == "__main__":
    run_script(main)
