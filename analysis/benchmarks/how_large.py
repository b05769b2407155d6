"""How large can it get: seconds, memory and disk of every verb with 100, 1,000 and 10,000 people.

    python analysis/benchmarks/how_large.py --work FOLDER [--people 100 1000 10000] [--verbs encode classify] [--limit 1800]

Inputs: none. A cohort of N people is written by the package's own writers on a grid of 24 x 24 x 24 voxels of 8 mm (T1w and
log-Jacobian, int16): smooth fields with effects of age, sex, site and diagnosis. Three quarters are controls, of whom at most
200 have the role train; three sites; half as many synthetic scans for `quality`. A PCA and a small VAE are trained on the
people with role train by `gen3d train`. Then every verb runs by the command line, in a process of its own, with its default
settings; but `classify` with one repeat and 20 permutations (default: 5 and 1,000) and `stratify` with 20 bootstraps and 20
null cohorts (default: 100 each), whose time is in proportion to these. What is small here is the number of voxels alone:
tables, latents (64 numbers), records and folders are as large as with real scans.

wall s; CPU s: of the process and its workers. MiB: the largest sum, over the process and its workers, of memory that is not
backed by a file (resident, sampled five times a second); memory-mapped volumes and latents do not count, as the kernel can
drop them. MB of disk: what the verb wrote. The exponent is that of people between the two largest numbers; the smallest
number's figure is taken off first, as what every start takes. Results are kept in FOLDER/results.json, cell by cell, so that an
interrupted run goes on; --table prints them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
SHAPE, SPACING_MM = (24, 24, 24), 8.0
NUM_TRAIN = 200
NUM_FIELDS = 60
SAMPLE_EVERY_S, LOOK_EVERY_S = 0.2, 2.0
FAR = 100_000
NUM_NEW = 50
WORTH_A_SLOPE = {"cpu_s": 5.0, "mib": 50.0, "mb": 1.0}
"""Growth from the smallest to the largest number of people below which an exponent would be noise."""

Row = dict[str, float]


# ------------------------------------------------------------------------------------------------------- the cohort


def tiny_plan() -> Any:
    """The brain's field of view in 8 mm voxels."""
    from gen3d.imaging.plan import FIELD_OF_VIEW_MM, GridPlan

    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = [
        sum(limits) / 2 - (side - 1) / 2 * SPACING_MM for limits, side in zip(FIELD_OF_VIEW_MM, SHAPE, strict=True)
    ]
    return GridPlan(spacing_mm=SPACING_MM, shape=SHAPE, affine=tuple(tuple(row) for row in affine.tolist()))


