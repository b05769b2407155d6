"""Does the reading of a region follow the volume of the structure that it is named after?

Every labelled head is prepared at 2 mm, the regions' readings are taken from what `gen3d prepare` stores, and each is
correlated with the log volume of the person's own label, relative to head size (the linear alignment takes it out of the
readings). The same reading is correlated with the volume of the person's lateral ventricles: a reading that follows the
ventricles more than its own label measures something else. People of t1w_ixi_2mm are split in two halves (every second in
order of id, fixed beforehand): coefficients are fitted and readings compared on the half "choose"; the half "report" and
t1w_malf_oasis1, labelled by hand, report.

    GEN3D_REAL_DATA=... python analysis/01_what_region_readings_measure.py --out FOLDER

GEN3D_REAL_DATA names a folder with t1w_malf_oasis1 and t1w_ixi_2mm. The brain masks of t1w_ixi_2mm are its labels', so that
a failed mask is not counted as a wrong reading. A second call goes on. FOLDER/region_validity.tsv is what the package ships
as gen3d/cohort/region_validity.tsv.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.anomaly.compare import RegionMeans
from gen3d.anomaly.region_channels import read_log_scale
from gen3d.anomaly.region_readings import DEFORMATION, LESS_VENTRICLE, TISSUE, RegionReadings
from gen3d.cli import run_script
from gen3d.cohort.channels import CONTRAST, LOG_JACOBIAN, SIZE, VOLUME
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.region_validity import ML
from gen3d.cohort.regions import all_regions
from gen3d.core.errors import Unfinished, UserError
from gen3d.core.progress import say, track
from gen3d.core.tables import write_table
from gen3d.prepare.prepare import Prepare

labelled: Any = importlib.import_module("01_regions_against_labels")  # a name that begins with a number

Floats = NDArray[np.float64]
Row = dict[str, Any]

SPACING_MM = 2.0
NUM_DRAWS = 2000
VENTRICLE = "lateral ventricle"
WHITE_PARTS = (
    *range(81, 89),
    *range(91, 95),
)  # of t1w_ixi_2mm, whose white matter has no number of its own; right: odd
SHIPPED = (DEFORMATION, CONTRAST, VOLUME, SIZE, ML)
COLUMNS = (
    *("structure", "channel", "reading", "ventricle_slope", "n", "r", "r_low", "r_high", "r_given_age"),
    *("r_ventricle", "label_ventricle", "r_drawn", "ventricle_drawn", "follows_ventricles"),
)
CANDIDATES = (DEFORMATION, CONTRAST, LESS_VENTRICLE, TISSUE, ML)
ONE_SIDED = 0.3  # labels of a head whose two sides differ by more than 35 % in half of the structures have slipped
WORTH = 0.05  # of r by which a reading must beat the plain log-Jacobian to stand for a structure instead


@dataclass(frozen=True)
class People:
    """Readings and labels of one set of people, each [people, regions]: label volumes in ml, log size of each head [people].

    `covariates` [people, 4]: 1, age, its square, and sex; the mean where one is not known. `sound` [people]: the labels of
    both sides are about equal.
    """

    name: str
    ids: list[str]
    readings: dict[str, Floats]
    label_ml: Floats
    log_size: Floats
    covariates: Floats
    sound: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64], name: str) -> People:
        """Some of the people."""
        readings = {reading: values[rows] for reading, values in self.readings.items()}
        ids = [self.ids[row] for row in rows]
        parts = (part[rows] for part in (self.label_ml, self.log_size, self.covariates, self.sound))
        return People(name, ids, readings, *parts)

    def label(self, reading: str) -> Floats:
        """Log volume of every label, in the frame of a reading: with head size in it for `size` alone, [people, regions]."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.label_ml)
        return logs if reading == SIZE else logs - self.log_size[:, None]

    @property
    def ventricle(self) -> Floats:
        """Log volume of both lateral ventricles relative to head size [people]."""
        return np.asarray(np.log(self.label_ml[:, places(VENTRICLE)].sum(axis=1)) - self.log_size)


