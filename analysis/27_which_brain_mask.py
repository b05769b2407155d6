"""Which brain mask of a whole head is nearer to the brain: the registered template's, or that of deepbet's networks?

Inputs: a BIDS folder of whole heads with label images (`*_dseg.nii.gz`, names in `dseg.tsv`) next to the scans, and folders of
whole heads without labels. Each head's brain is found with `brain_mask=template`, `auto` and `deepbet`; some heads are also
prepared with each. Reference masks: all labels (brain and fluid), and the labels of tissue alone.

Prints per method: Dice with both references, the share of cortex that the mask misses, millilitres of the mask more than 4 mm
outside all labels, seconds of one core to the mask, what `prepare` measures and its verdicts, with 95 % bootstrap intervals over
people, and the differences of the same people. Started again, it goes on with the heads that are not in heads.tsv yet.

With `--scans`, of folders of scans with or without a skull: which of them `auto` takes for stripped, and their dark layer; of every
fifth labelled head also cut at several distances from its labels, with the Dice of the mask that a stripped scan would get.

    python analysis/27_which_brain_mask.py --labelled t1w_ixi_2mm --heads t1w_ds000011 --people 24 --prepared 8 --out FOLDER
    python analysis/27_which_brain_mask.py --labelled t1w_ixi_2mm --scans t1w_2mm t1w_slab_2mm t1w_malf_oasis1 --out FOLDER
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.cli import run_script
from gen3d.cohort.screening import judge
from gen3d.core.tables import write_table
from gen3d.imaging.background import background_at_zero
from gen3d.imaging.brainmask import MaskMethod, dark_layer, looks_stripped, stripped_mask
from gen3d.imaging.conform import BrainFound, brain_by_network, conform, find_brain
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.resample import working_copy
from gen3d.imaging.volume import Volume, read_scan, read_volume
from gen3d.maths.stats import Interval, bootstrap_interval
from gen3d.nets.deepbet import brain_network

METHODS: tuple[MaskMethod, ...] = ("template", "auto", "deepbet")
FLUID = (
    "CortCSF",
    "3rdVentricle",
    "4thVentricle",
    "5thVentricle",
    "InfLatVentricle",
    "LateralVentricle",
    "Vessel",
    "?",
)
CHANNELS = ("t1w", "log_jacobian")
FIRST_CORTEX = 100
"""Neuromorphometrics numbers the gyri from here on."""
FAR_MM = 4.0
NO_SCAN = ("_mask", "_glm", "_dseg")
"""Ends of the names of masks and labels that lie beside scans."""

CUT_MM = (0, 2, 4, 6, 8, 10, 12)
MEASURED = ("correlation", "mask_dice", "remains_percent", "correlation_after")


def main() -> None:
    """Measure every head, write heads.tsv, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=Path, required=True, help="BIDS folder with labels")
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="BIDS folders of whole heads without labels")
    parser.add_argument("--people", type=int, default=40, help="labelled people, evenly from all of them in order")
    parser.add_argument("--prepared", type=int, default=8, help="how many of them are also prepared, for verdicts")
    parser.add_argument(
        "--scans", type=Path, nargs="*", default=[], help="folders of scans, of which only that is told"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for heads.tsv, or layers.tsv and cut.tsv")
    options = parser.parse_args()
    if options.scans:
        _stripped_or_not(options.labelled, [options.labelled, *options.heads, *options.scans], options.out)
        return
    scans = sorted(options.labelled.glob("sub-*/anat/*_T1w.nii.gz"))
    scans = [scans[place] for place in np.unique(np.linspace(0, len(scans) - 1, options.people).round().astype(int))]
    fluid = _fluid(options.labelled / "dseg.tsv")
    scans += [scan for folder in options.heads for scan in sorted(folder.glob("sub-*/**/*_T1w.nii.gz"))]
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "heads.tsv"
    rows: list[dict[str, Any]] = pd.read_csv(table, sep="\t").to_dict("records") if table.is_file() else []  # goes on
    done = {row["scan"] for row in rows}
    for number, scan in enumerate(scans):
        if scan.name in done:
            continue
        prepared = number < options.prepared or number >= options.people
        by_template = _measured(scan, "template", fluid, prepared)
        same = _auto(scan) == "template"
        by_auto = {**by_template, "method": "auto"} if same else _measured(scan, "auto", fluid, prepared)
        rows += [by_template, by_auto, _measured(scan, "deepbet", fluid, prepared)]
        write_table(table, pd.DataFrame(rows))
    _print(pd.DataFrame(rows))


def _stripped_or_not(labelled: Path, folders: list[Path], out: Path) -> None:
    """What `auto` makes of every scan, and where the edge lies between a loose mask and a head that was cut."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for folder in folders:
        for path in sorted(folder.rglob("*.nii.gz")):
            if not path.name.removesuffix(".nii.gz").endswith(NO_SCAN):
                working = working_copy(background_at_zero(read_scan(path).volume()))
                row = {"folder": folder.name, "source": path.name.split("_")[0] if folder.name == "t1w_2mm" else ""}
                rows.append(
                    row | {"scan": path.name, "layer": dark_layer(working), "stripped": looks_stripped(working)}
                )
    layers = pd.DataFrame(rows)
    write_table(out / "layers.tsv", layers)
    print(layers.groupby(["folder", "source"]).agg({"stripped": ["sum", "count"], "layer": ["min", "median", "max"]}))
    cut = pd.DataFrame([row for path in sorted(labelled.glob("sub-*/anat/*_T1w.nii.gz"))[::5] for row in _cut(path)])
    write_table(out / "cut.tsv", cut)
    print(cut.groupby("cut_mm")[["layer", "stripped", "dice"]].agg(["count", "mean", "min", "max"]))


def _cut(path: Path) -> list[dict[str, Any]]:
    """A labelled head with 0 farther from its labels than each distance."""
    scan = working_copy(background_at_zero(read_scan(path).volume()))
    labels = np.round(read_volume(path.with_name(path.name.replace("_T1w", "_dseg"))).data) > 0
    distance = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(labels), scan.spacing_mm)
    rows = []
    for cut_mm in CUT_MM:
        left = Volume(np.where(distance <= cut_mm, scan.data, 0).astype(np.float32), scan.affine)
        row = {"scan": path.name, "cut_mm": cut_mm, "layer": dark_layer(left), "stripped": looks_stripped(left)}
        rows.append(row | {"dice": _dice(stripped_mask(left), labels)})
    return rows


def _fluid(table: Path) -> list[int]:
    """The labels of fluid and vessels, whose names may end in the side."""
    names = pd.read_csv(table, sep="\t")
    named = names["name"].str.replace(r"_[LR]$", "", regex=True).str.replace("Lateral_Ventricle", "LateralVentricle")
    return [int(label) for label in names["index"][named.isin(FLUID)]]


def _auto(path: Path) -> str:
    """Which of both methods `auto` takes first; where it takes the template's mask there is nothing to repeat."""
    return "stripped" if looks_stripped(working_copy(background_at_zero(read_scan(path).volume()))) else "template"


def _measured(path: Path, method: MaskMethod, fluid: list[int], prepared: bool) -> dict[str, Any]:
    """One head by one method; `prepared`: with what `gen3d prepare` measures of it."""
    scan = background_at_zero(read_scan(path).volume())
    working = working_copy(scan)
    start = time.process_time()
    found: BrainFound
    if method == "deepbet":
        network = brain_network(method)
        assert network is not None
        found = brain_by_network(scan, working, 12, "deepbet", network)
    else:
        network, found = None, find_brain(path, working, 12, method, None)
    row: dict[str, Any] = {"scan": path.name, "method": method, "cpu_seconds": time.process_time() - start}
    row |= {"used": found.method, "remark": found.remark, "litres": _millilitres(found.mask, working.spacing_mm) / 1000}
    labels = path.with_name(path.name.replace("_T1w", "_dseg"))
    if labels.is_file():
        row |= _against_labels(found.mask, np.round(read_volume(labels).data), fluid, working.spacing_mm)
    if not prepared:
        return row
    done = conform(path, plan_grid(2.0, channels=CHANNELS), method, network=network)
    return row | {"failure": "", **{name: value for name, value in done.measures.items() if name != "brain_mask"}}


def _against_labels(
    mask: NDArray[np.bool_], labels: NDArray[Any], fluid: list[int], spacing_mm: tuple[float, float, float]
) -> dict[str, float]:
    whole = labels > 0
    tissue, cortex = whole & ~np.isin(labels, fluid), labels >= FIRST_CORTEX
    far = ndimage.distance_transform_edt(~whole, sampling=spacing_mm) > FAR_MM
    return {
        "dice_all_labels": _dice(mask, whole),
        "dice_tissue": _dice(mask, tissue),
        "cortex_missed_percent": 100 * float((cortex & ~mask).sum() / cortex.sum()),
        "tissue_missed_percent": 100 * float((tissue & ~mask).sum() / tissue.sum()),
        "far_outside_ml": _millilitres(mask & far, spacing_mm),
    }


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def _millilitres(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    return float(mask.sum() * np.prod(spacing_mm)) / 1000


def _print(rows: pd.DataFrame) -> None:
    """Means with intervals by method and set of heads, differences within people, and verdicts."""
    measured = rows[rows["failure"].notna() | rows["mutual_information"].notna()].fillna({"failure": ""})
    verdicts = pd.concat([judge(part).assign(method=method) for method, part in measured.groupby("method")])
    rows = rows.join(verdicts[["verdict", "reason"]])
    names = ["dice_all_labels", "dice_tissue", "cortex_missed_percent", "tissue_missed_percent", "far_outside_ml"]
    for what, part in rows.groupby(rows["dice_all_labels"].notna().map({True: "labelled", False: "no labels"})):
        print(f"\n{what}: {part['scan'].nunique()} heads")
        for name in [*(names if what == "labelled" else []), "litres", *MEASURED, "cpu_seconds"]:
            wide = part.pivot(index="scan", columns="method", values=name).astype(float)
            values = " | ".join(f"{method} {_text(bootstrap_interval(wide[method]))}" for method in METHODS)
            worst = " / ".join(f"{wide[method].min():.3g} to {wide[method].max():.3g}" for method in METHODS)
            print(
                f"{name}: {values} | deepbet - template {_text(bootstrap_interval(wide['deepbet'] - wide['template']))}, "
                f"deepbet - auto {_text(bootstrap_interval(wide['deepbet'] - wide['auto']))}; {worst}"
            )
        print(part.groupby(["method", "used", "verdict"]).size().to_string())
        for _, row in part[part["verdict"].isin(["warn", "exclude"])].iterrows():
            print(f"  {row['method']}: {row['verdict']}: {row['reason']}")


def _text(interval: Interval) -> str:
    return f"{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]"


if __name__ == "__main__":
    run_script(main)
