"""Focal lesions of real shapes: masks drawn in other people, in the template's world coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.imaging.foreign import read_foreign
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import full_template

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]

SUFFIXES = (".nii", ".nii.gz")
MIN_SHARE_IN_BRAIN = 0.5  # a mask in the template's space lies in its brain but for its rim
SAMPLES_PER_EDGE = 3  # of a voxel, when a mask goes to the grid
SCALES = (0.05, 4.0)  # a mask is not made larger or smaller than this to reach a volume
NUM_BISECTIONS = 8
MIN_LEFT = 0.25  # of a mask's volume must be tissue in the person who gets it as it is


@dataclass(frozen=True)
class LesionMask:
    """One mask: its voxels [i, j, k] cut to their bounding box, voxel -> template mm, and its volume inside the brain."""

    name: str
    data: NDArray[np.bool_]
    affine: Matrix
    volume_ml: float


@lru_cache(maxsize=8)
def read_lesion_masks(folder: Path) -> tuple[LesionMask, ...]:
    """Every NIfTI mask (values above 0.5) of a folder, in the order of their names.

    Raises:
        UserError: no folder, no mask in it, a file that is no volume, an empty mask, or one of which less than half lies
            inside the brain of the template and which therefore is in another space.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; masks= names a folder of NIfTI lesion masks in MNI152 space.")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not path.name.startswith("."))
    if not files:
        raise UserError(
            f"{folder}: holds no mask (*.nii, *.nii.gz); masks= names a folder of lesion masks in MNI152 space."
        )
    return tuple(_read(path) for path in files)


def masks_of_size(folder: Path, sizes_ml: tuple[float, float] | None) -> tuple[LesionMask, ...]:
    """The masks of a folder whose volume inside the template's brain is within ``sizes_ml``.

    Raises:
        UserError: see `read_lesion_masks`; or none has such a volume.
    """
    masks = read_lesion_masks(folder)
    low, high = sizes_ml or (0.0, np.inf)
    kept = tuple(mask for mask in masks if low <= mask.volume_ml <= high)
    if not kept:
        volumes = [mask.volume_ml for mask in masks]
        raise UserError(
            f"{folder}: none of its {len(masks)} masks has between {low:g} and {high:g} ml inside the brain (they have "
            f"{min(volumes):.3g} to {max(volumes):.3g}); change sizes_ml, or give severity (ml) to scale them."
        )
    return kept


