"""From one raw scan to z maps, a region table and a page: how long does a person wait, and where does the time go?

    python analysis/benchmarks/one_scan.py --scan sub-01_T1w.nii.gz --site NAME --prepared COHORT --run RUN --out FOLDER

Fits a norm of the cohort once. Then, as commands in processes of their own (what a user waits for, start of Python included):

- by the norm: `gen3d anomaly norm=... scan=...`, with the page;
- with the cohort: `gen3d prepare` of the scan, then `gen3d anomaly` of it together with the cohort.

Each is timed `--repeats` times in turn: wall and CPU seconds. Then the way by the norm once more in this process under the
profiler, with the seconds of every stage. The target is 20 s on two cores.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.imaging.plan import read_plan

STAGES = {
    "prepare: read, align, deform, store": ("one_scan.py", "prepare_scan"),
    "prepare: regions, tables": ("prepare.py", "_write_cohort"),
    "open the norm and the models": ("by_norm.py", "open_by_norm"),
    "compare with the model": ("compare.py", "__call__"),
    "maps": ("judging.py", "_maps"),
    "page": ("anomaly.py", "conclude"),
}
BY_NORM, WITH_COHORT = "by the norm", "with the cohort"


def main() -> None:
    """Time both ways, then the stages of the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, required=True, help="a raw T1w scan of somebody who is no control")
    parser.add_argument("--site", required=True, help="its site, one that the cohort's controls calibrate")
    parser.add_argument("--age-years", type=float, default=50.0)
    parser.add_argument("--sex", default="F")
    parser.add_argument("--prepared", type=Path, required=True, help="prepared cohort with controls")
    parser.add_argument("--run", type=Path, required=True, help="run folder trained on the cohort")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    norm = given.out / "norm"
    seconds = command("norm", f"prepared={given.prepared}", f"run={given.run}", f"out={norm}")
    print(f"fitting the norm, once: {seconds[0]:.1f} s, {seconds[1]:.1f} s of CPU")
    person = [f"age_years={given.age_years}", f"sex={given.sex}", f"site={given.site}"]
    times: dict[str, list[tuple[float, float]]] = {BY_NORM: [], WITH_COHORT: []}
    for repeat in range(given.repeats):
        folder = given.out / f"repeat{repeat}"
        words = [f"norm={norm}", f"scan={given.scan}", *person, f"out={folder / 'maps'}"]
        times[BY_NORM].append(command("anomaly", *words))
        times[WITH_COHORT].append(with_cohort(given, folder))
        shutil.rmtree(folder)
    print(f"{os.cpu_count()} cores, {read_plan(given.prepared / 'plan.json').describe()}")
    for way, of in times.items():
        wall, cpu = np.median(np.array(of), axis=0)
        spread = ", ".join(f"{one:.1f}" for one, _ in of)
        print(f"{way:16s} {wall:6.1f} s ({spread}), {cpu:6.1f} s of CPU")
    stages(given, norm)


def command(verb: str, *words: str) -> tuple[float, float]:
    """Wall and CPU seconds of one command of gen3d."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "gen3d", verb, *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


def with_cohort(given: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of preparing the scan and mapping it together with the cohort."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "patient.csv"
    row = f"patient,1,{given.site},{given.age_years},{given.sex},patient,{given.scan.resolve()}"
    table.write_text(f"subject,session,site,age,sex,diagnosis,path\n{row}\n", encoding="utf-8")
    spacing_mm = read_plan(given.prepared / "plan.json").spacing_mm
    prepared = command("prepare", f"source={table}", f"out={folder / 'patient'}", f"spacing_mm={spacing_mm}")
    both = f"prepared=[{given.prepared},{folder / 'patient'}]"
    mapped = command("anomaly", both, f"run={given.run}", f"out={folder / 'together'}")
    return prepared[0] + mapped[0], prepared[1] + mapped[1]


def stages(given: argparse.Namespace, norm: Path) -> None:
    """Print the share of each stage of the way by the norm; the remainder is `other`."""
    keys = {"norm": norm, "scan": given.scan, "age_years": given.age_years, "sex": given.sex, "site": given.site}
    verb = Anomaly.model_validate({**keys, "out": given.out / "profiled"})
    profile = cProfile.Profile()
    began = time.perf_counter()
    profile.runcall(verb.run)
    seconds = time.perf_counter() - began
    raw = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    rest = seconds
    print(f"by the norm, without the start of Python: {seconds:.1f} s under the profiler")
    for label, (file, function) in STAGES.items():
        cumulative = sum(v[3] for (path, _, n), v in raw.items() if n == function and path.endswith(f"/{file}"))
        rest -= cumulative
        print(f"  {label:40s} {cumulative:6.1f} s  {100 * cumulative / seconds:5.1f} %")
    print(f"  {'other':40s} {rest:6.1f} s  {100 * rest / seconds:5.1f} %")


if __name__ == "__main__":
    run_script(main)
