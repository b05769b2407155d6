"""How long do preparing and simulating one scan take, where does the time go, and do both give what another working tree gives?

    python analysis/benchmarks/pieces.py --before FOLDER --scans TABLE --out FOLDER [--people 12] [--bias-correction]

`--before` is a working tree of gen3d to compare with (`git worktree add FOLDER COMMIT`); TABLE is a CSV whose column `path`
names raw T1w scans. One process per tree does each scan, in turns, so that other work on the machine slows both alike; what is
measured is CPU time. The first scan of a process (template, compiled loops) is not counted. Results are compared scan by
scan: where the alignment sends the voxels of the template's brain, the log-Jacobian of the regions, the verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SPACING_MM = 2.5
STAGES = {
    "gen3d.imaging.conform": {
        "read_scan": "read",
        "background_at_zero": "read",
        "working_copy": "read",
        "find_brain": "first alignment and brain mask",
        "bias_field": "N4",
        "refined": "second alignment",
        "onto_plan": "resample",
        "deform": "deformation",
        "measure": "measures",
        "depth_share_outside": "measures",
        "levels_under": "intensities",
        "apply_tissue_rule": "intensities",
    },
    "gen3d.prepare.one_scan": {"_store": "volumes and picture", "file_voxel_hash": "hash"},
    "gen3d.simulate.person": {
        "healthy_anatomy": "anatomy",
        "condition_anatomy": "condition",
        "sample_tissue": "sample the template",
        "noiseless_scan": "appearance",
    },
    "gen3d.simulate.making": {"deformation_channel": "deformation", "_keep": "volumes and picture"},
}
DRAWS = 2000


def main() -> None:
    """Compare two trees, or be the process of one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another working tree of gen3d")
    parser.add_argument("--scans", type=Path, help="CSV with a column `path` of raw scans")
    parser.add_argument("--people", type=int, default=12, help="people to simulate; 0: none")
    parser.add_argument("--bias-correction", action="store_true", help="prepare with N4")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.out, given.bias_correction, given.people)
        return
    if given.before is None or given.scans is None:
        parser.error("--before and --scans are needed")
    paths = [str((given.scans.parent / path).resolve()) for path in pd.read_csv(given.scans)["path"]]
    given.out.mkdir(parents=True)
    trees = {"before": given.before.resolve(), "now": Path(__file__).resolve().parents[2]}
    workers = {name: start(tree, given.out / name, given) for name, tree in trees.items()}
    for kind, items in (("prepare", paths), ("simulate", [str(person) for person in range(given.people)])):
        answers = in_turns(workers, kind, items)
        if answers:
            report(kind, answers)
            if kind == "prepare":
                compare_prepared(given.out, answers)
            else:
                compare_simulated(given.out, answers)
    for worker in workers.values():
        worker.communicate()
    whole_commands(trees, paths[0], given.out)


def start(tree: Path, out: Path, given: argparse.Namespace) -> subprocess.Popen[str]:
    """A process that imports gen3d from this tree."""
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--worker",
        "--out",
        str(out),
        "--people",
        str(given.people),
    ]
    command += ["--bias-correction"] if given.bias_correction else []
    return subprocess.Popen(
        command, env=environment(tree), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tree
    )


def environment(tree: Path) -> dict[str, str]:
    """One thread, and gen3d from this tree."""
    return {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}