def _read(path: Path) -> LesionMask:
    image = read_foreign(path)
    data, affine = image.data, image.affine
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    if not np.isfinite(data).all():
        raise UserError(f"{path}: the mask holds NaN or infinity; set these voxels to 0 or remove it.")
    places = np.argwhere(data > 0.5)
    if not len(places):
        raise UserError(f"{path}: the mask is empty (no voxel above 0.5); remove it or export it again.")
    inside = _in_template(places @ affine[:3, :3].T + affine[:3, 3])
    if inside.mean() < MIN_SHARE_IN_BRAIN:
        raise UserError(
            f"{path}: only {100 * inside.mean():.0f} % of the mask lies in the brain of the template, so it is in another "
            "space; bring it to MNI152 (its affine must say so) or remove it."
        )
    low, high = places.min(axis=0), places.max(axis=0) + 1
    box = (data > 0.5)[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    matrix = affine.copy()
    matrix[:3, 3] += affine[:3, :3] @ low
    return LesionMask(path.name.split(".")[0], box, matrix, float(inside.sum()) * voxel_ml)


def _in_template(world: Matrix) -> NDArray[np.bool_]:
    """Whether places [n, 3] in mm lie in the template's brain."""
    template = full_template()
    voxels = np.rint((world - template.affine[:3, 3]) @ np.linalg.inv(template.affine[:3, :3]).T).astype(int)
    within = ((voxels >= 0) & (voxels < np.array(template.mask.shape))).all(axis=1)
    in_brain = np.zeros(len(world), bool)
    in_brain[within] = template.mask[tuple(voxels[within].T)]
    return in_brain


def deal(
    masks: tuple[LesionMask, ...],
    volume_ml: float | None,
    where: NDArray[np.bool_],
    plan: GridPlan,
    rng: np.random.Generator,
) -> tuple[str, Floats]:
    """One mask at random, mirrored or not, cut to the tissue ``where``: its name, and the share of each voxel it fills.

    With ``volume_ml`` it is scaled about one of its own tissue voxels, chosen at random, until it fills exactly that
    volume of tissue; its shape stays. Masks that leave too little tissue in this person are passed over.

    Raises:
        ValueError: no mask fits this person.
    """
    voxel_ml = plan.spacing_mm**3 / 1000
    for index in rng.permutation(len(masks)):
        mask, mirrored = masks[int(index)], bool(rng.integers(2))
        affine = np.diag([-1.0, 1, 1, 1]) @ mask.affine if mirrored else mask.affine
        name = mask.name + (" (mirrored)" if mirrored else "")
        whole = on_plan(mask.data, affine, plan) * where
        if volume_ml is None:
            if whole.sum() * voxel_ml > max(MIN_LEFT * mask.volume_ml, voxel_ml):
                return name, whole
        elif whole.any():
            scaled = _scaled_to(mask.data, affine, volume_ml, whole, where, plan, rng)
            if scaled is not None:
                return name, scaled
    raise ValueError("no mask leaves enough tissue of this person")


def _scaled_to(
    data: NDArray[np.bool_],
    affine: Matrix,
    volume_ml: float,
    whole: Floats,
    where: NDArray[np.bool_],
    plan: GridPlan,
    rng: np.random.Generator,
) -> Floats | None:
    """The mask scaled about a random voxel of ``whole`` to a volume of tissue; None where it cannot be reached.

    Bisection brings two scales together between which the volume lies; what they give is mixed, so that it is exact.
    """
    candidates = np.argwhere(whole > 0.5) if (whole > 0.5).any() else np.argwhere(whole > 0)
    centre = plan.matrix[:3, :3] @ candidates[rng.integers(len(candidates))] + plan.matrix[:3, 3]
    voxel_ml = plan.spacing_mm**3 / 1000

    def at(log_scale: float) -> tuple[Floats, float]:
        scaling = np.diag([*[np.exp(log_scale)] * 3, 1.0])
        scaling[:3, 3] = centre - scaling[:3, :3] @ centre
        fraction = on_plan(data, scaling @ affine, plan) * where
        return fraction, float(fraction.sum()) * voxel_ml

    low, high = np.log(SCALES)
    middle = float(np.clip(np.log(volume_ml / (float(whole.sum()) * voxel_ml)) / 3, low, high))
    smaller, larger = None, None
    for _ in range(NUM_BISECTIONS):
        fraction, volume = at(middle)
        if volume < volume_ml:
            low, smaller = middle, (fraction, volume)
        else:
            high, larger = middle, (fraction, volume)
        near = np.log(volume_ml / max(volume, voxel_ml * 1e-3)) / 3  # as volume goes with the cube of scale
        middle = float(np.clip(middle + near, low + 0.1 * (high - low), high - 0.1 * (high - low)))
    if smaller is None or larger is None:
        return None
    share = (volume_ml - smaller[1]) / (larger[1] - smaller[1])
    return ((1 - share) * smaller[0] + share * larger[0]).astype(np.float32)


def on_plan(data: NDArray[np.bool_], affine: Matrix, plan: GridPlan) -> Floats:
    """Share [X, Y, Z] of each voxel of the plan that a mask fills, from 3 x 3 x 3 samples per voxel."""
    to_mask = np.linalg.inv(affine) @ plan.matrix
    corners = np.array(
        [[i, j, k, 1] for i in (-1, data.shape[0]) for j in (-1, data.shape[1]) for k in (-1, data.shape[2])]
    )
    reach = (corners @ np.linalg.inv(to_mask).T)[:, :3]
    low = np.clip(np.floor(reach.min(axis=0)).astype(int), 0, plan.shape)
    high = np.clip(np.ceil(reach.max(axis=0)).astype(int) + 1, 0, plan.shape)
    fraction = np.zeros(plan.shape, np.float32)
    if (high <= low).any():
        return fraction
    axes = [np.arange(a, b, dtype=np.float64) for a, b in zip(low, high, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    box = np.zeros(places.shape[:3], np.float32)
    offsets = (np.arange(SAMPLES_PER_EDGE) + 0.5) / SAMPLES_PER_EDGE - 0.5
    for offset in np.stack(np.meshgrid(offsets, offsets, offsets), axis=-1).reshape(-1, 3):
        voxels = np.rint((places + offset) @ to_mask[:3, :3].T + to_mask[:3, 3]).astype(np.int64)
        inside = ((voxels >= 0) & (voxels < data.shape)).all(axis=-1)
        box[inside] += data[tuple(voxels[inside].T)]
    fraction[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = box / SAMPLES_PER_EDGE**3
    return fraction
