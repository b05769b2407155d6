"""Do the regions made from coordinates agree with labels drawn on real brains?

Each labelled scan is aligned affinely to the template, its labels are carried over at 2 mm, and the package's regions are
compared with them: Dice overlap per region, and volume of the region against the mean labelled volume. Two affinely
aligned people do not agree with each other either, so the baseline is the Dice of one person's labels with another's.
The coordinates were corrected while looking at the first half of the people (in order of file name); the second half was
only ever used to check.

    GEN3D_REAL_DATA=... python analysis/01_regions_against_labels.py --out FOLDER

The folder of real scans must hold t1w_malf_oasis1 (skull-stripped scans `*_SS`, labels `*_glm`, label_information.csv).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cli import run_script
from gen3d.cohort.regions import all_regions, find, regions_on
from gen3d.core.errors import UserError
from gen3d.core.progress import say, track
from gen3d.imaging.affine import align
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.resample import sample, working_copy
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import Volume, read_volume

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SPACING_MM = 2.0
# Structure of the package -> names of the labels (without side) that make it up.
STRUCTURES = {
    "hippocampus": ["Hippocampus"],
    "amygdala": ["Amygdala", "Amygdala Anterior"],
    "entorhinal": ["Ent"],
    "parahippocampal": ["PHG"],
    "fusiform": ["FuG", "OFuG"],
    "inferior temporal": ["ITG"],
    "middle temporal": ["MTG"],
    "superior temporal": ["STG", "PP", "PT", "TTG"],
    "temporal pole": ["TMP"],
    "insula": ["AIns", "PIns"],
    "precuneus": ["PCu"],
    "posterior cingulate": ["PCgG"],
    "anterior cingulate": ["ACgG", "MCgG"],
    "superior parietal": ["SPL"],
    "inferior parietal": ["AnG"],
    "supramarginal": ["SMG", "PO"],
    "superior frontal": ["SFG", "MSFG", "SMC", "FRP"],
    "middle frontal": ["MFG"],
    "inferior frontal": ["OpIFG", "OrIFG", "TrIFG", "FO", "CO"],
    "orbitofrontal": ["AOrG", "IOrG", "LOrG", "MOrG", "POrG", "GRe", "MFC", "SCA"],
    "precentral": ["PrG", "MPrG"],
    "postcentral": ["PoG", "MPoG"],
    "pericalcarine": ["Calc"],
    "cuneus": ["Cun", "SCLC"],
    "lingual": ["LiG"],
    "lateral occipital": ["IOG", "MOG", "SOG", "OCP"],
    "thalamus": ["Thalamus Proper"],
    "caudate": ["Caudate"],
    "accumbens": ["Accumbens Area"],
    "putamen": ["Putamen"],
    "pallidum": ["Pallidum"],
    "ventral diencephalon": ["Ventral DC"],
    "cerebellar cortex": ["Cerebellum Exterior"],
    "cerebellar white matter": ["Cerebellum White Matter"],
    "lateral ventricle": ["Lateral Ventricle"],
    "inferior lateral ventricle": ["Inf Lat Vent"],
    "cerebral white matter": ["Cerebral White Matter"],
    "third ventricle": ["3rd Ventricle"],
    "fourth ventricle": ["4th Ventricle"],
    "brain-stem": ["Brain Stem"],
}


def main() -> None:
    """Align, compare, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    folder = Path(os.environ.get("GEN3D_REAL_DATA", "")) / "t1w_malf_oasis1"
    if not (folder / "label_information.csv").is_file():
        raise UserError("GEN3D_REAL_DATA must name a folder that holds t1w_malf_oasis1/label_information.csv.")
    out.mkdir(parents=True, exist_ok=True)
    plan, numbers = plan_grid(SPACING_MM), label_numbers(folder)
    scans = sorted(folder.glob("*_SS.nii.gz"))
    people = [carried_labels(scan, plan) for scan in track(scans, "aligning", total=len(scans))]
    table = compare(people, numbers, plan)
    table.to_csv(out / "regions_against_labels.tsv", sep="\t", index=False, float_format="%.3f")
    say(table.drop(columns="label").round(2).to_string(index=False))
    correlation = np.corrcoef(np.log(table["ours_ml"]), np.log(table["labelled_ml"]))[0, 1]
    as_good = int((table["dice_checked"] >= table["dice_between_people"] - 0.05).sum())
    say(
        f"log volumes correlate {correlation:.3f}; {as_good} of {len(table)} agree with a person as another person does"
    )
    draw(table, people[0], numbers, plan, out / "regions_against_labels.png")


