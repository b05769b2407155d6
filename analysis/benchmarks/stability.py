"""Does a long training in bfloat16 follow the one in float32, KL included?

    python analysis/benchmarks/stability.py --prepared PREPARED --out FOLDER [--steps 2000] [key=value ...]

Inputs: a folder of `gen3d prepare` or `gen3d simulate`. Trains the laptop VAE twice by the verb `train`, with settings
that differ in engine.precision only, and draws both logs into FOLDER/stability.png: loss, reconstruction and KL over
the steps. Prints the largest and the last difference of each term between the two (means over 50 steps), skipped steps,
and the time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gen3d.cli import run_script
from gen3d.models.run_folder import LOG
from gen3d.train.log import read_log

TERMS = ("loss", "reconstruction", "kl")
COLOURS = {"fp32": "#1f4e79", "bf16": "#d9822b"}
CONFIG = Path(__file__).parents[2] / "configs" / "train" / "vae_laptop.yaml"
WINDOW = 5
"""Log entries (of ten steps each) that are averaged."""


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over WINDOW entries."""
    return np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    arguments, more = parser.parse_known_args()
    logs, seconds = {}, {}
    for precision in COLOURS:
        run = arguments.out / precision
        command = [sys.executable, "-m", "gen3d", "train", str(CONFIG), f"prepared={arguments.prepared}", f"out={run}"]
        command += [f"optim.steps={arguments.steps}", f"engine.precision={precision}", "track=[]", *more]
        began = time.monotonic()
        subprocess.run(command, check=True)
        seconds[precision] = time.monotonic() - began
        logs[precision] = read_log(run / LOG)
    figure = Figure(figsize=(12, 3.6), facecolor="white")
    FigureCanvasAgg(figure)
    for axis, term in zip(figure.subplots(1, len(TERMS)), TERMS, strict=True):
        curves = {name: smooth(np.array([entry[term] for entry in log])) for name, log in logs.items()}
        for name, curve in curves.items():
            steps = np.array([entry["step"] for entry in logs[name]])[WINDOW - 1 :]
            axis.plot(steps, curve, color=COLOURS[name], lw=1.4, label=name)
        axis.set(title=term + (" (nats)" if term == "kl" else ""), xlabel="step")
        axis.spines[["top", "right"]].set_visible(False)
        relative = np.abs(curves["bf16"] / curves["fp32"] - 1)
        print(f"{term:15s} relative difference: largest {relative.max():.2%}, at the end {relative[-1]:.2%}")
    figure.axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(arguments.out / "stability.png", dpi=110)
    for name, log in logs.items():
        finite = all(np.isfinite(entry[term]) for entry in log for term in TERMS)
        skipped = sum(entry.get("skipped", 0) for entry in log)
        print(f"{name}: {seconds[name]:.0f} s, skipped steps {skipped}, every logged term finite: {finite}")


if __name__ == "__main__":
    run_script(main)
