"""Convert hippocampus crops of mixed intensity scales to a prepared folder, for 09_synthetic_hippocampi.py.

`--crops` has images/ and labels/ of hippocampus_NNN.nii.gz (Medical Segmentation Decathlon, task 4: T1w at 1 mm around one
hippocampus, label 1 anterior, 2 posterior). Crops 2k - 1 and 2k are the two hippocampi of one person, so they become two
sessions of one subject and are never split; the evidence for it is printed. Channels on one grid about the label's centre:
T1w between robust percentiles of the crop, and the two smoothed labels, so that volume and anterior share can be measured in
crops that a model draws. The columns hippocampus_ml, anterior_ml, posterior_ml and anterior_share are of the labels as drawn.

    python analysis/09_synthetic_hippocampi_crops.py --crops DATA/hippocampus_crops --out PREPARED
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from gen3d.cli import run_script
from gen3d.cohort.manifest import Split, assign_roles, read_manifest, scan_key, write_manifest
from gen3d.core.config import Folder, Verb
from gen3d.core.output_folder import begin
from gen3d.imaging.plan import Grid, GridPlan, write_plan
from gen3d.imaging.volume import read_volume, store, write_nifti

Floats = NDArray[np.float32]
Row = dict[str, Any]

GRID: Grid = (32, 48, 32)  # crops are about 35 x 50 x 36; 6 % of labels lose up to 3 % of their voxels
CENTRE_MM = (8.0, -18.0, 4.0)  # where the pictures of `gen3d sample` cut: a crop has no position in the atlas
DARK, BRIGHT, BRIGHTEST = 2.0, 95.0, 1.5  # percentiles that become 0 and 1, and the largest level
SMOOTHING_VOXELS = 1.0
CHANNELS = ("t1w", "anterior", "posterior")


class PrepareCrops(Verb):
    """Hippocampus crops to a prepared folder: one grid about the label's centre, one intensity scale."""

    source: Folder = Field(description="folder with images/ and labels/")

    def run(self) -> Path:
        """Write the folder; a finished one is left alone."""
        work = begin(self, "prepare", {"source": self.source})
        if work.finished:
            return self.out
        origin = np.array(CENTRE_MM) - (np.array(GRID) - 1) / 2
        plan = GridPlan(
            spacing_mm=1.0,
            shape=GRID,
            affine=(
                *((*map(float, np.eye(3)[axis]), float(origin[axis])) for axis in range(3)),
                (0.0, 0.0, 0.0, 1.0),
            ),
            template="none: crops about the centre of the hippocampus label",
            intensity=f"percentiles {DARK:g} and {BRIGHT:g} of each crop",
            channels=CHANNELS,
        )
        rows, total = [], np.zeros((2, *GRID))
        for path in sorted((self.source / "images").glob("*.nii.gz")):
            row, channels = crop_of(path, self.source / "labels" / path.name)
            for name, volume in zip(CHANNELS, channels, strict=True):
                store(self.out / "volumes" / f"{row['key']}_{name}.nii", volume, plan.matrix)
            rows.append(row)
            total += channels[1:]
        labels = np.where(total.sum(axis=0) > 0.5 * len(rows), 1 + total.argmax(axis=0), 0).astype(np.int16)
        write_plan(self.out / "plan.json", plan)
        write_nifti(self.out / "mask.nii", np.ones(GRID, bool), plan.matrix)
        write_nifti(self.out / "regions.nii", labels, plan.matrix)
        names = pd.DataFrame({"label": [1, 2], "name": CHANNELS[1:], "hemisphere": "midline", "tissue": "GM"})
        names.assign(structure=names["name"]).to_csv(self.out / "regions.tsv", sep="\t", index=False)
        table = assign_roles(pd.DataFrame(rows), Split(train=0.6, calibration=0.4, test=0.0))
        write_manifest(self.out, table)
        work.finish({"num_scans": len(rows), "num_people": int(table["subject"].nunique())})
        return self.out


def crop_of(image: Path, label: Path) -> tuple[Row, Floats]:
    """One crop: its row of the cohort table, and its channels [3, *GRID]."""
    scan, labels = read_volume(image).data, np.rint(read_volume(label).data)
    number = int(image.name.split("_")[1].split(".")[0])
    anterior, posterior = (float((labels == value).sum()) / 1000 for value in (1, 2))
    subject, session = f"h{(number + 1) // 2:03d}", str(1 + (number + 1) % 2)
    row = {"subject": subject, "session": session, "site": "crops", "age_years": np.nan, "sex": ""}
    row |= {"diagnosis": "control", "cdr": np.nan, "mmse": np.nan, "role": "", "key": scan_key(subject, session)}
    row |= {"hippocampus_ml": anterior + posterior, "anterior_ml": anterior, "posterior_ml": posterior}
    row["anterior_share"] = anterior / (anterior + posterior)
    row["quantum"] = quantum(scan)
    low, high = np.percentile(scan, [DARK, BRIGHT])
    levels = np.clip((scan - low) / (high - low), 0, BRIGHTEST)
    places = np.argwhere(labels > 0)
    first = np.round((places.min(axis=0) + places.max(axis=0)) / 2 - (np.array(GRID) - 1) / 2).astype(int)
    smooth = [ndimage.gaussian_filter((labels == value).astype(np.float32), SMOOTHING_VOXELS) for value in (1, 2)]
    # Mirrored at the border: a black frame would reveal the size of the crop, and with it that of the hippocampus.
    return row, np.stack([about(volume, first) for volume in (levels, *smooth)]).astype(np.float32)


def about(volume: Floats, first: NDArray[np.int_]) -> Floats:
    """The part of a volume of shape GRID that begins at voxel `first`, mirrored where it reaches beyond."""
    margin = max(GRID) // 2
    place = tuple(slice(start + margin, start + margin + side) for start, side in zip(first, GRID, strict=True))
    return cast(Floats, np.pad(volume, margin, mode="symmetric")[place])


def quantum(scan: Floats) -> float:
    """The step between neighbouring grey levels: a scan that was stored as integers keeps its scale."""
    return float(f"{np.median(np.diff(np.unique(scan))[:200]):.4g}")


def show_pairs(people: pd.DataFrame) -> None:
    """Print the evidence that crops 2k - 1 and 2k are one person: same quantum of intensity, and volumes that correlate."""
    pairs = people[people.duplicated("subject", keep=False)].pivot(index="subject", columns="session")
    same = (pairs["quantum"]["1"] == pairs["quantum"]["2"]).sum()
    order = people.sort_values(["subject", "session"]).reset_index(drop=True)
    others = order["subject"].ne(order["subject"].shift(-1)).to_numpy()[:-1]
    by_chance = (order["quantum"].iloc[:-1].to_numpy() == order["quantum"].iloc[1:].to_numpy())[others]
    related = np.corrcoef(pairs["hippocampus_ml"]["1"], pairs["hippocampus_ml"]["2"])[0, 1]
    print(
        f"{len(people)} crops of {people['subject'].nunique()} people; {len(pairs)} have two: same quantum in {same}, r of "
        f"volumes {related:.2f}; neighbours of other people have the same quantum in {by_chance.sum()} of {len(by_chance)}"
    )


def main() -> None:
    """Prepare the crops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=Path, required=True, help="folder with images/ and labels/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    show_pairs(read_manifest(PrepareCrops(source=given.crops, out=given.out).run()))


if __name__ == "__main__":
    run_script(main)