def main() -> None:
    """Prepare, measure, compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    data = Path(os.environ.get("GEN3D_REAL_DATA", ""))
    if not (data / "t1w_ixi_2mm" / "dseg.tsv").is_file():
        raise UserError("GEN3D_REAL_DATA must name a folder that holds t1w_ixi_2mm and t1w_malf_oasis1.")
    out.mkdir(parents=True, exist_ok=True)
    numbers = labelled.label_numbers(data / "t1w_malf_oasis1")
    parts = {
        f"{side} cerebral white matter": [n for n in WHITE_PARTS if n % 2 == odd]
        for side, odd in (("left", 0), ("right", 1))
    }
    heads = measure_all("automatic", prepared_heads(data / "t1w_ixi_2mm", out), numbers | parts, out)
    drawn = measure_all("drawn", prepared_drawn(data / "t1w_malf_oasis1", out), numbers, out)
    choose, report = (half(heads, place, name) for place, name in enumerate(("choose", "report")))
    drawn = drawn.take(np.flatnonzero(drawn.sound), "drawn")
    slopes = ventricle_slopes(choose)
    choose, report, drawn = (less_ventricle(people, slopes) for people in (choose, report, drawn))
    first = compare("choose", [choose])
    choices = choose_readings(first)
    report, drawn = (with_choices(people, choices) for people in (report, drawn))
    both = compare("report and drawn", [report, drawn])
    alone = [compare("report", [report]), compare("drawn", [drawn])]
    table = pd.concat([first, *alone, both], ignore_index=True)
    write_table(out / "readings.tsv", table, digits=3)
    write_table(out / "region_validity.tsv", shipped(both, alone, choices, slopes), digits=3)
    say(table.round(2).to_string(index=False))


def shipped(
    both: pd.DataFrame, alone: list[pd.DataFrame], choices: dict[str, str], slopes: dict[str, float]
) -> pd.DataFrame:
    """What the package ships of the reporting people together and of each set `alone`, the heads and those drawn by hand."""
    table = both[both["reading"].isin(SHIPPED)].rename(columns={"reading": "channel"})
    where = pd.MultiIndex.from_frame(table[["structure", "channel"]])
    heads, drawn = (found.set_index(["structure", "reading"]).reindex(where) for found in alone)
    table["r_drawn"], table["ventricle_drawn"] = drawn["r"].to_numpy(), drawn["r_ventricle"].to_numpy()
    follows = np.maximum(heads["excess_low"].to_numpy(), drawn["excess_low"].to_numpy()) > 0
    table["follows_ventricles"] = np.where(follows, "yes", "no")
    table["reading"] = table["structure"].map(choices).where(table["channel"] == VOLUME)
    table["ventricle_slope"] = table["structure"].map(slopes).where(table["reading"] == LESS_VENTRICLE, 0.0)
    return table[list(COLUMNS)]


def half(people: People, place: int, name: str) -> People:
    """Every second person in order of id, from the first or the second on; of those the sound ones."""
    chosen = np.arange(place, len(people.ids), 2)
    return people.take(chosen[people.sound[chosen]], name)


def places(structure: str) -> list[int]:
    """Positions of a structure's regions in the order of their labels."""
    return [region.label - 1 for region in all_regions() if region.structure == structure]


def prepared_drawn(folder: Path, out: Path) -> Prepared:
    """The skull-stripped brains with labels drawn by hand, prepared."""
    scans = sorted(folder.glob("*_SS.nii.gz"))
    rows = [{"participant_id": scan.name.split("_")[0], "path": str(scan.resolve()), "site": "oasis"} for scan in scans]
    known = pd.read_csv(folder / "demographics.csv", dtype=str).set_index("id")
    ages = known[["Age", "Gender"]].set_axis(["age", "sex"], axis=1)
    return prepare(pd.DataFrame(rows).join(ages, on="participant_id"), out / "drawn")


def prepared_heads(folder: Path, out: Path) -> Prepared:
    """The heads with automatic labels, prepared with the labels' outline as brain mask."""
    masks = out / "masks"
    masks.mkdir(exist_ok=True)
    rows = []
    for scan in sorted(folder.glob("sub-*/anat/*_T1w.nii.gz")):
        name = scan.parent.parent.name
        image: Any = nib.load(labels_of(scan))
        inside = ndimage.binary_closing(np.asarray(image.dataobj) > 0, iterations=2)
        path = masks / f"{name}.nii.gz"
        if not path.is_file():
            nib.save(nib.Nifti1Image(ndimage.binary_fill_holes(inside).astype(np.uint8), image.affine), path)
        rows.append({"participant_id": name, "path": str(scan.resolve()), "mask": str(path.resolve()), "site": "ixi"})
    known = pd.read_csv(folder / "participants.tsv", sep="\t", dtype=str).set_index("participant_id")
    return prepare(
        pd.DataFrame(rows).join(known[["age", "sex"]], on="participant_id"), out / "heads", brain_mask="given"
    )


def prepare(table: pd.DataFrame, out: Path, **keys: Any) -> Prepared:
    """The scans of a table on the grid; those that cannot be used are left out."""
    path = out.with_suffix(".csv")
    table.assign(group="control").to_csv(path, index=False, na_rep="n/a")
    try:
        Prepare.model_validate({"source": path, "out": out, "spacing_mm": SPACING_MM, "workers": 1, **keys}).run()
    except Unfinished as error:
        say(str(error))
    return open_prepared(out)


