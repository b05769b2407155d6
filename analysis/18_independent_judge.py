"""What does a judge that we did not write find of gen3d: planted lesions, planted atrophy, and what is found of nothing?

bidsgate (PyPI, MIT) plants lesions or atrophy of known size in real scans and scores what a program recovers from them. It
is a command of its own, in an environment of its own:

    python -m venv judge && judge/bin/pip install bidsgate==0.3
    python analysis/18_independent_judge.py --out FOLDER --bidsgate judge/bin/bidsgate
    python analysis/18_independent_judge.py --out FOLDER --bidsgate judge/bin/bidsgate --only atrophy

Inputs: GEN3D_REAL_DATA with `t1w_2mm` (lesions) and `t1w_ixi_2mm` (atrophy). --prepared is `t1w_2mm/participants.csv`
prepared at --spacing-mm, and --norm the norm of its controls; what is not given is made first.

Lesions. bidsgate darkens ellipsoids of 30 to 1,500 mm3 in the white matter of people with depression, who calibrate
nothing (only controls do) and trained nothing. Prediction: voxels of the map `residual` in the scan's own space
that survive the false discovery rate of 5 % and are darker than expected; second, all with z < -3.1. Baseline: the same
prediction from the same person's scan without lesions, scored by the same truth: what is hit by chance or by what was
there before.

Atrophy. bidsgate contracts the brain by 5 %, or the right hippocampus by 20 %, in healthy people. The volumes before and
after are those of the deformation of `gen3d prepare`: the integral of det J over the template's region, times the
determinant of the linear alignment. Recovery 1 is exact. Baselines: the same volume in scans in which the other was
contracted, and the opposite hippocampus.

Prints the tables of the page. Every step that is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.folder import SIGNIFICANT, map_path
from gen3d.anomaly.norm.norm import Norm
from gen3d.cli import run_script
from gen3d.cohort.channels import LOG_JACOBIAN
from gen3d.cohort.folder import open_prepared, write_cohort
from gen3d.core import words
from gen3d.core.config import Verb
from gen3d.core.errors import Unfinished
from gen3d.core.output_folder import begin
from gen3d.core.progress import say
from gen3d.imaging.native import read_native_space
from gen3d.maths.stats import Interval, bootstrap_interval, wilson_interval
from gen3d.prepare.prepare import Prepare
from gen3d.train.train import Train

REAL = Path(os.environ.get("GEN3D_REAL_DATA", "."))
SITE, DIAGNOSIS, PLANTED = "ds002748", "depression", "planted"
MODEL: dict[str, Any] = {"model": {"kind": "pca", "num_components": 10}, "cross_fit": 5, "channels": ["t1w"]}
CHANNEL, DARK_Z = "residual", -3.1
RULES = ("fdr", "z")
SEED = 0
BINS = ("0-100mm3", "100-500mm3", "500-infmm3")
HIPPOCAMPI = {"right hippocampus": 47, "left hippocampus": 48}
"""Names in gen3d's regions, and labels of `t1w_ixi_2mm`."""

CONTRACTIONS = {"brain": 0.95, "right hippocampus": 0.8}
"""Volume factors."""

LINEAR = "linear alignment alone"
"""The template's brain as the linear alignment scales it."""


