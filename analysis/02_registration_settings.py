"""Which settings of the diffeomorphic registration show hippocampal atrophy best?

Real control scans are prepared, and copies of them are made in which both hippocampi are smaller by an exact share: a
curl-free warp composed with the affine before the one resampling, so that healthy and shrunken volumes are interpolated
alike. Each setting then measures the log-Jacobian of template -> scan in the template's hippocampi of both. A setting is
good when it recovers much of the true log volume change and varies little between healthy people after age, age squared,
sex and site: separation is the ratio of the two. People scanned twice show the noise of the measurement itself: retest_sd
is the SD within a person and between_sd the SD between people of a region's mean log-Jacobian (median over all regions).

    GEN3D_REAL_DATA=... python analysis/02_registration_settings.py --out FOLDER [--spacing 2.5] [--people 45]

The folder of real scans must hold t1w_2mm/participants.csv. Volumes and results are kept in FOLDER: a second call goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from gen3d.artefact import digest, write_json
from gen3d.data.conform import conform
from gen3d.data.intensity import tissue_levels
from gen3d.data.plan import GridPlan, plan_grid
from gen3d.data.regions import find, regions_on
from gen3d.data.registration import DeformationSettings, deformation_channel, register
from gen3d.data.resample import antialiasing_sigma
from gen3d.data.sources import read_sources
from gen3d.data.template import template_on
from gen3d.data.volume import read_volume
from gen3d.errors import UserError
from gen3d.maths import deformation as warps
from gen3d.progress import say, track

CHANGES_PERCENT = (-12, -24, -40)


def main() -> None:
    """Prepare, shrink, measure, print one row per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--spacing", type=float, default=2.5)
    parser.add_argument("--people", type=int, default=45)
    parser.add_argument("--changes", type=int, nargs="*", default=[-24])
    arguments = parser.parse_args()
    if arguments.people < 15:
        raise UserError("--people: fewer than 15 cannot show how much healthy people vary after five covariates.")
    folder = Path(os.environ.get("GEN3D_REAL_DATA", ""))
    if not (folder / "t1w_2mm").is_dir():
        raise UserError("GEN3D_REAL_DATA must name a folder with t1w_2mm/participants.csv.")
    frame = read_sources([folder / "t1w_2mm" / "participants.csv"]).frame
    frame = frame[frame["diagnosis"] == "control"].reset_index(drop=True)
    repeated = frame[frame.duplicated("subject", keep=False)]
    controls = frame.drop_duplicates("subject").reset_index(drop=True)
    controls = controls.iloc[np.linspace(0, len(controls) - 1, min(arguments.people, len(controls))).astype(int)]
    plan = plan_grid(arguments.spacing)
    arguments.out.mkdir(parents=True, exist_ok=True)
    scans = pd.concat([controls, repeated]).drop_duplicates("key")
    for row in track(scans.to_dict("records"), "shrinking hippocampi", total=len(scans)):
        make_pair(Path(row["source"]), arguments.out / f"{row['key']}_{arguments.spacing:g}mm.npz", plan)
    rows = []
    for settings in settings_to_try():
        question = [settings.model_dump(mode="json"), plan.key, controls["key"].tolist(), arguments.changes]
        kept = arguments.out / f"setting_{digest(question)}.json"
        if not kept.is_file():
            row = judge_settings(settings, controls, arguments.out, plan, arguments.changes)
            write_json(kept, row | repeatability(settings, repeated, arguments.out, plan))
        rows.append(json.loads(kept.read_text(encoding="utf-8")))
        say(" | ".join(f"{name} {value}" for name, value in rows[-1].items()))
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "settings.tsv", sep="\t", index=False)
    say(table.to_string(index=False))


def settings_to_try() -> list[DeformationSettings]:
    """The default, and everything one step away from it."""
    default = DeformationSettings()
    one_away: dict[str, list[object]] = {
        "update_sigma_voxels": [1.0, 1.5, 3.0],
        "field_sigma_voxels": [0.0, 1.0, 1.5],
        "neighbourhood_voxels": [0.0, 2.0, 6.0],
        "iterations": [(20, 20), (10, 10, 5), (40, 40, 20)],
        "direction": ["scan_to_template"],
    }
    steps = itertools.chain.from_iterable([(name, value) for value in values] for name, values in one_away.items())
    return [default, *(default.model_copy(update={name: value}) for name, value in steps)]


def make_pair(source: Path, path: Path, plan: GridPlan) -> None:
    """Store a person's volume on the grid, as scanned and with smaller hippocampi."""
    if path.is_file():
        return
    done, scan, template = (
        conform(source, plan.model_copy(update={"channels": ("t1w",)})),
        read_volume(source),
        template_on(plan),
    )
    labels = own_hippocampi(done.t1w, plan)
    fluid = done.brain * np.where(done.t1w < 0.6, 1.0, 0.01) * (labels == 0)
    room = warps.nearby_compensation(fluid.astype(np.float32), labels > 0, 10 / plan.spacing_mm)
    volumes = {}
    for change in (0, *CHANGES_PERCENT):
        inverse = np.zeros((3, *plan.shape), np.float32)
        if change:
            target = float(np.log(1 + change / 100))
            inverse = warps.exponential(-warps.reach_volumes(labels, {1: target, 2: target}, room).velocity)
        volume = sample_warped(scan.data, np.linalg.inv(scan.affine) @ done.template_to_scan @ plan.matrix, inverse)
        brain = warps.warp(done.brain.astype(np.float32), inverse) > 0.5
        if not change:
            found, wanted = tissue_levels(volume, template, brain), tissue_levels(template.t1w, template, template.mask)
        scaled = 1 + (1 - wanted.grey) / (found.white - found.grey) * (volume - found.white)
        volumes[str(change)] = np.where(brain, np.clip(scaled, 0, 2), 0).astype(np.float16)
    np.savez_compressed(path, **volumes)


