"""Copies of real control scans with hippocampi of known size, for `02_registration_settings.py`.

The prepared scan's own alignment, bias correction and intensity rule are kept. The anatomy is the source, lightly denoised; a
copy is sampled from it once, through the affine composed with an exact curl-free warp, and every copy, the healthy one too,
gets fresh noise with the variance that denoising removed. So no copy carries the noise of its base, and healthy and atrophied
copies are interpolated alike. The person's hippocampi are the template's, carried over by one fixed registration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.cohort.folder import Prepared
from gen3d.cohort.regions import find, regions_on
from gen3d.imaging import deformation as warps
from gen3d.imaging.bias import bias_field
from gen3d.imaging.brainmask import stripped_mask, template_mask
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.registration import DeformationSettings, inverse, register
from gen3d.imaging.resample import antialiasing_sigma, sample, working_copy
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import Volume, read_volume

Floats = NDArray[np.float32]

CHANGES_PERCENT = (0, -12, -24, -40)
TRUTH = DeformationSettings(
    iterations=(20, 20, 10), update_sigma_voxels=2.0, field_sigma_voxels=0.5, neighbourhood_voxels=4.0
)
COMPENSATION_MM = 10.0
DRAWN = (48, 47)  # left and right hippocampus in the labels of t1w_malf_oasis1
FLUID_BELOW = 0.6  # T1w intensity under which a voxel is counted as fluid that can take up the change
DENOISING = {"timeStep": 0.0625, "conductanceParameter": 1.0, "numberOfIterations": 3}


@dataclass(frozen=True)
class Anatomy:
    """A scan's denoised, bias-free source; noise SD; source voxels of a world point of the template; intensity rule."""

    source: Volume
    noise_sd: float
    template_to_scan: NDArray[np.float64]
    slope: float
    offset: float
    brain: Floats


def control_people(prepared: Prepared) -> pd.DataFrame:
    """First scans of the controls, with the column `half`: people in table order alternate within each site."""
    frame = prepared.manifest
    frame = frame[frame["diagnosis"] == "control"].drop_duplicates("subject").reset_index(drop=True)
    return frame.assign(half=np.where(frame.groupby("site").cumcount() % 2 == 0, "choose", "report"))


def people_scanned_twice(prepared: Prepared) -> pd.DataFrame:
    """Both scans of every control with more than one."""
    frame = prepared.manifest
    return frame[(frame["diagnosis"] == "control") & frame.duplicated("subject", keep=False)].reset_index(drop=True)


def copies(prepared: Prepared, key: str, spacing_mm: float, folder: Path) -> dict[int, Floats]:
    """Volumes [X, Y, Z] by change of volume in percent (0 is healthy) on the grid of ``spacing_mm``; kept in ``folder``."""
    path = folder / f"{key}_{spacing_mm:g}mm.npz"
    if not path.is_file():
        plan = prepared.plan if spacing_mm == prepared.plan.spacing_mm else plan_grid(spacing_mm)
        made = make_copies(prepared, key, plan, hippocampal_velocities(prepared, key, folder))
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **{str(change): volume.astype(np.float16) for change, volume in made.items()})
        partial.rename(path)
    with np.load(path) as stored:
        return {change: stored[str(change)].astype(np.float32) for change in CHANGES_PERCENT}


def make_copies(prepared: Prepared, key: str, plan: GridPlan, velocities: dict[int, Floats]) -> dict[int, Floats]:
    """The healthy volume and one per velocity, each with independent noise."""
    anatomy = read_anatomy(prepared, key)
    coarse, fine = prepared.plan, template_on(plan)
    to_coarse = np.linalg.inv(coarse.matrix) @ plan.matrix
    grid = warps.identity_grid(plan.shape)
    places = np.tensordot(to_coarse[:3, :3], grid, 1) + to_coarse[:3, 3][:, None, None, None]
    seed = sum(ord(letter) * 31**position for position, letter in enumerate(key)) % 2**32
    volumes = {}
    for change in (0, *velocities):
        field = warps.exponential(-velocities[change]) if change else np.zeros((3, *coarse.shape), np.float32)
        moved = places + np.stack([ndimage.map_coordinates(a, places, order=1, mode="nearest") for a in field])
        brain = ndimage.map_coordinates(anatomy.brain, moved, order=1, mode="constant") > 0.5
        noise = np.random.default_rng([seed, -change]).normal(0, anatomy.noise_sd, anatomy.source.data.shape)
        drawn = sample_at(anatomy, anatomy.source.data, moved, coarse) + sample_at(
            anatomy, noise.astype(np.float32), places, coarse
        )
        scaled = np.clip(anatomy.offset + anatomy.slope * drawn, 0, 2)
        volumes[change] = np.where(brain & fine.mask, scaled, 0).astype(np.float32)
    return volumes


def sample_at(anatomy: Anatomy, data: Floats, places: Floats, plan: GridPlan) -> Floats:
    """Source data, cubic, at places [3, X, Y, Z] given in voxels of ``plan``; smoothed first as `onto_plan` does."""
    to_voxels = np.linalg.inv(anatomy.source.affine) @ anatomy.template_to_scan @ plan.matrix
    sigma = antialiasing_sigma(to_voxels)
    smooth = ndimage.gaussian_filter(data, sigma) if (sigma > 0).any() else data
    points = np.tensordot(to_voxels[:3, :3], places, 1) + to_voxels[:3, 3][:, None, None, None]
    return np.asarray(ndimage.map_coordinates(smooth, points, order=3), dtype=np.float32)