def labels_of(scan: Path) -> Path:
    """The label map next to a scan."""
    return scan.with_name(scan.name.replace("_SS", "_glm").replace("_T1w", "_dseg"))


def measure_all(name: str, prepared: Prepared, numbers: dict[str, list[int]], out: Path) -> People:
    """Readings and label volumes of everybody."""
    kept = out / f"measured_{name}"
    kept.mkdir(exist_ok=True)
    measure = Measure(prepared, numbers)
    table = prepared.manifest[prepared.manifest["role"] != "excluded"].sort_values("key", ignore_index=True)
    people = []
    for key in track(table["key"], f"measuring {name}", total=len(table)):
        path = kept / f"{key}.npz"
        if not path.is_file():
            np.savez(path, **measure(str(key)))
        with np.load(path) as found:
            people.append({field: found[field] for field in found.files})
    names = [name for name in people[0] if name not in ("label_ml", "log_size")]
    readings = {reading: np.stack([person[reading] for person in people]) for reading in names}
    label_ml = np.stack([person["label_ml"] for person in people])
    log_size = np.array([float(person["log_size"]) for person in people])
    sound = one_sidedness(label_ml) < ONE_SIDED
    say(f"{name}: labels of both sides agree in {int(sound.sum())} of {len(sound)} people; the others are left out")
    return People(name, table["key"].tolist(), readings, label_ml, log_size, covariates_of(table), sound)


def one_sidedness(label_ml: Floats) -> Floats:
    """Median over structures of the size of the log ratio of left and right label [people]: 0 for a symmetric head."""
    pairs = [of for of in (places(name) for name in dict.fromkeys(r.structure for r in all_regions())) if len(of) == 2]
    left, right = (np.log(np.maximum(label_ml[:, [pair[side] for pair in pairs]], 1e-3)) for side in (0, 1))
    return np.asarray(np.nanmedian(np.abs(left - right), axis=1))


def covariates_of(table: pd.DataFrame) -> Floats:
    """`covariates` of the rows of a cohort table."""
    age = table["age_years"].to_numpy(np.float64) / 10
    age = np.where(np.isfinite(age), age, np.nanmean(age)) - np.nanmean(age)
    sex = table["sex"].map({"F": -1.0, "M": 1.0}).fillna(0.0).to_numpy()
    return np.column_stack([np.ones(len(age)), age, age**2, sex])


class Measure:
    """Reads one prepared scan: every reading of every region, and the volumes of the person's labels."""

    def __init__(self, prepared: Prepared, numbers: dict[str, list[int]]) -> None:
        self.prepared, self.numbers = prepared, numbers
        regions, mask, table = prepared.regions, prepared.mask, prepared.region_table
        self.read = RegionReadings(prepared)
        inner = np.where(ndimage.minimum_filter(regions, 3) == ndimage.maximum_filter(regions, 3), regions, 0)
        self.inner = RegionMeans(inner.astype(np.int16), mask, table)
        self.has_inner = np.isin(table["label"], inner)

    def __call__(self, key: str) -> dict[str, NDArray[Any]]:
        """Reading -> values [regions]; label_ml [regions] and log_size."""
        prepared = self.prepared
        transform = prepared.folders[0] / "transforms" / f"{key}.json"
        log_size = read_log_scale(transform)
        whole = prepared.volume(key, LOG_JACOBIAN)
        found: dict[str, NDArray[Any]] = {
            name: values.astype(np.float64) for name, values in self.read(key).items() if len(values) > 1
        }
        found |= {
            "inner voxels": np.where(self.has_inner, self.inner(whole[prepared.mask]), np.nan),
            SIZE: found[DEFORMATION] + log_size,
        }
        return found | {"label_ml": self._label_ml(transform), "log_size": np.array(log_size)}

    def _label_ml(self, transform: Path) -> Floats:
        """Volumes of the person's own labels [regions], NaN without a label, ml."""
        scan = Path(json.loads(transform.read_text(encoding="utf-8"))["scan"])
        image: Any = nib.load(labels_of(scan))
        counts = np.bincount(np.rint(np.asarray(image.dataobj)).astype(int).ravel(), minlength=300)
        voxel_ml = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
        of = [self.numbers.get(region.name) for region in all_regions()]
        return np.array([np.nan if number is None else counts[number].sum() * voxel_ml for number in of])


def ventricle_slopes(people: People) -> dict[str, float]:
    """Structure -> slope of its log-Jacobian on that of both lateral ventricles, mean of both sides."""
    values = people.readings[DEFORMATION]
    cause = values[:, places(VENTRICLE)].mean(axis=1)
    slopes = np.polyfit(cause, values, 1)[0]
    return {region.structure: float(slopes[places(region.structure)].mean()) for region in all_regions()}