def main() -> None:
    """Run the steps that are not finished, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--bidsgate", default="bidsgate", help="the command bidsgate")
    parser.add_argument("--prepared", type=Path, help="t1w_2mm, prepared with the same spacing")
    parser.add_argument("--norm", type=Path, help="norm of its controls (gen3d norm)")
    parser.add_argument("--spacing-mm", type=float, default=2.5)
    parser.add_argument("--people", type=int, default=12, help="in whom lesions are planted")
    parser.add_argument("--contracted", type=int, default=6, help="people in whom the brain and a hippocampus shrink")
    parser.add_argument("--only", choices=("lesions", "atrophy"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.only != "atrophy":
        lesions(given)
    if given.only != "lesions":
        atrophy(given)


def judge(given: argparse.Namespace, *words_: str) -> None:
    """Run bidsgate."""
    subprocess.run([str(given.bidsgate), *words_], check=True)


def prepared_table(table: pd.DataFrame, out: Path, spacing_mm: float) -> Path:
    """The scans of a table, prepared."""
    source = out.with_suffix(".csv")
    table.to_csv(source, index=False, na_rep="n/a")
    return prepare(source, out, spacing_mm)


def prepare(source: Path, out: Path, spacing_mm: float) -> Path:
    """The scans of a file, prepared; ids count within their site."""
    settings = {"source": source, "out": out, "columns": {"ids_within_site": True}, "spacing_mm": spacing_mm}
    try:
        Prepare.model_validate({**settings, "workers": 1}).run()
    except Unfinished as error:
        say(str(error))
    return out


def written_bids(images: dict[str, tuple[nib.Nifti1Image, NDArray[np.bool_]]], folder: Path) -> Path:
    """A BIDS dataset of brains without what is outside their masks, and the masks beside it; by subject."""
    for subject, (image, mask) in images.items():
        place = folder / "bids" / subject / "anat"
        place.mkdir(parents=True, exist_ok=True)
        values = np.asarray(image.dataobj, dtype=np.float32) * mask
        nib.save(nib.Nifti1Image(values, image.affine), place / f"{subject}_T1w.nii.gz")
        (folder / "masks").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), image.affine), folder / "masks" / f"{subject}_mask.nii.gz")
    return folder / "bids"


def opened(path: Path) -> nib.Nifti1Image:
    """An image of three axes."""
    image: Any = nib.load(path)
    return image


def spelled(found: Interval, signed: bool = False) -> str:
    """A value with its interval."""
    return words.interval(found.value, found.low, found.high, signed=signed)


# Lesions


def lesions(given: argparse.Namespace) -> None:
    """Plant, prepare, calibrate, predict, have it scored."""
    work = given.out / "lesions"
    source = REAL / "t1w_2mm" / "participants.csv"
    table = pd.read_csv(source, dtype={"subject": str, "session": str})
    patients = table[(table["site"] == SITE) & (table["diagnosis"] == DIAGNOSIS)]
    chosen = patients.sample(min(given.people, len(patients)), random_state=SEED).sort_values("subject")
    truth = work / "truth"
    if not truth.is_dir():
        images = {}
        for row in chosen.itertuples():
            image = opened(source.parent / str(row.file))
            images[str(row.subject)] = (image, np.asarray(image.dataobj) > 0)
        bids = written_bids(images, work)
        masks = work / "masks" / "{base}_mask.nii.gz"
        judge(given, "inject-lesions", str(bids), "--out", str(truth), "--mask", str(masks), "--seed", str(SEED))
    scans = [truth / name / "anat" / f"{name}_T1w.nii.gz" for name in chosen["subject"]]
    planted_table = chosen.assign(file=[str(scan.resolve()) for scan in scans], session=PLANTED)
    planted = prepared_table(planted_table, work / "prepared", given.spacing_mm)
    cohort = given.prepared or prepare(source, given.out / "cohort", given.spacing_mm)
    norm = given.norm or norm_of(cohort, given.out)
    keys, maps = keys_of(cohort, planted, list(chosen["subject"])), work / "maps"
    as_it_was = part_of(cohort, [pair["as it was"] for pair in keys.values()], work / "as_it_was")
    Anomaly.model_validate({"norm": norm, "prepared": [as_it_was, planted], "out": maps, "native": False}).run()
    folders, rows = {"planted": planted, "as it was": as_it_was}, []
    for rule in RULES:
        for scan in folders:
            name = f"{rule} {scan}".replace(" ", "_")
            predictions = work / "predictions" / name
            for subject, pair in keys.items():
                write_prediction(maps, folders[scan], pair[scan], rule, predictions / f"{subject}_seg.nii.gz")
            pattern, scores = str(predictions / "{base}_seg.nii.gz"), work / "scores" / name
            asked = ("--truth", str(truth), "--pred", pattern, "--pipeline", name, "--out", str(scores))
            judge(given, "score-lesions", *asked)
            rows.append({"rule": rule, "scan": scan, **summary_of(scores / "scores_lesions.json")})
    result = pd.DataFrame(rows)
    result.to_csv(given.out / "lesions.tsv", sep="\t", index=False)
    print(f"\n{len(keys)} of {len(chosen)} people whose scans were usable, {rows[0]['lesions']} lesions")
    print(result.drop(columns="lesions").T.to_string(header=False))
    depth = pd.concat([depth_of(maps, folders, pair, truth / name / "anat" / name) for name, pair in keys.items()])
    print("\nmean z in a lesion, with it minus without it; and the least z in it")
    for name, part in depth.groupby("bin"):
        change, least = (spelled(bootstrap_interval(part[column].to_numpy()), True) for column in ("change", "least"))
        print(f"{name:12s} n {len(part):3d}  change {change}  least {least}")


def norm_of(cohort: Path, out: Path) -> Path:
    """A norm of the controls by ten principal components of their T1w, each fold judged by those of the others."""
    run, norm = out / "run", out / "norm"
    Train.model_validate({"prepared": cohort, "out": run, "track": [], **MODEL}).run()
    Norm.model_validate({"prepared": cohort, "run": run, "out": norm}).run()
    return norm


def part_of(cohort: Path, keys: list[str], out: Path) -> Path:
    """A prepared folder of some of a cohort's scans: its files are linked, its table is cut."""
    prepared = open_prepared(cohort)
    work = begin(Verb(out=out), "prepare", {"cohort": [cohort]}, extra={"keys": keys})
    if work.finished:
        return out
    for key in keys:
        for file in (*(cohort / "volumes").glob(f"{key}_*.nii"), cohort / "transforms" / f"{key}.json"):
            (out / file.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(file, out / file.parent.name / file.name)
    table = prepared.manifest[prepared.manifest["key"].isin(keys)].drop(columns="folder", errors="ignore")
    write_cohort(out, prepared.plan, prepared.mask, prepared.regions, prepared.region_table, table)
    work.finish({"num_scans": len(table)})
    return out


def keys_of(cohort: Path, planted: Path, subjects: list[str]) -> dict[str, dict[str, str]]:
    """By the subject of the dataset: keys of the planted scan and of the scan as it was, of people whose scans were both usable."""
    tables = {"as it was": open_prepared(cohort).manifest, "planted": open_prepared(planted).manifest}
    keys: dict[str, dict[str, str]] = {}
    for subject in subjects:
        pair = {}
        for scan, table in tables.items():
            usable = table[(table["role"] == "evaluation") & (table["site"] == SITE)]
            same = usable[[str(known).endswith(subject.removeprefix("sub-")) for known in usable["subject"]]]
            pair |= {scan: str(same["key"].iloc[0])} if len(same) == 1 else {}
        if len(pair) == 2:
            keys[subject] = pair
    return keys


def write_prediction(maps: Path, prepared: Path, key: str, rule: str, path: Path) -> None:
    """Mask, on the scan's own voxels, of what is darker than expected: found on the grid, and carried to the scan."""
    z = opened(map_path(maps, key, CHANNEL))
    dark = np.asarray(z.dataobj)
    if rule == "fdr":
        chosen = (np.asarray(opened(map_path(maps, key, CHANNEL, SIGNIFICANT)).dataobj) > 0) & (dark < 0)
    else:
        chosen = dark < DARK_Z
    native = read_native_space(prepared, key)
    assert native is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = native.resample(chosen.astype(np.float32), np.asarray(z.affine), order=1) >= 0.5
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), native.scan_affine), path)


