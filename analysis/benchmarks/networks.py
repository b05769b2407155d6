"""Classifiers: seconds per scan, share of the arithmetic limit, and memory planned against the highest measured.

Each network runs in a process of its own on one volume of noise: forward alone, and a whole training step of one volume
(forward, backward, Adam). The arithmetic limit is the fastest matrix product of the same precision in the same process; torch
counts the floating point operations. `epoch_min` are minutes for 100 scans, `cached_*_s` is a step behind a frozen trunk whose
features were computed once. Of fusions of genetics and volumes of regions the step is of 32 people.

    python analysis/benchmarks/networks.py --out FOLDER [--networks liu_1 ...] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from gen3d.cli import run_script
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.supervised.classifier import ClassifierConfig
from gen3d.models.supervised.fusion import FusionConfig, NamedToken
from gen3d.models.supervised.label_config import Answers
from gen3d.models.task import Batch
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.start import start_engine
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.memory import MemoryEstimator, StepSettings

Keys = dict[str, Any]
NETWORKS: dict[str, tuple[Keys, tuple[int, int, int]]] = {
    "liu_1": ({"kind": "liu", "width": 1}, (96, 96, 96)),
    "liu_8": ({"kind": "liu", "width": 8}, (96, 96, 96)),
    "r3d_18": ({"kind": "r3d_18"}, (96, 96, 96)),
    "mc3_18": ({"kind": "mc3_18"}, (96, 96, 96)),
    "r2plus1d_18": ({"kind": "r2plus1d_18"}, (96, 96, 96)),
    "mvit_v2_s": ({"kind": "mvit_v2_s"}, (96, 96, 96)),
    "resnet3d_18": ({"kind": "resnet3d", "layers": 18}, (96, 96, 96)),
    "slices_lite0": ({"kind": "slices", "num_slices": 16}, (96, 96, 96)),
    "inflated": ({"kind": "slices", "inflate": True}, (96, 96, 96)),
    "slices_b4": ({"kind": "slices", "backbone": "efficientnet_b4", "num_slices": 16}, (96, 96, 96)),
}
FUSIONS: dict[str, Keys] = {"fusion": {}, "fusion_16": {"width": 16, "heads": 2, "layers": 1}}
TOKENS, PEOPLE = (40, 60), 32
"""Of genetics and of regions; people of a step."""
FROZEN = {
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), ("layer3", "layer4")),
    "inflated": ("layer4",),
    "slices_lite0": ("backbone",),
    "slices_b4": ("backbone",),
}
"""Last stages of trunks, each measured."""

EPOCH = 100
"""Scans."""
ROUNDS = 3
SQUARE = 2048
GIB = 2**30


def config(name: str) -> ClassifierConfig:
    """The classifier's settings, complete as training writes them."""
    network, shape = NETWORKS[name]
    settings = ClassifierConfig.model_validate({"network": network, "classes": ["CN", "AD"]})
    answers = Answers(name="diagnosis", task="categories", classes=("CN", "AD"))
    settings = settings.model_copy(update={"answers": answers})
    return settings.model_copy(update={"window": settings.window_in(plan(shape))})


def plan(shape: tuple[int, int, int]) -> GridPlan:
    """A grid of this shape."""
    rows = tuple(tuple(map(float, row)) for row in np.diag([1.5, 1.5, 1.5, 1.0]))
    return GridPlan(spacing_mm=1.5, shape=shape, affine=rows, channels=("t1w",))


def task_of(settings: ClassifierConfig, shape: tuple[int, int, int]) -> Any:
    """What is trained."""
    blank = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(shape, bool))
    return settings.task_of(settings.build(plan(shape), ("t1w",), blank, 1), 10)