def less_ventricle(people: People, slopes: dict[str, float]) -> People:
    """With the reading from which the part that follows the ventricles' is taken out."""
    values = people.readings[DEFORMATION]
    cause = values[:, places(VENTRICLE)].mean(axis=1)
    taken = np.outer(cause, [slopes[region.structure] for region in all_regions()])
    return replace(people, readings=people.readings | {LESS_VENTRICLE: values - taken})


def choose_readings(table: pd.DataFrame) -> dict[str, str]:
    """Structure -> the reading that goes best with its label in people of one age and sex, if it is worth a change."""
    chosen = {}
    for structure, rows in table[table["reading"].isin(CANDIDATES)].groupby("structure"):
        r = rows.set_index("reading")["r_given_age"]
        chosen[str(structure)] = str(r.idxmax()) if r.max() >= r[DEFORMATION] + WORTH else DEFORMATION
    return chosen


def with_choices(people: People, choices: dict[str, str]) -> People:
    """With the reading `volume`: every structure by the reading that was chosen for it."""
    of_region = [choices.get(region.structure, DEFORMATION) for region in all_regions()]
    values = np.column_stack([people.readings[reading][:, place] for place, reading in enumerate(of_region)])
    return replace(people, readings=people.readings | {VOLUME: values})


def compare(name: str, sets: Sequence[People]) -> pd.DataFrame:
    """One row per structure and reading: r with the own label [95 %], with the ventricles, and of label with ventricles.

    Each r is the mean over sets, by number of people, of the mean of both sides' r; intervals are percentiles over people
    resampled within sets. `r_given_ventricle` is the partial r of reading and label given the ventricles, `r_given_age` that
    given age, its square, and sex. `excess_low` is the lower limit of |r| with the ventricles minus r with the own label: above
    0 the reading follows the ventricles more, for certain.
    """
    generator = np.random.default_rng(0)
    draws = [_draws(len(people.ids), generator) for people in sets]
    rows: list[Row] = []
    for structure in dict.fromkeys(region.structure for region in all_regions()):
        own = [place for place in places(structure) if all((people.label_ml[:, place] > 0).all() for people in sets)]
        for reading in sets[0].readings:
            if own and all(np.isfinite(people.readings[reading][:, own]).all() for people in sets):
                parts = [_agreement(people, reading, own, drawn) for people, drawn in zip(sets, draws, strict=True)]
                weights = [len(people.ids) for people in sets]
                r, ventricle, label, given_age = np.average(parts, axis=0, weights=weights)
                low, high = np.percentile(r[1:], [2.5, 97.5])
                excess_low = np.percentile((np.abs(ventricle) - r)[1:], 2.5)
                given = (r[0] - ventricle[0] * label[0]) / np.sqrt((1 - ventricle[0] ** 2) * (1 - label[0] ** 2))
                rows.append(
                    {
                        "people": name, "structure": structure, "reading": reading, "n": sum(weights), "r": r[0],
                        "r_low": low, "r_high": high, "r_ventricle": ventricle[0], "label_ventricle": label[0],
                        "r_given_ventricle": np.nan if structure == VENTRICLE else given, "r_given_age": given_age[0],
                        "excess_low": np.nan if structure == VENTRICLE else excess_low,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _draws(num: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Everybody once, then people drawn with replacement, [1 + draws, num]."""
    return np.concatenate([np.arange(num)[None], generator.integers(0, num, (NUM_DRAWS, num))])


def _agreement(people: People, reading: str, own: list[int], draws: NDArray[np.int64]) -> Floats:
    """In every draw the mean over sides of r of reading and label, of reading and ventricles, of label and ventricles, and
    of reading and label given age and sex, [4, draws].
    """
    values, labels, cause = people.readings[reading][:, own], people.label(reading)[:, own], people.ventricle
    rest, rest_of_labels = (residuals(part, people.covariates) for part in (values, labels))
    by_side = [
        [
            correlations(values[:, side], labels[:, side], draws),
            correlations(values[:, side], cause, draws),
            correlations(labels[:, side], cause, draws),
            correlations(rest[:, side], rest_of_labels[:, side], draws),
        ]
        for side in range(len(own))
    ]
    return np.asarray(np.mean(by_side, axis=0))


def residuals(values: Floats, covariates: Floats) -> Floats:
    """What a linear regression on the covariates [people, p] leaves of values [people, columns]."""
    return np.asarray(values - covariates @ np.linalg.lstsq(covariates, values, rcond=None)[0])


def correlations(first: Floats, second: Floats, draws: NDArray[np.int64]) -> Floats:
    """Pearson's r of two variables [people] in every draw of people [draws, people]."""
    one, two = (values[draws] - values[draws].mean(axis=1, keepdims=True) for values in (first, second))
    return np.asarray((one * two).sum(axis=1) / np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1)))


if __name__ == "__main__":
    run_script(main)
