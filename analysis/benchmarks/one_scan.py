"""From one raw scan to z maps and a region table: how long does a person wait, and where does the time go?

    python analysis/benchmarks/one_scan.py --scan sub-01_T1w.nii.gz --site NAME --prepared COHORT --run RUN --out FOLDER

Writes a one-row table for the scan, prepares it on the cohort's plan, and maps it together with the cohort, as two
commands in processes of their own (what a user waits for, start of Python included). Then the same once more in this
process under the profiler, and prints the seconds of every stage. The target is 60 s on two cores.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import time
from pathlib import Path

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.imaging.plan import read_plan
from gen3d.prepare.prepare import Prepare

STAGES = {
    "prepare": {
        "read the scan": ("volume.py", "read_volume"),
        "find the brain, first alignment": ("conform.py", "find_brain"),
        "bias field (N4)": ("bias.py", "bias_field"),
        "second alignment": ("conform.py", "refined"),
        "deformation": ("registration.py", "deform"),
        "picture": ("screening_picture.py", "draw"),
    },
    "anomaly": {
        "compare (model and channels), cohort included": ("compare.py", "compare"),
        "calibrate": ("calibrate.py", "calibrate"),
        "region table": ("tables.py", "region_table"),
        "person table": ("tables.py", "subject_table"),
        "write maps": ("anomaly.py", "_write_maps"),
    },
}


def main() -> None:
    """Time both commands, then their stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, required=True, help="a raw T1w scan")
    parser.add_argument("--site", required=True, help="its site, one that the cohort's controls calibrate")
    parser.add_argument("--age-years", type=float, default=50.0)
    parser.add_argument("--sex", default="F")
    parser.add_argument("--prepared", type=Path, required=True, help="prepared cohort with controls")
    parser.add_argument("--run", type=Path, required=True, help="run folder trained on the cohort")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    table = given.out / "patient.csv"
    row = f"patient,1,{given.site},{given.age_years},{given.sex},patient,{given.scan.resolve()}"
    table.write_text(f"subject,session,site,age,sex,diagnosis,path\n{row}\n", encoding="utf-8")
    plan = read_plan(given.prepared / "plan.json")
    total = 0.0
    for name in ("prepare", "anomaly"):
        seconds = command(given, name, table, plan.spacing_mm)
        total += seconds
        print(f"{name:10s} {seconds:6.1f} s")
    print(f"{'together':10s} {total:6.1f} s on {os.cpu_count()} cores, {plan.describe()}\n")
    verbs = {
        "prepare": Prepare(source=(table,), out=given.out / "profiled", spacing_mm=plan.spacing_mm, workers=1),
        "anomaly": Anomaly.model_validate(
            {"prepared": [given.prepared, given.out / "profiled"], "run": given.run, "out": given.out / "profiled_maps"}
        ),
    }
    for name, verb in verbs.items():
        profile = cProfile.Profile()
        began = time.perf_counter()
        profile.runcall(verb.run)
        stages(name, profile, time.perf_counter() - began)


def command(given: argparse.Namespace, name: str, table: Path, spacing_mm: float) -> float:
    """Wall seconds of one command of gen3d."""
    if name == "prepare":
        words = [f"source={table}", f"out={given.out / 'patient'}", f"spacing_mm={spacing_mm}"]
    else:
        folders = f"prepared=[{given.prepared},{given.out / 'patient'}]"
        words = [folders, f"run={given.run}", f"out={given.out / 'maps'}"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gen3d", name, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def stages(name: str, profile: cProfile.Profile, seconds: float) -> None:
    """Print the share of each stage; the remainder is `other`."""
    raw = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    rest = seconds
    print(f"{name}: {seconds:.1f} s under the profiler")
    for label, (file, function) in STAGES[name].items():
        cumulative = sum(v[3] for (path, _, n), v in raw.items() if n == function and path.endswith(f"/{file}"))
        rest -= cumulative
        print(f"  {label:48s} {cumulative:6.1f} s  {100 * cumulative / seconds:5.1f} %")
    print(f"  {'other':48s} {rest:6.1f} s  {100 * rest / seconds:5.1f} %")


if __name__ == "__main__":
    run_script(main)