def own_hippocampi(t1w: NDArray[np.float32], plan: GridPlan) -> NDArray[np.int16]:
    """The person's hippocampi (1 left, 2 right): the template's, carried over by the inverse of a registration."""
    left, right = find("left hippocampus")[0], find("right hippocampus")[0]
    labels = regions_on(plan)
    both = np.where(labels == left, 1, np.where(labels == right, 2, 0)).astype(np.int16)
    to_scan = register(template_on(plan).t1w, t1w, DeformationSettings())[0].astype(np.float32)
    grid, inverse = warps.identity_grid(plan.shape), -to_scan
    for _ in range(10):  # fixed point of inverse(y) = -to_scan(y + inverse(y))
        inverse = -np.stack(
            [ndimage.map_coordinates(axis, grid + inverse, order=1, mode="nearest") for axis in to_scan]
        )
    return np.asarray(warps.warp(both, inverse, order=0), dtype=np.int16)


def sample_warped(
    data: NDArray[np.float32], to_voxels: NDArray[np.float64], displacement: NDArray[np.float32]
) -> NDArray[np.float32]:
    """As `onto_plan`, at places displaced by [3, X, Y, Z] voxels of the grid."""
    sigma = antialiasing_sigma(to_voxels)
    smooth = ndimage.gaussian_filter(data, sigma) if (sigma > 0).any() else data
    grid = warps.identity_grid(displacement.shape[1:]) + displacement
    places = np.tensordot(to_voxels[:3, :3], grid, 1) + to_voxels[:3, 3][:, None, None, None]
    return np.asarray(ndimage.map_coordinates(smooth, places, order=3), dtype=np.float32)


def judge_settings(
    settings: DeformationSettings, people: pd.DataFrame, folder: Path, plan: GridPlan, changes: list[int]
) -> dict[str, object]:
    """Recovered share, noise, separation and AUC of one setting."""
    plan = plan.model_copy(update={"deformation": settings.model_dump(mode="json")})
    inside = np.isin(regions_on(plan), find("hippocampus"))
    found, spread, start = [], [], time.process_time()
    for key in people["key"]:
        with np.load(folder / f"{key}_{plan.spacing_mm:g}mm.npz") as volumes:
            maps = [deformation_channel(volumes[str(c)].astype(np.float32), plan)[0] for c in (0, *changes)]
        found.append([log_jacobian[inside].mean() for log_jacobian in maps])
        spread.append(maps[0][template_on(plan).mask].std())
    values = np.array(found)
    noise, residual = residuals(values[:, 0], people)
    row: dict[str, object] = settings.model_dump(mode="json")
    row |= {
        "seconds": round((time.process_time() - start) / values.size, 2),
        "spread": round(float(np.mean(spread)), 3),
    }
    row["noise_sd"] = round(noise, 4)
    for column, change in enumerate(changes, start=1):
        moved = values[:, column] - values[:, 0]
        scores = -np.concatenate([residual, residual + moved])
        row[f"recovered_{-change}"] = round(float(moved.mean() / np.log(1 + change / 100)), 3)
        row[f"separation_{-change}"] = round(float(-moved.mean() / noise), 2)
        row[f"auc_{-change}"] = round(float(roc_auc_score(np.repeat([0, 1], len(values)), scores)), 3)
    return row


def repeatability(
    settings: DeformationSettings, repeated: pd.DataFrame, folder: Path, plan: GridPlan
) -> dict[str, object]:
    """SD of regional means within and between people who were scanned twice."""
    plan = plan.model_copy(update={"deformation": settings.model_dump(mode="json")})
    labels = regions_on(plan)
    people = []
    for _, scans in repeated.groupby("subject"):
        means = []
        for key in scans["key"].iloc[:2]:
            with np.load(folder / f"{key}_{plan.spacing_mm:g}mm.npz") as volumes:
                log_jacobian = deformation_channel(volumes["0"].astype(np.float32), plan)[0]
            means.append(ndimage.mean(log_jacobian, labels, np.arange(1, labels.max() + 1)))
        people.append(means)
    values = np.array(people)
    within = np.sqrt(((values[:, 0] - values[:, 1]) ** 2).mean(axis=0) / 2)
    between = values.mean(axis=1).std(axis=0, ddof=1)
    return {"retest_sd": round(float(np.median(within)), 4), "between_sd": round(float(np.median(between)), 4)}


def residuals(values: NDArray[np.float64], people: pd.DataFrame) -> tuple[float, NDArray[np.float64]]:
    """SD of healthy values around age, age squared, sex and site, and each person's residual when left out of the fit."""
    age = (people["age_years"].to_numpy(dtype=float) - 45) / 20
    sites = pd.get_dummies(people["site"], drop_first=True).to_numpy(dtype=float)
    design = np.column_stack([np.ones(len(people)), age, age**2, people["sex"] == "M", sites])
    hat = design @ np.linalg.pinv(design)
    residual = values - hat @ values
    noise = float(np.sqrt((residual**2).sum() / (len(people) - design.shape[1])))
    return noise, residual / (1 - np.diag(hat))


if __name__ == "__main__":
    main()
