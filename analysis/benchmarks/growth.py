"""How do time and memory grow with the number of people?

    python analysis/benchmarks/growth.py [--people 50 100 200 500 1000 2000] [--before FOLDER] [--limit 100]

Inputs: none. Random numbers of small size stand for scans, because only time and memory are measured: they grow with
people in the same way at any size of a scan. Each step is a process of its own. CPU s: of the step alone, which other work
on the machine lengthens less than the wall's. MiB: the largest resident size during the step minus that before it, so
inputs do not count. The exponent is the slope of the logarithm over the three largest numbers of people. A step that is
expected to take longer than --limit CPU seconds, from the two before it, is not run. With --before, the same steps run with
the package of another working tree.

Steps: z of three channels as `gen3d anomaly` makes them (50,000 voxels, everybody calibrates, one site; inputs up to 400
MB); site factors (2,000 voxels, two sites); held-out latent distances (64 numbers); the search for one person under two ids
(256 numbers); consensus of clusters over 100 resamples (6 components, 3 groups); trustworthiness of a map; the area under
the curve with its interval; ComBat (500 numbers); one linear head (100 numbers); a linear support vector machine (100
numbers); distances of two sets of images (128 numbers); the memorisation audit (256 numbers, one tenth as many synthetic
scans, mirror images).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
Step = Callable[[], Any]


def random(num: int, width: int) -> np.ndarray:
    """Standard normal numbers [num, width]."""
    return np.random.default_rng(num).standard_normal((num, width)).astype(np.float32)


def panel_of(num: int, sites: tuple[str, str] = ("a", "b")) -> Any:
    """Everybody calibrates; every second person is of the second site."""
    from gen3d.anomaly.calibration.panel import make_panel

    frame = pd.DataFrame({"site": list(sites) * (num // 2), "role": "calibration", "calibrates": True})
    frame["subject"] = [f"p{row}" for row in range(num)]
    frame["key"], frame["sex"], frame["age_years"] = frame["subject"], "F", np.linspace(20, 80, num)
    return make_panel(frame, ("age", "site"))


def anomaly(num: int) -> Step:
    """z and scores channel by channel, as `Anomaly.write` makes them."""
    from gen3d.anomaly.calibration.calibrate import CalibrationSettings, calibrate, describe_calibration
    from gen3d.maths.significance import burden, fdr, p_values

    values, panel = random(num, 50_000), panel_of(num, ("a", "a"))
    settings = CalibrationSettings(empirical_null=True)

    def by_channel() -> None:
        for _ in ("residual", "structural", "deformation"):
            calibrated = calibrate(values, panel, settings)
            describe_calibration(panel, calibrated, 0.05)
            for z in calibrated.z:
                burden(z)
                fdr(p_values(z), 0.05)
            del calibrated

    return by_channel


def site_factors(num: int) -> Step:
    from gen3d.anomaly.calibration.calibrate import _Controls

    controls = _Controls(random(num, 2_000), panel_of(num))
    return lambda: list(controls.factors(True)[1])


def latent_distances(num: int) -> Step:
    from gen3d.maths.deviation import held_out_deviation

    values = random(num, 64)
    return lambda: held_out_deviation(values)


def duplicates(num: int) -> Step:
    from gen3d.cohort.duplicates import find_duplicates

    values, names = random(num, 256), [f"p{row}" for row in range(num)]
    return lambda: find_duplicates(values, names)


def consensus(num: int) -> Step:
    from gen3d.stratify.structure import bootstrap, solve

    generator = np.random.default_rng(0)
    values = random(num, 6).astype(np.float64) + 4.0 * (np.arange(num) % 3)[:, None]
    (solution,) = [each for each in solve(values, "mixture", 3, generator) if each.num_clusters == 3]
    return lambda: bootstrap(values, solution, "mixture", 100, generator)


def map_neighbours(num: int) -> Step:
    try:
        from gen3d.maths.neighbourhoods import trustworthiness
    except ImportError:
        from sklearn.manifold import trustworthiness as of_sklearn

        def trustworthiness(values: Any, coordinates: Any, num_neighbours: int) -> float:
            return float(of_sklearn(values, coordinates, n_neighbors=num_neighbours))

    values = random(num, 20)
    return lambda: trustworthiness(values, values[:, :2], 15)


def area(num: int) -> Step:
    from gen3d.maths.stats import bootstrap_auroc, delong_interval

    scores = random(num, 1)[:, 0]

    def both() -> None:
        delong_interval(scores[: num // 2], scores[num // 2 :])
        bootstrap_auroc(scores[: num // 2], scores[num // 2 :], 200)

    return both


def combat(num: int) -> Step:
    from gen3d.harmonise.combat import fit_combat

    values = random(num, 500).astype(np.float64)
    return lambda: fit_combat(values, ["a", "b"] * (num // 2), np.linspace(-1, 1, num)[:, None])


def head(kind: str) -> Callable[[int], Step]:
    def made(num: int) -> Step:
        from gen3d.classify.heads.learning import Learner
        from gen3d.classify.heads.settings import LinearSettings, SvmSettings
        from gen3d.cohort.target import make_target

        values, codes = random(num, 100).astype(np.float64), (np.arange(num) % 2).astype(np.float64)
        values[:, 0] += codes
        target = make_target(pd.Series(np.where(codes > 0, "b", "a")), "x", ("a", "b"), None)
        learner = Learner(LinearSettings() if kind == "linear" else SvmSettings(), "prevalence")
        return lambda: learner.learn(values, codes, np.arange(num), target, 0)

    return made


def image_distances(num: int) -> Step:
    from gen3d.quality.distances import _pool

    parts = [random(num, 128)[:, None].astype(np.float64), random(num + 1, 128)[:num, None].astype(np.float64)]

    def all_of_them() -> None:
        pool, first = _pool(parts), np.arange(num)
        pool.fid(first, first + num), pool.kid(first, first + num), pool.mmd(first, first + num)

    return all_of_them


def audit(num: int) -> Step:
    from gen3d.synthesis.memorisation import RealScans, memorisation

    def scans(count: int, seed: int) -> Any:
        vectors = np.random.default_rng(seed).standard_normal((2, count, 256))
        return RealScans(vectors[0], np.arange(count), vectors[1])

    synthetic = random(max(2, num // 10), 256)
    return lambda: memorisation(synthetic, scans(num * 3 // 4, 0), scans(num // 4, 1), num_resamples=100)


STEPS: dict[str, Callable[[int], Step]] = {
    "z of three channels": anomaly,
    "site factors": site_factors,
    "held-out latent distances": latent_distances,
    "duplicates": duplicates,
    "clusters' consensus": consensus,
    "trustworthiness of a map": map_neighbours,
    "area under the curve": area,
    "ComBat": combat,
    "linear head": head("linear"),
    "support vector machine": head("svm"),
    "distances of images": image_distances,
    "memorisation audit": audit,
}


def measure(name: str, num: int) -> dict[str, float]:
    """CPU seconds and MiB of one step, in this process."""
    step = STEPS[name](num)
    if num > 50:  # what is imported or compiled at the first call is no growth
        STEPS[name](50)()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, started = _resident("VmRSS"), time.process_time()
    step()
    return {"cpu_s": time.process_time() - started, "mib": max(0.0, _resident("VmHWM") - before)}


def _resident(field: str) -> float:
    """A figure of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def run(tree: Path, people: list[int], names: list[str], limit: float) -> dict[str, dict[int, dict[str, float]]]:
    """Every step in a process of its own, with the package of a working tree."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    for name in names:
        found[name] = {}
        for num in people:
            last = list(found[name].items())[-2:]
            if last and _expected(last, num) > limit:
                break
            command = [sys.executable, __file__, "--one", name, str(num)]
            out = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True, check=True).stdout
            found[name][num] = json.loads(out.splitlines()[-1])
            print(tree.name, name, num, found[name][num], flush=True)
    return found


def _expected(last: list[tuple[int, dict[str, float]]], num: int) -> float:
    """CPU seconds by the growth of the last two, at least linear."""
    (first, one), (second, two) = last[0], last[-1]
    grown = (
        np.log(max(two["cpu_s"], 1e-3) / max(one["cpu_s"], 1e-3)) / np.log(second / first) if second > first else 2.0
    )
    return float(two["cpu_s"] * (num / second) ** max(1.0, grown))


def exponent(row: dict[int, dict[str, float]], what: str) -> str:
    """Slope over the three largest numbers of people; a dash where the largest is too small to tell."""
    nums = sorted(row)[-3:]
    values = np.array([row[num][what] for num in nums])
    if len(nums) < 3 or values[-1] < (0.2 if what == "cpu_s" else 4.0):
        return "-"
    return f"{np.polyfit(np.log(nums), np.log(np.maximum(values, 1e-3)), 1)[0]:.1f}"


def table(found: dict[str, dict[int, dict[str, float]]], people: list[int]) -> str:
    """Markdown: CPU seconds / MiB."""
    lines = ["| step | " + " | ".join(f"{num:,}" for num in people) + " | exponents |"]
    lines.append("|---" * (len(people) + 2) + "|")
    for name, row in found.items():
        cells = [f"{row[num]['cpu_s']:.2f} / {row[num]['mib']:.0f}" if num in row else "not run" for num in people]
        lines.append(f"| {name} | {' | '.join(cells)} | {exponent(row, 'cpu_s')} / {exponent(row, 'mib')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[50, 100, 200, 500, 1000, 2000])
    parser.add_argument("--before", type=Path, help="another working tree, to be compared with")
    parser.add_argument("--limit", type=float, default=100.0, help="CPU seconds that a step may be expected to take")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]))))
        return
    for title, tree in (("Before", given.before), ("After", ROOT)):
        if tree is not None:
            print(f"\n{title}: CPU s / MiB\n\n{table(run(tree, given.people, given.steps, given.limit), given.people)}")


if __name__ == "__main__":
    main()
