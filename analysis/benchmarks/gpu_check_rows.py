"""The rows of gpu_check.py that compute something: each section is a process of its own, and prints a line of JSON per row.

    python analysis/benchmarks/gpu_check_rows.py SECTION [--device cpu|cuda] [--tiny]

The first line names the rows to come, and every row says when it begins, so that whoever reads knows at which row a
process ended. A row that fails costs itself only; a GPU that has too little memory is a result and no failure.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import yaml

from gen3d.cohort.coding import Coding
from gen3d.cohort.seen import SeenBy
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.models.base import BaseModelConfig, Statistics
from gen3d.models.diffusion.latent_diffusion import LatentDiffusionConfig
from gen3d.models.registry import read_config
from gen3d.models.run import Run
from gen3d.models.task import Task
from gen3d.synthesis.drawing import Drawing
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import Batches
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.start import start_engine
from gen3d.train.loop import take_step
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.memory import MemoryEstimator, step_flops
from gen3d.train.plan.plan import step_settings

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "train"
MIB = 2**20
WARM_UP, MOST_STEPS, MOST_SECONDS = 2, 20, 4.0
"""Steps that are not timed; then as many are as fit into these seconds, at least one."""
NUM_MADE = 8
NARROW = {"base_channels": 8, "max_channels": 16, "levels": 2}
TINY = {
    "vae": {**NARROW, "res_blocks": 1, "critic_channels": 8},
    "restorer": NARROW,
    "latent_diffusion": {**NARROW, "base_channels": 16, "res_blocks": 1, "attention_levels": 1, "head_channels": 8},
}
"""What --tiny changes in the settings of a kind of model."""
PEOPLE = pd.DataFrame(
    {"age_years": [20.0, 90.0], "sex": ["F", "M"], "lateral_ventricle_ml": [5.0, 90.0], "hippocampus_ml": [2.0, 5.0]}
)
"""Two people who span what the conditions of configs/train/ldm_full.yaml can be."""

Figures = dict[str, Any]
Rows = dict[str, Callable[[], Figures]]


@dataclass(frozen=True)
class Place:
    """Where to compute, and whether at sizes that take seconds on a CPU."""

    device: str
    tiny: bool

    @property
    def plan(self) -> GridPlan:
        """The grid of 1 mm; tiny: of 24 x 32 x 24 voxels."""
        whole = plan_grid(1.0)
        return whole.model_copy(update={"spacing_mm": 4.0, "shape": (24, 32, 24)}) if self.tiny else whole

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def seconds_of(place: Place, work: Callable[[], Any], warm_up: int = WARM_UP) -> list[float]:
    """Seconds of each call, after calls that are not timed."""
    for _ in range(warm_up):
        work()
    place.wait()
    seconds: list[float] = []
    while not seconds or (len(seconds) < MOST_STEPS and sum(seconds) < MOST_SECONDS and not place.tiny):
        began = time.perf_counter()
        work()
        place.wait()
        seconds.append(time.perf_counter() - began)
    return seconds


def peak_bytes(place: Place, work: Callable[[], Any]) -> int:
    """Most bytes that torch's allocator had given out at once during a call, above those before it."""
    if place.device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        place.wait()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    live = highest = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest


def read_training(name: str, place: Place, model: Figures, optim: Figures, engine: Figures) -> tuple[Any, ...]:
    """Channels, model, optimiser, engine and augmentation of a file of configs/train, with changes."""
    tree = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    narrow = TINY.get(tree["model"]["kind"], {}) if place.tiny else {}
    settings = read_config({**tree["model"], **narrow, **model})
    return (
        tuple(tree.get("channels", ("t1w",))),
        settings,
        OptimConfig(**{**tree.get("optim", {}), **optim}),
        EngineConfig(**{**tree.get("engine", {}), "device": place.device, **engine}),
        AugmentConfig(**tree.get("augment", {})),
    )


