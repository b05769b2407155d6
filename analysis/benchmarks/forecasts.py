"""Seconds and memory to train a forecaster and to forecast one scan, at 2 mm, beside copying the scan.

    python analysis/benchmarks/forecasts.py --out FOLDER --people 20

Simulates people with visits at 0, 1.2 and 3 years (once), then runs each step as a command in a process of its own: wall and CPU
seconds, and the largest resident memory of that process or of one of its workers. Copying is the time to read a scan and write it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gen3d.cli import run_script
from gen3d.cohort.folder import open_prepared
from gen3d.imaging.volume import store

MIB = 1 << 20
MEASURED = (
    "import resource, subprocess, sys\n"
    "rc = subprocess.run([sys.executable, '-m', 'gen3d', *sys.argv[1:]], stdout=subprocess.DEVNULL).returncode\n"
    "use = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
    "print(use.ru_utime + use.ru_stime, use.ru_maxrss)\n"
    "sys.exit(rc)\n"
)
"""Runs gen3d in a process whose only child it is, so that the figures are its own."""


def command(*words: str) -> tuple[float, float, float]:
    """Wall and CPU seconds, and MiB at the peak, of one command of gen3d."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], check=True, stdout=subprocess.PIPE, text=True)
    cpu, peak = (float(word) for word in done.stdout.split()[-2:])
    return time.perf_counter() - began, cpu, peak * 1024 / MIB


def copying(cohort: Path, out: Path, repeats: int = 5) -> float:
    """Median seconds to read a scan and write it again."""
    prepared = open_prepared(cohort)
    key, seconds = str(prepared.manifest["key"].iloc[0]), []
    for _ in range(repeats):
        began = time.perf_counter()
        store(out / "copy_t1w.nii", prepared.volume(key, "t1w"), prepared.plan.matrix)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=20, help="people to learn from, at least 12")
    parser.add_argument("--spacing-mm", type=float, default=2.0)
    given = parser.parse_args()
    cohort, visit = given.out / "cohort", given.out / "visit"
    shared = (f"spacing_mm={given.spacing_mm}", "figures=false", "workers=1", "site_seed=7")
    third = given.people // 3
    command(
        "simulate", f"subjects={given.people}", "visits=[0,1.2,3]", f"conditions={{ad: {{kind: ad, count: {third}}}}}", "seed=1",
        *shared, f"out={cohort}",
    )  # fmt: skip
    command("simulate", "subjects=2", "seed=2", *shared, f"out={visit}")
    rows = {}
    for name, keys in {
        "ridge": ("model.kind=deformation_rate",),
        "network, 50 steps": (
            "model.kind=deformation_rate",
            "model.predictor=network",
            "optim.steps=50",
            "optim.batch_size=2",
        ),
    }.items():
        run = given.out / name.split(",")[0]
        rows[f"train {name}"] = command(
            "train", *keys, f"prepared={cohort}", "channels=[t1w,log_jacobian]", "track=[]", f"out={run}"
        )
        rows[f"forecast 2 scans, 2 horizons, {name}"] = command(
            "forecast",
            f"run={run}",
            f"prepared={visit}",
            "years=[1,2]",
            "pictures=0",
            f"out={given.out / 'future'}_{run.name}",
        )
    print(f"{given.people} people with 3 visits, {open_prepared(cohort).plan.describe()}, one thread")
    for name, (wall, cpu, peak) in rows.items():
        print(f"{name:45s} {wall:8.1f} s, {cpu:8.1f} s of CPU, {peak:7.0f} MiB")
    print(f"{'copying one scan':45s} {copying(cohort, given.out):8.3f} s")


if __name__ == "__main__":
    run_script(main)