def depth_of(maps: Path, folders: dict[str, Path], pair: dict[str, str], stem: Path) -> pd.DataFrame:
    """How much darker the map is in each lesion than in the same place of the scan without lesions."""
    labels = np.asarray(opened(Path(f"{stem}_desc-lesionTruth_mask.nii.gz")).dataobj)
    lesions_of_one = json.loads(Path(f"{stem}_desc-lesion_truth.json").read_text())["lesions"]
    z = {}
    for scan, key in pair.items():
        image, native = opened(map_path(maps, key, CHANNEL)), read_native_space(folders[scan], key)
        assert native is not None
        z[scan] = native.resample(np.asarray(image.dataobj, np.float32), np.asarray(image.affine), order=1)
    rows = []
    for lesion in lesions_of_one:
        inside, volume = labels == lesion["id"], lesion["volume_mm3"]
        size = BINS[0] if volume < 100 else BINS[1] if volume < 500 else BINS[2]
        change = float((z["planted"] - z["as it was"])[inside].mean())
        rows.append({"bin": size, "change": change, "least": float(z["planted"][inside].min())})
    return pd.DataFrame(rows)


def summary_of(path: Path) -> dict[str, Any]:
    """What bidsgate wrote, over people and over all lesions."""
    scores = [entry["score"] for entry in json.loads(path.read_text())["results"]]
    found = pd.DataFrame([lesion for score in scores for lesion in score["per_lesion"]])
    row: dict[str, Any] = {"lesions": len(found)}
    for name, part in [("all", found), *((name, found[found["bin"] == name]) for name in BINS)]:
        hits, num = int(part["detected"].sum()), len(part)
        row[name] = f"{hits}/{num} {spelled(wilson_interval(hits, num))}" if num else ""
    for name in ("dice", "false_positive_components", "false_positive_volume_mm3"):
        values = np.array([score[name] for score in scores], dtype=float)
        values = np.nan_to_num(values)  # Dice of two empty masks
        row[name] = spelled(bootstrap_interval(values))
    return row