def with_latents(config: LatentDiffusionConfig, place: Place) -> LatentDiffusionConfig:
    """Latent diffusion with what `train` adds: an autoencoder that makes latents of an eighth of the sides, and a coding."""
    autoencoder = read_config({"kind": "vae", "latent": "spatial", **(TINY["vae"] if place.tiny else {"levels": 3})})
    sides = tuple(side // (4 if place.tiny else 8) for side in place.plan.shape)
    coding = Coding.fit(PEOPLE, ("age_years", "sex", "lateral_ventricle_ml", "hippocampus_ml")).to_dict()
    return LatentDiffusionConfig.model_validate(
        {**config.model_dump(), "autoencoder": autoencoder.model_dump(), "latent_shape": (4, *sides), "coding": coding}
    )


def built(config: BaseModelConfig, channels: tuple[str, ...], plan: GridPlan) -> Any:
    """The untrained model on a grid without background."""
    whole = Statistics(
        np.zeros(len(channels), np.float32), np.ones(len(channels), np.float32), np.ones(plan.shape, bool)
    )
    return config.build(plan, channels, whole, 1)


class Made:
    """Random volumes or latents [n, C, X, Y, Z] in memory, and conditions of nobody, as a source of batches."""

    def __init__(self, channels: tuple[str, ...], shape: tuple[int, ...], num_conditions: int) -> None:
        self.channels, self._num_conditions = channels, num_conditions
        self.volumes = np.random.default_rng(0).random((NUM_MADE, *shape), np.float32)
        self.subjects = [f"p{index}" for index in range(NUM_MADE)]

    def load(self, rows: np.ndarray) -> np.ndarray:
        return self.volumes[rows]

    def conditions(self, rows: np.ndarray) -> np.ndarray | None:
        return np.full((len(rows), self._num_conditions), np.nan, np.float32) if self._num_conditions else None

    def labels(self, rows: np.ndarray) -> None:
        return None


class Training:
    """Weight updates of a task as `gen3d train` makes them, in the second half, when every player moves."""

    def __init__(self, task: Task, optim: OptimConfig, where: EngineConfig, augment: AugmentConfig, source: Made):
        self.engine = start_engine(where, task, optim)
        parts, rows = where.parts(optim.batch_size, 1), np.arange(NUM_MADE)
        self.batches = Batches(source, rows, optim.batch_size, parts, (0, 0), augment, self.engine.device)
        self.step = optim.steps // 2

    def update(self) -> None:
        """One weight update of every player."""
        _, updated = take_step(self.engine, self.batches, self.engine.task.playing(self.step), self.step)
        if not all(updated):
            raise RuntimeError("a gradient is not finite")
        self.step += 1

    def close(self) -> None:
        """Release what it holds."""
        self.batches.close()
        self.engine.close()


def training(
    place: Place, name: str, model: Figures | None = None, optim: Figures | None = None, engine: Figures | None = None
) -> Figures:
    """Seconds, arithmetic and memory of one weight update."""
    channels, config, updates, where, augment = read_training(name, place, model or {}, optim or {}, engine or {})
    coded = 0
    if isinstance(config, LatentDiffusionConfig):
        config, augment = with_latents(config, place), AugmentConfig()  # latents are mirrored before the training
        coded = len(config.coded.covariates)

    def task_of(settings: BaseModelConfig) -> Task:
        return settings.task_of(built(settings, channels, place.plan), updates.steps)

    step = step_settings(config, updates, where, 1)
    estimator = MemoryEstimator(task_of)
    memory, meta = estimator.memory(step), estimator.task(config)
    flops = step_flops(meta, updates.steps // 2) * updates.batch_size
    source, running = Made(channels, meta.input_shape, coded), list[Training]()

    def begin() -> None:
        running.append(Training(task_of(config), updates, where, augment, source))
        for _ in range(2):  # the optimiser's moments are there from the first update on
            running[0].update()

    try:
        peak = peak_bytes(place, begin)
        seconds = seconds_of(place, running[0].update, warm_up=0)
    finally:
        for started in running:
            started.close()
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "of": f"step of {updates.batch_size}, {step.at_once} at a time",
        "per_second": updates.batch_size / median,
        "unit": "latents" if coded else "volumes",
        "tflop_per_second": flops / 1e12 / median,
        "precision": "bf16" if step.precision is torch.bfloat16 else "fp32",
        "timed": len(seconds),
        "peak_mib": peak / MIB,
        "planned_mib": (memory.total - memory.allowance) / MIB,
        "planned_with_allowance_mib": memory.total / MIB,
        **on_the_device(place),
    }


def on_the_device(place: Place) -> Figures:
    """What the allowance of the plan is for: memory kept by torch's allocator, and all that is used on the GPU."""
    if place.device != "cuda":
        return {}
    free, whole = torch.cuda.mem_get_info()
    return {"reserved_mib": torch.cuda.max_memory_reserved() / MIB, "device_used_mib": (whole - free) / MIB}


def device_rows(place: Place) -> Rows:
    """What the device is, and its ceilings."""
    side = 256 if place.tiny else 8192

    def product(dtype: torch.dtype) -> Figures:
        first, second = (torch.randn(side, side, device=place.device).to(dtype) for _ in range(2))
        repeats = 10

        def work() -> None:
            for _ in range(repeats):
                torch.mm(first, second)

        seconds = statistics.median(seconds_of(place, work)) / repeats
        return {
            "seconds": seconds,
            "of": f"product of {side} x {side}",
            "tflop_per_second": 2 * side**3 / 1e12 / seconds,
            "precision": "bf16" if dtype is torch.bfloat16 else "fp32",
        }

    def copying() -> Figures:
        values = torch.ones((1 if place.tiny else 256) * MIB, device=place.device)
        target = torch.empty_like(values)
        seconds = statistics.median(seconds_of(place, lambda: target.copy_(values)))
        return {
            "seconds": seconds,
            "of": f"copy of {4 * values.numel() // MIB} MiB",
            "note": f"{8 * values.numel() / seconds / 1e9:.0f} GB/s",
        }

    return {
        "matrix product, bf16": lambda: product(torch.bfloat16),
        "matrix product, fp32": lambda: product(torch.float32),
        "copying memory": copying,
        "device": lambda: {"device": described(place)},
    }


def described(place: Place) -> Figures:
    """Names, versions and clocks; read after the products, when the clocks are those of work."""
    figures: Figures = {"torch": torch.__version__, "python": sys.version.split()[0]}
    if place.device != "cuda":
        return {"name": "CPU", "threads": torch.get_num_threads(), **figures}
    properties = torch.cuda.get_device_properties(0)
    figures |= {
        "name": properties.name,
        "memory_mib": properties.total_memory // MIB,
        "processors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "float32_products": torch.get_float32_matmul_precision(),
    }
    asked = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {**figures, "nvidia-smi": "did not answer"}
    return figures | dict(zip(asked, map(str.strip, answer.split(",")), strict=False))


def training_rows(place: Place) -> Rows:
    """VAEs on the grid of 1 mm, by their files of settings; batches of 4, one volume at a time."""
    batch = {"batch_size": 2 if place.tiny else 4}
    critic, dense = "vae_adversarial.yaml", "vae_normative.yaml"
    small = {"latent_size": 8} if place.tiny else {}
    return {
        "VAE with critic": lambda: training(place, critic, optim=batch, engine={"precision": "bf16"}),
        "VAE with critic, all activations kept": lambda: training(
            place, critic, {"gradient_checkpointing": False}, batch, {"precision": "bf16"}
        ),
        "VAE with critic, float32": lambda: training(place, critic, optim=batch, engine={"precision": "fp32"}),
        "dense VAE, two channels": lambda: training(place, dense, small, batch, {"precision": "bf16"}),
    }


def diffusion_rows(place: Place) -> Rows:
    """Latent diffusion of configs/train/ldm_full.yaml."""
    name, batch = "ldm_full.yaml", {"batch_size": 2} if place.tiny else {}
    quarter = {"volumes_at_once": 1 if place.tiny else 16}
    return {
        "latent diffusion": lambda: training(place, name, optim=batch, engine={"precision": "bf16"}),
        "latent diffusion, in parts": lambda: training(
            place, name, optim=batch, engine={"precision": "bf16", **quarter}
        ),
        "latent diffusion, float32": lambda: training(
            place, name, optim=batch, engine={"precision": "fp32", **quarter}
        ),
    }


def compiled_rows(place: Place) -> Rows:
    """The step of the VAE with critic, its blocks compiled; the time of compiling is not in the figure."""
    batch, engine = {"batch_size": 2 if place.tiny else 4}, {"precision": "bf16", "compile": True}
    return {"VAE with critic, compiled": lambda: training(place, "vae_adversarial.yaml", optim=batch, engine=engine)}


def sampling_rows(place: Place) -> Rows:
    """Drawing by `gen3d sample` up to the decoded volume on the CPU: 25 steps of DPM-Solver, or 2 in tiny."""

    def row(per_call: int, precision: torch.dtype) -> Figures:
        channels, config, *_ = read_training("ldm_full.yaml", place, {}, {}, {})
        model = built(with_latents(config, place), channels, place.plan).to(place.device).eval()
        num_steps = 2 if place.tiny else 25
        drawing = Drawing(model, 0, "dpm_solver", num_steps, 1.0, per_call, precision)
        coded = np.zeros((per_call, len(model.coding.covariates)), np.float32)

        def work() -> None:
            drawing.decoded(drawing.latents(range(per_call), coded))

        peak = peak_bytes(place, work)
        seconds = seconds_of(place, work, warm_up=0)
        median = statistics.median(seconds)
        return {
            "seconds": median,
            "of": f"{num_steps} steps and decoding, {per_call} at once",
            "per_second": per_call / median,
            "unit": "samples",
            "precision": "bf16" if precision is torch.bfloat16 else "fp32",
            "timed": len(seconds),
            "peak_mib": peak / MIB,
        }

    many = 2 if place.tiny else 8
    return {
        "samples, as by default": lambda: row(2, torch.float32),
        "samples, bf16": lambda: row(2, torch.bfloat16),
        "samples, bf16, many at once": lambda: row(many, torch.bfloat16),
    }


def expectation_rows(place: Place) -> Rows:
    """What the model does for anomaly maps and for latents: `Run.expect` and `Run.encode` of one scan of 1 mm.

    Everything else in `gen3d anomaly` is NumPy on CPUs.
    """

    kept: dict[str, np.ndarray] = {}

    def run_of(name: str, device: str) -> Run:
        channels, config, *_ = read_training(name, place, {}, {}, {})
        torch.manual_seed(0)
        model, plan = built(config, channels, place.plan).to(device).eval(), place.plan
        # Neither model takes covariates, and nothing is read from a folder.
        record, design, where = cast(Any, None), cast(Any, None), torch.device(device)
        return Run(Path("run"), record, plan, channels, config, design, SeenBy(({},)), where, {0: model})

    def row(name: str, what: str, device: str) -> Figures:
        run, here = run_of(name, device), Place(device, place.tiny)
        volume = np.random.default_rng(0).random((len(run.channels), *place.plan.shape), np.float32)

        def work() -> np.ndarray:
            result = run.encode(volume, "p") if what == "encode" else run.expect(volume, "p")
            return result[0] if isinstance(result, tuple) else np.asarray(result)

        peak = peak_bytes(here, work) / MIB if device == place.device else None
        seconds = seconds_of(here, work, warm_up=0)
        median, result = statistics.median(seconds), work()
        figures = {"seconds": median, "of": "scan", "per_second": 1 / median, "unit": "scans", "precision": "fp32"}
        if device != place.device:
            apart = float(np.abs(result - kept[f"{name} {what}"]).max() / result.std())
            figures |= {"note": f"largest difference to the GPU's: {apart:.1e} of its SD", "difference_sd": apart}
        kept[f"{name} {what}"] = result
        return {**figures, "timed": len(seconds), "peak_mib": peak}

    adversarial, restorer = "vae_adversarial.yaml", "restorer_laptop.yaml"
    rows = {
        "expectation by the VAE": lambda: row(adversarial, "expect", place.device),
        "latent by the VAE": lambda: row(adversarial, "encode", place.device),
        "expectation by the restorer": lambda: row(restorer, "expect", place.device),
    }
    if place.device != "cpu":
        rows["expectation by the VAE, on this machine's CPU"] = lambda: row(adversarial, "expect", "cpu")
        rows["latent by the VAE, on this machine's CPU"] = lambda: row(adversarial, "encode", "cpu")
    return rows


def memory_rows(place: Place) -> Rows:
    """The rows of memory.py, on this device."""
    import memory

    shape = (24, 32, 24) if place.tiny else (64, 80, 64)
    names = ("dense VAE", "latent diffusion, 4 latents, bf16") if place.tiny else tuple(memory.ROWS)

    def row(name: str) -> Figures:
        planned, total = memory.planned_bytes(name, shape, place.device)
        peak = peak_bytes(place, lambda: memory.train(name, shape, place.device))
        figures = {"peak_mib": peak / MIB, "planned_mib": planned / MIB, "planned_with_allowance_mib": total / MIB}
        return {**figures, "precision": memory.ROWS[name][2], **on_the_device(place)}

    return {f"memory: {name}": lambda name=name: row(name) for name in names}


SECTIONS: dict[str, Callable[[Place], Rows]] = {
    "device": device_rows,
    "training": training_rows,
    "diffusion": diffusion_rows,
    "sampling": sampling_rows,
    "expectation": expectation_rows,
    "memory": memory_rows,
    "compiled": compiled_rows,
}


def measured(measure: Callable[[], Figures]) -> Figures:
    """The figures of a row, or why there are none."""
    try:
        return measure()
    except torch.OutOfMemoryError as error:
        return {"too_large": str(error).split(". ")[0]}
    except UserError as error:
        cause = error.__cause__ or error.__context__
        return {"too_large" if isinstance(cause, torch.OutOfMemoryError) else "failed": str(error)}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    rows = SECTIONS[given.section](Place(given.device, given.tiny))
    print(json.dumps({"rows": list(rows)}), flush=True)
    for name, measure in rows.items():
        print(json.dumps({"begins": name}), flush=True)
        print(json.dumps({"row": name, **measured(measure)}), flush=True)
        gc.collect()
        if given.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
