"""What does a norm folder lose against a calibration with everybody at hand, and does nothing stay nothing?

Inputs: prepared folders of controls, and a cross-fitted run that was trained on them. Compares every control once with the
model (`gen3d norm part=1/1`), then, in random halves of the controls, repeatedly:

- fits a norm from sums on one half, and by plain least squares with all values in memory;
- splits that half again, fits a norm of each quarter and merges the two;
- judges the other half by all of them.

Prints the largest differences of coefficients, SDs and z; shares of |z| > 1.96 and of people with an FDR-positive voxel, with
95 % intervals over people; and seconds and memory of the fit against the number of controls. Then the whole way by the command
line: maps of `gen3d anomaly norm=` against those of `gen3d anomaly run=` for the same people.

    python analysis/19_the_norm.py --prepared PREPARED [PREPARED ...] --run RUN --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.calibration.calibrate import calibrate
from gen3d.anomaly.calibration.panel import Panel, make_panel
from gen3d.anomaly.compare import ChannelValues
from gen3d.anomaly.norm.fit import NormFit
from gen3d.anomaly.norm.folder import NormFolder, open_norm
from gen3d.anomaly.norm.merging import merge, open_norms
from gen3d.anomaly.norm.norm import Norm, only_controls
from gen3d.anomaly.settings import CalibratingVerb
from gen3d.cli import run_script
from gen3d.core.output_folder import begin
from gen3d.core.work_arrays import WorkingArrays
from gen3d.maths.significance import fdr, p_values
from gen3d.maths.stats import Interval, bootstrap_interval, wilson_interval

REPEATS = 8
Q = 0.05
SIZES = (20, 40, 80, 140)


@dataclass(frozen=True)
class Material:
    """Controls with their values by name [n, ...], and what fitting needs."""

    verb: Norm
    opened: Any
    table: pd.DataFrame
    values: dict[str, NDArray[np.float32]]

    def panel(self, rows: NDArray[np.int64]) -> tuple[Panel, ChannelValues]:
        """The panel of some controls, all of whom calibrate, and their values."""
        table = self.table.iloc[rows].reset_index(drop=True).assign(calibrates=True, role="calibration")
        panel = make_panel(table, self.verb.covariates)
        return panel, self._values(rows)

    def _values(self, rows: NDArray[np.int64]) -> ChannelValues:
        by_name = {name: np.asarray(array[rows]) for name, array in self.values.items()}
        num_voxels = by_name["deformation-voxels"].shape[1]
        measured = {
            name.removesuffix("-regions"): self._names(name)
            for name in by_name
            if name.endswith("-regions") and f"{name.removesuffix('-regions')}-voxels" not in by_name
        }
        return ChannelValues(NO_ARRAYS, by_name, np.empty((len(rows), num_voxels), np.float32), measured)

    def _names(self, name: str) -> pd.DataFrame:
        return pd.DataFrame({"name": [f"region {i}" for i in range(self.values[name].shape[1])]})


class _NoArrays(WorkingArrays):
    def __init__(self) -> None:
        pass

    def discard(self) -> None:
        pass


NO_ARRAYS = _NoArrays()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, nargs="+", required=True, help="prepared folders with controls")
    parser.add_argument("--run", type=Path, required=True, help="cross-fitted run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    material = compared(given.prepared, given.run, given.out)
    print(f"{len(material.table)} controls of {material.table['site'].nunique()} sites")
    halves(material, given.out)
    growth(material)
    by_commands(given.prepared, given.run, given.out)


def compared(prepared: list[Path], run: Path, out: Path) -> Material:
    """Every control compared once."""
    keys = {"prepared": prepared, "run": run}
    part = Norm.model_validate({**keys, "part": "1/1", "out": out / "values"}).run()
    verb = Norm.model_validate({**keys, "out": out / "norm"})
    opened = verb.open_inputs()
    panel = only_controls(opened[2])  # type: ignore[index]
    calibrating = panel.calibration
    values = {
        path.stem: np.load(path, mmap_mode="r")
        for path in sorted((part / "values").glob("*.npy"))
        if path.stem != "latents"
    }
    table = panel.table.iloc[calibrating].reset_index(drop=True)
    return Material(verb, opened, table, {name: array[calibrating] for name, array in values.items()})


def fitted(material: Material, rows: NDArray[np.int64], folder: Path) -> NormFolder:
    """A norm of some controls, written and opened."""
    shutil.rmtree(folder, ignore_errors=True)
    prepared, run, _, channels = material.opened
    panel, values = material.panel(rows)
    verb = material.verb.model_copy(update={"out": folder})
    with begin(verb, "norm", {}, {"rows": rows.tolist()}) as work:
        fit = NormFit(verb, prepared, run, panel, channels, anonymous=False)
        fit.write(values)
        fit.copy_runs()
        work.finish({})
    return open_norm(folder)


def merged(first: NormFolder, second: NormFolder, verb: CalibratingVerb, folder: Path) -> NormFolder:
    """Two norms put together."""
    shutil.rmtree(folder, ignore_errors=True)
    with begin(verb.model_copy(update={"out": folder}), "norm", {}, {"merged": folder.name}) as work:
        merge(open_norms([first.folder, second.folder]), folder)
        work.finish({})
    return open_norm(folder)


def halves(material: Material, out: Path) -> None:
    """Null behaviour and differences in random halves."""
    rows: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for repeat in range(REPEATS):
        kept = out / f"half_{repeat:02d}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(one_half(material, repeat, out)))
        result = json.loads(kept.read_text())
        rows += result["people"]
        differences += result["differences"]
    people = pd.DataFrame(rows)
    print("\nnothing planted: people judged by a norm of the other half")
    for (way, channel), of in people.groupby(["way", "channel"], sort=False):
        by_person = of.groupby("key")[["beyond", "positive"]].mean()
        beyond = bootstrap_interval(by_person["beyond"].to_numpy())
        positive = wilson_interval(round(float(by_person["positive"].mean()) * len(by_person)), len(by_person))
        print(
            f"{way:9s} {channel:12s} n {len(by_person):3d} beyond 1.96 {shown(beyond)}, FDR-positive {shown(positive)}"
        )
    print("\ndifferences, median and largest over repeats")
    frame = pd.DataFrame(differences)
    for (what, channel), of in frame.groupby(["what", "channel"], sort=False):
        print(f"{what:30s} {channel:12s} median {of['value'].median():.2g}, largest {of['value'].max():.2g}")


def shown(share: Interval) -> str:
    """A share in percent with its interval."""
    return f"{100 * share.value:.2f} % [{100 * share.low:.2f}, {100 * share.high:.2f}]"


def one_half(material: Material, repeat: int, out: Path) -> dict[str, Any]:
    """One random split, dealt within sites."""
    generator = np.random.default_rng(1000 + repeat)
    shuffled = generator.permutation(len(material.table))
    by_site = sorted(shuffled, key=lambda row: str(material.table.at[row, "site"]))
    learn, judge = np.array(sorted(by_site[::2])), np.array(sorted(by_site[1::2]))
    dealt = sorted(generator.permutation(learn), key=lambda row: str(material.table.at[row, "site"]))
    quarters = [np.array(sorted(dealt[place::2])) for place in (0, 1)]
    whole = fitted(material, learn, out / "whole")
    parts = [fitted(material, rows, out / f"quarter{number}") for number, rows in enumerate(quarters)]
    both = merged(*parts, material.verb, out / "merged")
    people, differences = [], []
    table = material.table.iloc[judge]
    for channel in whole.map_channels:
        values = material.values[f"{channel}-voxels"][judge]
        z = {}
        for way, norm in (("streamed", whole), ("merged", both)):
            z[way] = norm.voxels(channel).z(values, norm.record.controls.coded(table))
            for key, of in zip(table["key"], z[way], strict=True):
                people.append(
                    {
                        "way": way,
                        "channel": channel,
                        "key": key,
                        "beyond": float((np.abs(of) > 1.96).mean()),
                        "positive": float(fdr(p_values(of), Q).any()),
                    }
                )
        gap = np.abs(z["merged"] - z["streamed"])
        differences += [
            {"what": "merged - whole: |z|, median", "channel": channel, "value": float(np.median(gap))},
            {"what": "merged - whole: |z|, 99.9 %", "channel": channel, "value": float(np.quantile(gap, 0.999))},
        ]
        differences += list(against_least_squares(material, learn, whole, channel))
    return {"people": people, "differences": differences}


def against_least_squares(
    material: Material, learn: NDArray[np.int64], norm: NormFolder, channel: str
) -> Iterator[dict[str, Any]]:
    """Coefficients of the norm against weighted least squares with all values in memory."""
    stored = norm.voxels(channel)
    coded = norm.record.controls.coded(material.table.iloc[learn])
    weight = 1.0 / (coded.spread * stored.site_variance.of(coded.sites))[:, None]
    values = np.asarray(material.values[f"{channel}-voxels"][learn], dtype=np.float64)
    solution, *_ = np.linalg.lstsq(coded.covariates * weight, values * weight, rcond=None)
    typical = float(np.sqrt(np.mean(np.square(stored.model.sd))))
    worst = float(np.abs(solution - stored.model.coefficients).max()) / typical
    yield {"what": "coefficients, in SDs of a voxel", "channel": channel, "value": worst}


def growth(material: Material) -> None:
    """Seconds and memory of calibrating one channel from values on disk."""
    print("\ncontrols, CPU seconds, MiB of calibrating the deformation channel; values of all of them in memory: MiB")
    for num in (size for size in SIZES if size <= len(material.table)):
        panel, values = material.panel(np.arange(num))
        array = values.by_name["deformation-voxels"]
        tracemalloc.start()
        began = time.process_time()
        calibrate(array, panel, z=values.scratch)
        seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{num:4d} {seconds:7.1f} {peak / 2**20:7.1f} {array.nbytes / 2**20:7.1f}")


def by_commands(prepared: list[Path], run: Path, out: Path) -> None:
    """The whole way: the same people by both."""
    keys: dict[str, Any] = {"prepared": prepared, "native": False}
    together = Anomaly.model_validate({**keys, "run": run, "out": out / "together"}).run()
    norm = Norm.model_validate({"prepared": prepared, "run": run, "out": out / "norm"}).run()
    judged = Anomaly.model_validate({**keys, "norm": norm, "out": out / "judged"}).run()
    largest = 0.0
    paths = sorted((judged / "maps").glob("*_zmap.nii.gz"))
    for path in paths:
        mine, theirs = (np.asarray(nib.load(folder / "maps" / path.name).dataobj) for folder in (judged, together))
        largest = max(largest, float(np.abs(mine - theirs).max()))
    print(f"\n{len(paths)} maps by the norm against those of the cohort: largest difference of z {largest:.2g}")


if __name__ == "__main__":
    run_script(main)