# Atrophy


def atrophy(given: argparse.Namespace) -> None:
    """Contract, prepare before and after, have the volumes scored."""
    work, source = given.out / "atrophy", REAL / "t1w_ixi_2mm"
    known = pd.read_csv(source / "participants.tsv", sep="\t", dtype=str).set_index("participant_id")
    chosen = sorted(known[known["age"] != "n/a"].sample(given.contracted, random_state=SEED).index)
    if not (work / "bids").is_dir():
        images = {}
        for subject in chosen:
            scan = next((source / subject).glob("anat/*_T1w.nii.gz"))
            labels = opened(scan.with_name(scan.name.replace("_T1w", "_dseg")))
            brain = ndimage.binary_fill_holes(ndimage.binary_closing(np.asarray(labels.dataobj) > 0, iterations=2))
            images[subject] = (opened(scan), brain)
            (work / "labels").mkdir(parents=True, exist_ok=True)
            nib.save(labels, work / "labels" / f"{subject}_dseg.nii.gz")
        written_bids(images, work)
    places = {"before": work / "bids"}
    for target, factor in CONTRACTIONS.items():
        places[target] = work / target.replace(" ", "_")
        if not places[target].is_dir():
            region = ["--region", str(work / "labels" / "{base}_dseg.nii.gz"), "--label", str(HIPPOCAMPI.get(target))]
            judge(
                given, "inject-atrophy", str(work / "bids"), "--out", str(places[target]), "--factor", str(factor),
                "--mask", str(work / "masks" / "{base}_mask.nii.gz"), *(region if target in HIPPOCAMPI else []),
            )  # fmt: skip
    volumes = {}
    for name, place in places.items():
        table = pd.DataFrame(
            {"subject": chosen, "site": "ixi", "session": name.replace(" ", ""), "diagnosis": "control"}
        )
        table["file"] = [str((place / s / "anat" / f"{s}_T1w.nii.gz").resolve()) for s in chosen]
        table[["age", "sex"]] = known.loc[chosen, ["age", "sex"]].to_numpy()
        folder = prepared_table(table, work / f"prepared_{name.replace(' ', '_')}", given.spacing_mm)
        volumes[name] = volumes_of(folder)
    print_atrophy(given, work, volumes, places)


