"""Seconds per scan of the verbs a lab waits for: simulate or prepare, and seconds per anomaly map.

    python analysis/benchmarks/verbs.py --out bench [--source table.csv] [--spacing-mm 3] [--scans 24]

Runs `prepare` on real scans when a source is given, else `simulate`; then fits PCA and makes maps of everybody who was
not in its training. Prints wall seconds per scan on this machine, with the number of cores. Absolute times hold for the
machine they were measured on, which analysis/benchmarks/verbs.md names.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import pandas as pd

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.cohort.manifest import Split
from gen3d.core.errors import Unfinished
from gen3d.prepare.prepare import Prepare
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train


def main() -> None:
    """Time each verb once on a fresh folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--source", type=Path, help="a BIDS folder or table of real scans; none: simulate")
    parser.add_argument("--spacing-mm", type=float, default=3.0, help="edge of a voxel, mm")
    parser.add_argument("--scans", type=int, default=40, help="number of people to simulate")
    given = parser.parse_args()
    cohort, split = given.out / "cohort", Split(train=0.4, calibration=0.4, test=0.2)
    if given.source:
        verb = Prepare(source=(given.source,), out=cohort, spacing_mm=given.spacing_mm, split=split)
    else:
        verb = Simulate(subjects=given.scans, out=cohort, spacing_mm=given.spacing_mm, split=split)
    seconds = {type(verb).__name__.lower(): timed(verb)}
    num_scans = len(pd.read_csv(cohort / "manifest.tsv", sep="\t"))
    train = Train.model_validate(
        {"prepared": cohort, "out": given.out / "run", "model": {"kind": "pca", "num_components": 8}, "cross_fit": 5}
    )
    seconds["train pca"] = timed(train)
    seconds["anomaly"] = timed(
        Anomaly.model_validate({"prepared": cohort, "run": given.out / "run", "out": given.out / "maps"})
    )
    num_maps = len(pd.read_csv(given.out / "maps" / "subjects.tsv", sep="\t"))
    print(f"{os.cpu_count()} cores, {given.spacing_mm:g} mm, {num_scans} scans")
    for name, total in seconds.items():
        number = num_maps if name == "anomaly" else num_scans
        print(f"{name:12s} {total:7.1f} s in all, {total / number:6.2f} s per scan (n {number})")


def timed(verb: Prepare | Simulate | Train | Anomaly) -> float:
    """Wall seconds of one run."""
    began = time.perf_counter()
    try:
        verb.run()
    except Unfinished as error:
        print(error)
    return time.perf_counter() - began


if __name__ == "__main__":
    run_script(main)