def people(num: int, seed: int, prefix: str) -> pd.DataFrame:
    """A cohort table of healthy people and patients with roles, three sites."""
    from gen3d.cohort.manifest import scan_key

    generator = np.random.default_rng(seed)
    patient = np.arange(num) % 4 == 3
    roles = np.where(patient, "evaluation", np.where(np.arange(num) % 8 == 0, "test", "calibration")).astype(object)
    controls = np.flatnonzero(~patient)
    roles[generator.permutation(controls)[: min(NUM_TRAIN, len(controls) // 2)]] = "train"
    subjects = [f"{prefix}{index:06d}" for index in range(num)]
    return pd.DataFrame(
        {
            "subject": subjects,
            "session": "1",
            "site": generator.choice(["siteA", "siteB", "siteC"], num),
            "age_years": generator.uniform(40, 85, num).round(1),
            "sex": generator.choice(["F", "M"], num),
            "diagnosis": np.where(patient, "AD", "control"),
            "cdr": np.nan,
            "mmse": np.where(patient, generator.integers(15, 27, num), generator.integers(26, 31, num)),
            "role": roles,
            "key": [scan_key(subject, "1") for subject in subjects],
        }
    )


def write_world(folder: Path, num: int, seed: int, prefix: str, synthetic: bool = False) -> None:
    """A prepared folder of `num` people, or a folder of synthetic scans, finished and sealed as a verb leaves it."""
    from gen3d.cohort.folder import GENERATOR_SUBJECTS, write_cohort
    from gen3d.cohort.regions import region_table, regions_on
    from gen3d.cohort.scan_hash import voxel_hash
    from gen3d.core.artefact import write_json
    from gen3d.core.config import Verb
    from gen3d.core.output_folder import begin
    from gen3d.imaging.template import template_on
    from gen3d.imaging.volume import store
    from gen3d.synthesis.folder import PROVENANCE

    plan, verb = tiny_plan(), "sample" if synthetic else "prepare"
    template, table = template_on(plan), people(num, seed, prefix)
    work = begin(Verb(out=folder), verb, {}, {"num": num, "seed": seed})
    if work.finished:
        return
    make, hashes = scan_maker(template), []
    for index, row in enumerate(table.itertuples()):
        t1w, log_jacobian = make(row, np.random.default_rng([seed, index]))
        store(folder / "volumes" / f"{row.key}_t1w.nii", t1w, plan.matrix)
        store(folder / "volumes" / f"{row.key}_log_jacobian.nii", log_jacobian, plan.matrix)
        hashes.append(voxel_hash(t1w))
    table["scan_hash"] = hashes
    if synthetic:
        table = table.assign(role="evaluation", generator="none", site="synthetic")
        for name in ("age_years", "sex", "diagnosis"):
            table[f"requested_{name}"] = table[name]
        write_json(folder / PROVENANCE, {"run": {"folder": str(folder / "none"), "key": "none"}})
        write_json(folder / GENERATOR_SUBJECTS, {})
    write_cohort(folder, plan, template.mask, regions_on(plan), region_table(), table)
    work.finish({"num_scans": num})


Maker = Callable[[Any, np.random.Generator], tuple[NDArray[np.float32], NDArray[np.float32]]]


def scan_maker(template: Any) -> Maker:
    """(person, random numbers) -> T1w and log-Jacobian: the template with smooth fields, effects of covariates, and noise."""
    fixed = np.random.default_rng(0)
    fields = np.stack([ndimage.gaussian_filter(fixed.standard_normal(SHAPE), 2.0) for _ in range(NUM_FIELDS)])
    fields = (fields / fields.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32).reshape(NUM_FIELDS, -1)
    offsets = dict(zip(("siteA", "siteB", "siteC"), (0.0, 0.6, -0.6), strict=True))
    strength = 1.0 / np.sqrt(1.0 + np.arange(NUM_FIELDS))

    def make(row: Any, generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        shares = generator.standard_normal((2, NUM_FIELDS)) * strength
        shares[:, 0] += 0.8 * (row.age_years - 60) / 10
        shares[:, 1] += 0.8 * (row.diagnosis == "AD")
        shares[:, 2] += offsets[row.site]
        shares[:, 3] += 0.5 * (row.sex == "F")
        smooth = (shares.astype(np.float32) @ fields).reshape(2, *SHAPE)
        noise = generator.standard_normal((2, *SHAPE), dtype=np.float32)
        t1w = template.t1w * (1 + 0.03 * smooth[0]) + 0.02 * noise[0]
        return t1w * template.mask, (0.05 * smooth[1] + 0.01 * noise[1]) * template.mask

    return make


# -------------------------------------------------------------------------------------------------------- the verbs


@dataclass(frozen=True)
class Step:
    """A verb that is measured: its command line with `{n}` for the folder of N people, what it writes and what it needs."""

    command: str
    needs: tuple[str, ...] = ()

    def arguments(self, folder: Path) -> list[str]:
        return self.command.replace("{n}", str(folder)).split()


PCA = "train model.kind=pca model.num_components=20 prepared={n}/cohort track=[] out={n}/pca"
VAE = (
    "train model.kind=vae model.base_channels=8 model.max_channels=16 model.latent_size=64 optim.steps=60 "
    "optim.batch_size=4 engine.device=cpu picture_every=1000 track=[] prepared={n}/cohort out={n}/vae"
)
STEPS: dict[str, Step] = {
    "train pca": Step(PCA),
    "train vae": Step(VAE),
    "encode": Step("encode prepared={n}/cohort run={n}/vae out={n}/latents", ("train vae",)),
    "harmonise": Step("harmonise latents={n}/latents keep=[age_years,diagnosis] out={n}/harmonised", ("encode",)),
    "classify": Step(
        "classify latents={n}/latents target=diagnosis seen=leave_out repeats=1 permutations=20 out={n}/head",
        ("encode",),
    ),
    "predict": Step("predict head={n}/head latents={n}/latents seen=leave_out out={n}/predictions", ("classify",)),
    "stratify": Step("stratify latents={n}/latents bootstrap=20 null_draws=20 out={n}/strata", ("encode",)),
    "quality": Step("quality synthetic={n}/synthetic reference={n}/cohort out={n}/quality"),
    "norm": Step("norm prepared={n}/cohort run={n}/pca out={n}/norm", ("train pca",)),
    "anomaly of 50 by a norm": Step("anomaly norm={n}/norm prepared={n}/new out={n}/judged", ("norm",)),
    "anomaly": Step("anomaly prepared={n}/cohort run={n}/pca out={n}/maps", ("train pca",)),
    "report": Step(
        "report inputs=[{n}/cohort,{n}/vae,{n}/latents,{n}/head,{n}/strata,{n}/maps] out={n}/report",
        ("classify", "stratify", "anomaly"),
    ),
}


# -------------------------------------------------------------------------------------------------------- measuring


def tree_of(pid: int) -> list[int]:
    """A process and all below it."""
    found, parents = [pid], {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def own_mib(pid: int) -> float:
    """Resident memory of a process that is not backed by a file, MiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that ended."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]
    except (OSError, IndexError):
        return 0.0
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def measure(arguments: list[str], tree: Path, log: Path, limit_s: float) -> Row | None:
    """Run `gen3d` with these arguments; None where the limit of CPU seconds ended it.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    started, looked, peak, family = time.monotonic(), 0.0, 0.0, list[int]()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gen3d", *arguments],
            env=environment,
            cwd=tree,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - looked > LOOK_EVERY_S:
                family, looked = tree_of(process.pid), time.monotonic()
            peak = max(peak, sum(map(own_mib, family)))
            if sum(map(cpu_seconds, family)) > limit_s:
                os.killpg(process.pid, signal.SIGKILL)
                os.wait4(process.pid, 0)
                return None
            time.sleep(SAMPLE_EVERY_S)
    if status:
        raise RuntimeError(f"gen3d {' '.join(arguments)}: {log.read_text()[-1500:]}")
    wall = time.monotonic() - started
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "mib": peak}


def size_mb(folder: Path) -> float:
    """Of everything below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def run(work: Path, tree: Path, sizes: list[int], names: list[str], limit_s: float) -> dict[str, dict[str, Any]]:
    """Every cell that is not in results.json yet: cell `verb` -> N -> figures, None where the limit ended it."""
    kept = work / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
    for num in sizes:
        folder = work / str(num)
        write_world(folder / "cohort", num, 1, "p")
        write_world(folder / "synthetic", max(10, num // 2), 2, "syn", synthetic=True)
        write_world(folder / "new", NUM_NEW, 3, "new")
        for name in names:
            row = results.setdefault(name, {})
            if str(num) in row or any(not results.get(need, {}).get(str(num)) for need in STEPS[name].needs):
                continue
            arguments = STEPS[name].arguments(folder)
            log = folder / f"{name.replace(' ', '_')}.log"
            try:
                row[str(num)] = measure(arguments, tree, log, limit_s)
            except RuntimeError as error:
                print(error, flush=True)
                continue
            if row[str(num)] is not None:
                row[str(num)]["mb"] = size_mb(Path(arguments[-1].removeprefix("out=")))
            print(num, name, row[str(num)], flush=True)
            kept.write_text(json.dumps(results, indent=1))
    return results


# ---------------------------------------------------------------------------------------------------------- telling


def measured(row: dict[str, Any]) -> list[int]:
    """Numbers of people with a figure."""
    return sorted(int(num) for num, cell in row.items() if cell)


def exponent(row: dict[str, Any], what: str) -> float:
    """Growth with the people beyond the smallest number, whose figure is what every start takes; NaN with fewer than three."""
    sizes = measured(row)
    if len(sizes) < 3:
        return math.nan
    least, before, last = (float(row[str(num)][what]) for num in (sizes[0], *sizes[-2:]))
    if last - least < WORTH_A_SLOPE[what]:
        return math.nan
    grown = (last - least) / max(before - least, 0.1 * WORTH_A_SLOPE[what])
    return math.log(grown) / math.log((sizes[-1] - sizes[0]) / (sizes[-2] - sizes[0]))


def at_far(row: dict[str, Any], what: str) -> float:
    """At 100,000 people: by the exponent, but time and disk at least in proportion to people."""
    sizes = measured(row)
    if len(sizes) < 2:
        return math.nan
    least, last, grows = float(row[str(sizes[0])][what]), float(row[str(sizes[-1])][what]), exponent(row, what)
    grows = (
        max(1.0, 1.0 if math.isnan(grows) else grows)
        if what != "mib"
        else 1.0
        if math.isnan(grows)
        else max(0.0, grows)
    )
    return least + max(0.0, last - least) * ((FAR - sizes[0]) / (sizes[-1] - sizes[0])) ** grows


def in_words(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return (
        f"{seconds / 3600:.1f} h"
        if seconds > 5400
        else f"{seconds / 60:.0f} min"
        if seconds > 90
        else f"{seconds:.0f} s"
    )


def table(results: dict[str, dict[str, Any]], sizes: list[int]) -> str:
    """Markdown: CPU s / MiB per number of people, exponents, and what 100,000 people would take."""
    lines = [
        "| verb | " + " | ".join(f"{num:,}" for num in sizes) + " | exponents | 100,000: CPU, memory, disk |",
        "|---" * (len(sizes) + 3) + "|",
    ]
    for name in (name for name in STEPS if name in results):
        row = results[name]
        cells = [
            f"{cell['cpu_s']:.0f} / {cell['mib']:.0f}" if (cell := row.get(str(num))) else "not run" for num in sizes
        ]
        exponents = " / ".join(
            "-" if math.isnan(each) else f"{each:.1f}" for each in (exponent(row, "cpu_s"), exponent(row, "mib"))
        )
        far = [at_far(row, what) for what in ("cpu_s", "mib", "mb")]
        there = "-" if math.isnan(far[0]) else f"{in_words(far[0])}, {far[1] / 1024:.1f} GiB, {far[2] / 1000:.1f} GB"
        lines.append(f"| {name} | {' | '.join(cells)} | {exponents} | {there} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for cohorts, results and results.json")
    parser.add_argument("--people", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--verbs", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--limit", type=float, default=3600.0, help="CPU seconds of a cell")
    parser.add_argument("--tree", type=Path, default=ROOT, help="working tree whose package is measured")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    given = parser.parse_args()
    if given.table:
        results = json.loads((given.work / "results.json").read_text())
    else:
        sys.path.insert(0, str(given.tree))
        given.work.mkdir(parents=True, exist_ok=True)
        results = run(given.work.resolve(), given.tree, given.people, given.verbs, given.limit)
    print(table(results, given.people))


if __name__ == "__main__":
    main()