def volumes_of(folder: Path) -> pd.DataFrame:
    """Volumes of the brain and of both hippocampi in a scan's own space, mm3, one row per scan that was not excluded."""
    prepared = open_prepared(folder)
    labels = prepared.region_table.set_index("name")["label"]
    rows = {}
    for row in prepared.manifest[prepared.manifest["role"] != "excluded"].itertuples():
        native = read_native_space(folder, str(row.key))
        assert native is not None
        voxel = prepared.plan.spacing_mm**3 * abs(np.linalg.det(native.template_to_scan[:3, :3]))
        local = np.exp(prepared.volume(str(row.key), LOG_JACOBIAN)) * voxel
        sides = {name: float(local[prepared.regions == int(labels[name])].sum()) for name in HIPPOCAMPI}
        rows[str(row.subject)] = {
            "brain": float(local[prepared.mask].sum()),
            LINEAR: float(voxel * prepared.mask.sum()),
            **sides,
        }
    return pd.DataFrame(rows).T


def print_atrophy(
    given: argparse.Namespace, work: Path, volumes: dict[str, pd.DataFrame], places: dict[str, Path]
) -> None:
    """Have every pair of volumes scored, and print recovery with its interval over people, and the baselines."""
    rows = []
    for target, factor in CONTRACTIONS.items():
        before, after = volumes["before"], volumes[target]
        shared = sorted(set(before.index) & set(after.index))
        for measured in ("brain", LINEAR, *HIPPOCAMPI):
            pairs = pd.DataFrame(
                {
                    "subject": [_dataset_name(name, places["before"]) for name in shared],
                    "volume_before_mm3": before.loc[shared, measured].to_numpy(),
                    "volume_after_mm3": after.loc[shared, measured].to_numpy(),
                }
            )
            name = f"{target}_{measured}".replace(" ", "_")
            (work / "volumes").mkdir(exist_ok=True)
            pairs.to_csv(work / "volumes" / f"{name}.tsv", sep="\t", index=False)
            judge(
                given, "score-atrophy", "--truth", str(places[target]), "--volumes", str(work / "volumes" / f"{name}.tsv"),
                "--pipeline", "gen3d", "--out", str(work / "scores" / name),
            )  # fmt: skip
            scores = json.loads((work / "scores" / name / "scores_atrophy.json").read_text())["results"]
            change = np.array([entry["score"]["measured_change_pct"] for entry in scores])
            recovery = np.array([entry["score"]["recovery"] for entry in scores])
            rows.append(
                {
                    "contracted": f"{target} by {words.percent(1 - factor, 0)}",
                    "measured": measured,
                    "n": len(scores),
                    "change, %": spelled(bootstrap_interval(change), signed=True),
                    "recovery": spelled(bootstrap_interval(recovery)),
                    "SD of recovery": words.number(float(recovery.std(ddof=1))),
                }
            )
    result = pd.DataFrame(rows)
    result.to_csv(given.out / "atrophy.tsv", sep="\t", index=False)
    print()
    print(result.to_string(index=False))


def _dataset_name(subject: str, bids: Path) -> str:
    """The name in the BIDS dataset of a subject of a prepared folder."""
    found = [path.name for path in sorted(bids.glob("sub-*")) if subject.endswith(path.name.removeprefix("sub-"))]
    assert len(found) == 1, found
    return found[0]


if __name__ == "__main__":
    run_script(main)