def seconds(function: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Of the fastest call, after one that does not count."""
    function()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def arithmetic_limit(precision: torch.dtype) -> float:
    """Floating point operations per second of a large matrix product."""
    left, right = (torch.randn(SQUARE, SQUARE).to(precision) for _ in range(2))
    return 2 * SQUARE**3 / seconds(lambda: left @ right, 5)


def measure(name: str, precision: str, threads: int, connection: Any) -> None:
    """Send one row."""
    torch.set_num_threads(threads)
    settings, shape = config(name), NETWORKS[name][1]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    limit = arithmetic_limit(kind)
    engine_config = EngineConfig(device="cpu", precision=precision)
    optim = OptimConfig(steps=10, batch_size=1, learning_rate=1e-5)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        engine = start_engine(engine_config, task_of(settings, shape), optim)
        step = stepper(engine, shape)
        step()
        step()
    peak = highest(profiler)
    network = engine.task.model.network.eval()
    view = torch.randn(1, 1, *shape)

    @torch.no_grad()
    def forward() -> object:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind is torch.bfloat16):
            return network(view)

    with FlopCounterMode(display=False) as counted:
        forward()
    flops, forward_s, step_s = counted.get_total_flops(), seconds(forward), seconds(step)
    estimate = MemoryEstimator(lambda model: task_of(model, shape)).memory(
        StepSettings(settings, optim, precision=kind)
    )
    row: Keys = {
        "network": name,
        "precision": precision,
        "threads": threads,
        "weights": sum(weights.numel() for weights in network.parameters()),
        "gflop_forward": flops / 1e9,
        "forward_s": forward_s,
        "step_s": step_s,
        "epoch_min": EPOCH * step_s / 60,
        "limit_gflops": limit / 1e9,
        "share_of_limit": flops / forward_s / limit,
        "peak_gib": peak / GIB,
        "planned_gib": (estimate.total - estimate.allowance) / GIB,
    }
    if name in FROZEN:
        for last in FROZEN[name]:
            row[f"cached_{last}_s"] = cached_step(network, view, last)
    connection.send(row)


def measure_fusion(name: str, precision: str, threads: int, connection: Any) -> None:
    """Send one row of a network on columns."""
    torch.set_num_threads(threads)
    sides = [
        tuple(NamedToken(name=f"{side}{place}", columns=1) for place in range(num))
        for side, num in zip("gr", TOKENS, strict=True)
    ]
    answers = Answers(name="diagnosis", task="categories", classes=("CN", "AD"))
    tokens = {"answers": answers, "genetic_tokens": sides[0], "image_tokens": sides[1]}
    settings = FusionConfig.model_validate(FUSIONS[name]).model_copy(update=tokens)
    blank = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones((8, 8, 8), bool))
    task = settings.task_of(settings.build(plan((8, 8, 8)), ("t1w",), blank, 1), 10)
    optim = OptimConfig(steps=10, batch_size=PEOPLE, learning_rate=1e-5)
    engine = start_engine(EngineConfig(device="cpu", precision=precision), task, optim)
    number = iter(range(10_000))
    people, rows = tuple(f"p{place}" for place in range(PEOPLE)), tuple(range(PEOPLE))
    columns, labels = torch.rand(PEOPLE, sum(TOKENS)), torch.arange(PEOPLE) % 2.0

    def step() -> object:
        place = next(number)
        losses = engine.forward(Batch(columns, people, place, rows, labels=labels), "model")
        engine.backward(losses, "model", 0, 1)
        return engine.update("model", place % 9)

    step_s = seconds(step, 20)
    weights = sum(weights.numel() for weights in task.model.network.parameters())
    connection.send({"network": name, "precision": precision, "threads": threads, "weights": weights, "step_s": step_s})


def stepper(engine: Any, shape: tuple[int, int, int]) -> Callable[[], object]:
    """A whole update on one volume."""
    number = iter(range(10_000))

    def step() -> object:
        place = next(number)
        batch = Batch(torch.rand(1, 1, *shape), ("p",), place, (place,), labels=torch.zeros(1))
        losses = engine.forward(batch, "model")
        engine.backward(losses, "model", 0, 1)
        return engine.update("model", place % 9)

    return step


def cached_step(network: Any, view: torch.Tensor, last: str) -> float:
    """Seconds of forward and backward of what is behind a frozen trunk, from its features."""
    with torch.no_grad():
        features = network.features(view, last)
    network.freeze(last)
    network.train()
    behind = [weights for weights in network.parameters() if weights.requires_grad]

    def step() -> object:
        loss = network.from_features(torch.cat([features, features]), last).float().square().sum()
        return torch.autograd.grad(loss, behind)

    return seconds(step) / 2  # two volumes, which a batch normalisation of a single position needs


def highest(profiler: Any) -> int:
    """Most bytes that torch's CPU allocator had given out at once."""
    live = most = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for networks.tsv")
    parser.add_argument("--networks", nargs="+", choices=(*NETWORKS, *FUSIONS), default=list(NETWORKS))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Keys] = []
    for name in arguments.networks:
        for precision in arguments.precisions:
            here, there = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("spawn").Process(
                target=measure_fusion if name in FUSIONS else measure, args=(name, precision, arguments.threads, there)
            )
            process.start()
            there.close()
            try:
                rows.append(here.recv())
            except EOFError:
                print(f"{name} in {precision}: ended without a result", flush=True)
            process.join()
            print(json.dumps(rows[-1]) if rows else "", flush=True)
            pd.DataFrame(rows).to_csv(arguments.out / "networks.tsv", sep="\t", index=False)
    return 0


if __name__ == "__main__":
    run_script(main)