def in_turns(workers: dict[str, subprocess.Popen[str]], kind: str, items: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The answers of both processes to each item; who is first alternates, and the first item is done once more before."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number, item in enumerate([*items[:1], *items]):
        names = sorted(workers, reverse=number % 2 == 1)
        for name in names:
            stdin, stdout = workers[name].stdin, workers[name].stdout
            assert stdin is not None
            assert stdout is not None
            stdin.write(json.dumps([kind, item, f"{kind}{number}"]) + "\n")
            stdin.flush()
            answer = json.loads(stdout.readline())
            if number:
                answers[name].append(answer)
        print(f"{kind} {number} of {len(items)}", file=sys.stderr)
    return answers if items else {}


# ------------------------------------------------------------------------------------------------- in the process of a tree


def work(out: Path, bias_correction: bool, people: int) -> None:
    """Answer each line of the standard input, [kind, item, key], by a line of seconds and numbers."""
    seconds: dict[str, float] = {}
    for module, functions in STAGES.items():
        time_calls(module, functions, seconds)
    sys.stdout = sys.stderr  # what gen3d says is not an answer
    person = simulating(out / "people", people) if people else None
    for line in sys.stdin:
        kind, item, key = json.loads(line)
        seconds.clear()
        began = time.process_time()
        row = prepare(item, key, out, bias_correction) if kind == "prepare" else person(int(item))  # type: ignore[misc]
        total = time.process_time() - began
        print(json.dumps({"total": total, "stages": seconds, "row": row, "key": key}), file=sys.__stdout__, flush=True)


def time_calls(module: str, functions: dict[str, str], seconds: dict[str, float]) -> None:
    """Replace functions where they are called by ones that add their CPU seconds to those of their stage."""
    from importlib import import_module

    place = import_module(module)
    for name, stage in functions.items():
        setattr(place, name, timed(getattr(place, name), stage, seconds))


def timed(call: Callable[..., Any], stage: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """The function, adding its CPU seconds to those of its stage."""

    def with_clock(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return call(*arguments, **named)
        finally:
            seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - began

    return with_clock


def prepare(path: str, key: str, out: Path, bias_correction: bool) -> dict[str, Any]:
    """One scan through `prepare`, its file read and its volumes written."""
    from gen3d.imaging.orientation import OrientationRule
    from gen3d.imaging.plan import plan_grid
    from gen3d.imaging.registration import DeformationSettings
    from gen3d.prepare.one_scan import make_tasks, prepare_scan

    plan = plan_grid(SPACING_MM, deformation=DeformationSettings().model_dump(mode="json"))
    frame = pd.DataFrame({"key": [key], "source": [path]})
    tasks = make_tasks(frame, [], out, plan, "auto", bias_correction, OrientationRule())
    return dict(prepare_scan(tasks[0]))


def simulating(out: Path, people: int) -> Callable[[int], dict[str, Any]]:
    """A function that simulates one person of a cohort with all conditions."""
    from gen3d.simulate.anatomy import cohort_space
    from gen3d.simulate.appearance import make_sites
    from gen3d.simulate.making import SimulatedCohort, simulate_scan
    from gen3d.simulate.simulate import Simulate

    verb = Simulate(out=out, subjects=max(people, 10), spacing_mm=3.0)
    table, plan = verb.people(), verb.grid()
    sites = make_sites(verb.sites, verb.site_strength, verb.seed)
    cohort = SimulatedCohort(out, verb.seed, cohort_space(plan), sites, verb.conditions, True, None)
    rows = table.to_dict("records")
    order = np.random.default_rng(0).permutation(len(rows))  # conditions come first in the table

    def person(number: int) -> dict[str, Any]:
        done = simulate_scan(cohort, {str(name): value for name, value in rows[int(order[number])].items()})
        return {"key": done["key"], "condition": rows[int(order[number])]["condition"], **done["percent_change"]}

    return person


# ---------------------------------------------------------------------------------------------------------- comparing


def report(kind: str, answers: dict[str, list[dict[str, Any]]]) -> None:
    """Seconds of both trees by stage, and the ratio scan by scan with its interval."""
    totals = {name: np.array([answer["total"] for answer in rows]) for name, rows in answers.items()}
    ratio = totals["before"] / totals["now"]
    print(f"\n{kind}: n {len(ratio)}; CPU s per scan before {spread(totals['before'])}, now {spread(totals['now'])}")
    low, high = interval(ratio)
    print(
        f"times as fast, scan by scan: median {np.median(ratio):.2f} [{low:.2f}, {high:.2f}], least {ratio.min():.2f}"
    )
    stages = dict.fromkeys(stage for rows in answers.values() for row in rows for stage in row["stages"])
    for stage in [*stages, "other"]:
        cells = []
        for rows in answers.values():
            of_stage = [
                row["stages"].get(stage, 0.0) if stage != "other" else row["total"] - sum(row["stages"].values())
                for row in rows
            ]
            cells.append(
                f"{np.mean(of_stage):6.2f} s {100 * np.sum(of_stage) / sum(row['total'] for row in rows):5.1f} %"
            )
        print(f"  {stage:32s} {'   '.join(cells)}")


def spread(values: np.ndarray) -> str:
    """Median and the middle 90 %."""
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % of the median over scans drawn with replacement."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (DRAWS, len(values))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def compare_prepared(out: Path, answers: dict[str, list[dict[str, Any]]]) -> None:
    """Alignments, regions and verdicts of both trees."""
    from gen3d.cohort.regions import regions_on
    from gen3d.cohort.screening import judge
    from gen3d.imaging.plan import plan_grid
    from gen3d.imaging.template import template_on

    plan = plan_grid(SPACING_MM)
    template, labels = template_on(plan), regions_on(plan)
    world = np.argwhere(template.mask) @ plan.matrix[:3, :3].T + plan.matrix[:3, 3]
    moved, regional, voxelwise, t1w = [], [], [], []
    for before, now in zip(answers["before"], answers["now"], strict=True):
        if before["row"]["failure"] or now["row"]["failure"]:
            continue
        first, second = (matrix_of(out / name / "transforms" / f"{now['key']}.json") for name in ("before", "now"))
        moved.append(np.linalg.norm(world @ (second - first)[:3, :3].T + (second - first)[:3, 3], axis=1))
        pairs = {channel: list(volumes(out, now["key"], channel)) for channel in ("log_jacobian", "t1w")}
        means = [
            np.bincount(labels.ravel(), volume.ravel()) / np.bincount(labels.ravel())
            for volume in pairs["log_jacobian"]
        ]
        regional.append((means[1] - means[0])[1:])
        inside = [volume[template.mask] for volume in pairs["log_jacobian"]]
        voxelwise.append(np.corrcoef(*inside)[0, 1])
        t1w.append(np.corrcoef(*(volume[template.mask] for volume in pairs["t1w"]))[0, 1])
    distances, differences = np.array([np.median(each) for each in moved]), np.array(regional)
    print(
        f"  alignments differ by {spread(distances)} mm (median over brain voxels), at most {max(map(np.max, moved)):.2f} mm"
    )
    print(f"  log-J of a region: mean difference {differences.mean():+.4f}, SD {differences.std():.4f}")
    print(f"  voxel by voxel: r of log-J {spread(np.array(voxelwise))}, r of T1w {spread(np.array(t1w))}")
    rows = {name: pd.DataFrame([answer["row"] for answer in both]) for name, both in answers.items()}
    for column in ("mutual_information", "correlation", "correlation_after", "mask_dice"):
        change = rows["now"][column] - rows["before"][column]
        median = rows["before"][column].median()
        changes = f"{change.median():+.4f} ({change.min():+.3f} to {change.max():+.3f})"
        print(f"  {column}: before {median:.3f}, change {changes}")
    verdicts = {name: judge(frame)["verdict"] for name, frame in rows.items()}
    print(pd.crosstab(verdicts["before"], verdicts["now"]).to_string())


def compare_simulated(out: Path, answers: dict[str, list[dict[str, Any]]]) -> None:
    """Stored volumes and true changes of both trees."""
    largest: dict[str, float] = {}
    for before, now in zip(answers["before"], answers["now"], strict=True):
        for channel in ("t1w", "log_jacobian"):
            first, second = volumes(out, now["row"]["key"], channel, "people")
            largest[channel] = max(largest.get(channel, 0.0), float(np.abs(first - second).max()))
            largest[f"{channel} (SD)"] = max(largest.get(f"{channel} (SD)", 0.0), float((first - second).std()))
        regions = [name for name in now["row"] if name not in ("key", "condition")]
        change = max((abs(now["row"][name] - before["row"][name]) for name in regions), default=0.0)
        largest["true change, percent points"] = max(largest.get("true change, percent points", 0.0), change)
    print("  largest difference: " + ", ".join(f"{name} {value:.5f}" for name, value in largest.items()))


def matrix_of(path: Path) -> np.ndarray:
    """Template -> scan [4, 4] as prepare stores it."""
    return np.array(json.loads(path.read_text(encoding="utf-8"))["affine_template_to_scan"])


def volumes(out: Path, key: str, channel: str, folder: str = "") -> Iterator[np.ndarray]:
    """The stored volume of both trees."""
    from gen3d.imaging.volume import read_stored

    for name in ("before", "now"):
        yield read_stored(out / name / folder / "volumes" / f"{key}_{channel}.nii")


def whole_commands(trees: dict[str, Path], path: str, out: Path) -> None:
    """One command for one scan, start of Python included: wall and CPU seconds, the better of two runs."""
    table = out / "one.csv"
    table.write_text(f"subject,path\none,{path}\n", encoding="utf-8")
    print("\none scan by `gen3d prepare` with N4, start of Python included:")
    for name, tree in trees.items():
        times = []
        for attempt in range(2):
            used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            folder = out / f"one_{name}_{attempt}"
            command = [
                sys.executable,
                "-m",
                "gen3d",
                "prepare",
                f"source={table}",
                f"out={folder}",
                f"spacing_mm={SPACING_MM}",
            ]
            subprocess.run(command, env=environment(tree), cwd=tree, stdout=subprocess.DEVNULL, check=True)
            now = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
            times.append((cpu, time.perf_counter() - began))
        print(f"  {name:8s} {min(times)[0]:6.1f} CPU s, {min(times, key=lambda pair: pair[1])[1]:6.1f} s")


if __name__ == "__main__":
    main()