def label_numbers(folder: Path) -> dict[str, list[int]]:
    """Label numbers that make up each region of the package, by the name of the region."""
    information = pd.read_csv(folder / "label_information.csv")
    number_of = {}
    for number, text in zip(information["Label Number"], information["Label Name"], strict=True):
        words = str(text).split()
        sided = words[0] in ("Right", "Left")
        side, rest = (words[0].lower(), words[1:]) if sided else ("midline", words)
        number_of[side, " ".join(rest)] = int(number)
        number_of.setdefault((side, rest[0]), int(number))
    found = {}
    for region in all_regions():
        names = STRUCTURES.get(region.structure, [])
        numbers = [number_of[region.hemisphere, name] for name in names if (region.hemisphere, name) in number_of]
        if numbers:
            found[region.name] = numbers
    return found


def carried_labels(scan_path: Path, plan: GridPlan) -> NDArray[np.int16]:
    """The labels of one scan on the plan's grid after affine alignment of the scan."""
    matrix = align(working_copy(read_volume(scan_path)), whole_head=False).template_to_scan
    labels = read_volume(scan_path.with_name(scan_path.name.replace("_SS", "_glm")))
    moved = sample(Volume(labels.data, labels.affine), matrix @ plan.matrix, plan.shape, order=0)
    return np.rint(moved).astype(np.int16)


def compare(people: list[NDArray[np.int16]], numbers: dict[str, list[int]], plan: GridPlan) -> pd.DataFrame:
    """Dice and volumes, one row per region."""
    ours, half, voxel_ml = regions_on(plan), len(people) // 2, plan.spacing_mm**3 / 1000
    rows = []
    for name, of_region in numbers.items():
        label = find(name)[0]
        mine, theirs = ours == label, [np.isin(person, of_region) for person in people]
        overlaps = [dice(mine, person) for person in theirs]
        pairs = [dice(theirs[i], theirs[i - shift]) for i in range(len(theirs)) for shift in (1, 3)]
        rows.append(
            {
                "label": label,
                "region": name,
                "ours_ml": mine.sum() * voxel_ml,
                "labelled_ml": np.mean([person.sum() for person in theirs]) * voxel_ml,
                "dice_looked_at": np.mean(overlaps[:half]),
                "dice_checked": np.mean(overlaps[half:]),
                "dice_between_people": np.mean(pairs),
            }
        )
    return pd.DataFrame(rows)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice overlap of two masks."""
    return 2.0 * float((first & second).sum()) / max(1.0, float(first.sum() + second.sum()))


def draw(
    table: pd.DataFrame, person: NDArray[np.int16], numbers: dict[str, list[int]], plan: GridPlan, path: Path
) -> None:
    """Dice against the agreement between people, volumes, and the package's regions next to one person's labels."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 9))
    axes[0, 0].scatter(table["dice_between_people"], table["dice_checked"], s=14)
    axes[0, 0].plot([0, 1], [0, 1], color="grey", linewidth=0.7)
    axes[0, 0].set(
        xlabel="Dice between two people", ylabel="Dice of our region with a person", xlim=(0, 1), ylim=(0, 1)
    )
    axes[1, 0].loglog(table["labelled_ml"], table["ours_ml"], ".")
    axes[1, 0].loglog([0.3, 400], [0.3, 400], color="grey", linewidth=0.7)
    axes[1, 0].set(xlabel="labelled volume, ml", ylabel="our volume, ml")
    carried = np.zeros(plan.shape, np.int16)
    for name, of_region in numbers.items():
        carried[np.isin(person, of_region)] = find(name)[0]
    ours = np.where(np.isin(regions_on(plan), table["label"]), regions_on(plan), 0)
    colours = np.random.default_rng(3).permutation(len(all_regions()) + 1)
    for row, (axis, place_mm) in enumerate(((1, -20.0), (2, 8.0))):
        index = round((place_mm - plan.matrix[axis, 3]) / plan.spacing_mm)
        for column, labels in ((1, ours), (2, carried)):
            slice_ = np.take(labels, index, axis=axis).T
            background = np.take(template_on(plan).t1w, index, axis=axis).T
            axes[row, column].imshow(background, cmap="gray", origin="lower")
            shown = np.ma.masked_equal(np.where(slice_ > 0, colours[slice_] + 1, 0), 0)
            axes[row, column].imshow(shown, cmap="nipy_spectral", alpha=0.55, origin="lower", interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[], title="our regions" if column == 1 else "one person's labels")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run_script(main)