def read_anatomy(prepared: Prepared, key: str) -> Anatomy:
    """Source without bias and noise, and the linear rule that gives it the intensities of the prepared scan."""
    row, plan = prepared.row(key), prepared.plan
    scan = working_copy(read_volume(Path(row["source"])))
    matrix = alignment_of(prepared, key)
    mask = stripped_mask(scan) if (scan.data > 0).mean() < 0.4 else template_mask(scan, matrix)
    corrected = (scan.data / np.where(mask, bias_field(scan, mask), 1)).astype(np.float32)
    image = sitk.GetImageFromArray(corrected)
    scale = float(np.median(corrected[mask]))
    clean = sitk.GetArrayFromImage(sitk.CurvatureAnisotropicDiffusion(image / scale, **DENOISING)) * scale
    removed = (corrected - clean)[mask]
    noise_sd = float(1.4826 * np.median(np.abs(removed - np.median(removed))))
    stored = prepared.volume(key, "t1w")
    brain = ndimage.binary_fill_holes(stored > 0.02)
    plain = Anatomy(Volume(clean.astype(np.float32), scan.affine), noise_sd, matrix, 1.0, 0.0, brain.astype(np.float32))
    drawn = sample_at(plain, plain.source.data, warps.identity_grid(plan.shape), plan)
    inside = ndimage.binary_erosion(brain, iterations=2) & (stored < 1.9)
    slope, offset = np.polyfit(drawn[inside], stored[inside], 1)
    return Anatomy(plain.source, noise_sd, matrix, float(slope), float(offset), plain.brain)


def hippocampal_velocities(prepared: Prepared, key: str, folder: Path) -> dict[int, Floats]:
    """Velocity [3, X, Y, Z] on the prepared grid for each change of both hippocampi, exact within 0.2 %; kept in ``folder``.

    The hippocampi are the template's, carried over by the inverse of one fixed registration.
    """
    path = folder / f"{key}_velocities.npz"
    if not path.is_file():
        plan, t1w = prepared.plan, prepared.volume(key, "t1w")
        left, right = find("left hippocampus")[0], find("right hippocampus")[0]
        both = np.where(regions_on(plan) == left, 1, 2 * (regions_on(plan) == right)).astype(np.int16)
        labels = warps.warp(both, inverse(register(template_on(plan).t1w, t1w, TRUTH)[0]), order=0)
        found = {str(change): shrinking(t1w, labels, change, plan) for change in CHANGES_PERCENT[1:]}
        np.savez_compressed(path, **found)
    with np.load(path) as stored:
        return {change: stored[str(change)] for change in CHANGES_PERCENT[1:]}


def shrinking(t1w: Floats, labels: NDArray[np.int16], change_percent: int, plan: GridPlan) -> Floats:
    """Velocity [3, X, Y, Z] that changes labels 1 and 2 by ``change_percent``, compensated by the fluid nearby."""
    fluid = (t1w > 0.02) * np.where(t1w < FLUID_BELOW, 1.0, 0.01) * (labels == 0)
    room = warps.nearby_compensation(fluid.astype(np.float32), labels > 0, COMPENSATION_MM / plan.spacing_mm)
    target = float(np.log1p(change_percent / 100))
    return warps.reach_volumes(labels, {1: target, 2: target}, room).velocity.astype(np.float32)


def drawn_hippocampi(prepared: Prepared, key: str, labels_path: Path) -> tuple[NDArray[np.int16], tuple[float, float]]:
    """Hippocampi drawn by hand on the source scan, on the prepared grid (1 left, 2 right), and their log volumes there.

    The volumes are counted on the labels' own voxels and divided by the determinant of the affine.
    """
    drawn, plan, matrix = read_volume(labels_path), prepared.plan, alignment_of(prepared, key)
    shares = [
        sample(Volume((drawn.data == n).astype(np.float32), drawn.affine), matrix @ plan.matrix, plan.shape)
        for n in DRAWN
    ]
    labels = np.where(shares[0] > 0.5, 1, 2 * (shares[1] > 0.5)).astype(np.int16)
    voxel = abs(np.linalg.det(drawn.affine[:3, :3])) / np.linalg.det(matrix[:3, :3])
    left, right = (float(np.log((drawn.data == n).sum() * voxel)) for n in DRAWN)
    return labels, (left, right)


def drawn_copy(prepared: Prepared, key: str, labels_path: Path, change_percent: int, folder: Path) -> Floats:
    """The scan whose hand-drawn hippocampi changed by ``change_percent``, on the prepared grid; kept in ``folder``."""
    path = folder / f"{key}_drawn{change_percent}.npz"
    if not path.is_file():
        labels, _ = drawn_hippocampi(prepared, key, labels_path)
        velocity = shrinking(prepared.volume(key, "t1w"), labels, change_percent, prepared.plan)
        made = make_copies(prepared, key, prepared.plan, {change_percent: velocity})[change_percent]
        np.savez_compressed(path, changed=made.astype(np.float16))
    with np.load(path) as stored:
        return stored["changed"].astype(np.float32)


def alignment_of(prepared: Prepared, key: str) -> NDArray[np.float64]:
    """The affine template world -> scan world that `prepare` found."""
    transform = Path(str(prepared.row(key)["folder"])) / "transforms" / f"{key}.json"
    return np.array(json.loads(transform.read_text(encoding="utf-8"))["affine_template_to_scan"])
