"""Named regions of the MNI152 template, made from coordinates and tissue maps alone, so that the package may ship them.

One mechanism makes them all. Each region is a set of spheres strung along its axis; a voxel goes to the region of the
right tissue with the smallest power distance ``d^2 - r^2`` to one of its spheres (a Laguerre-Voronoi partition). A closed
region also ends at the surface of its spheres.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gen3d.cohort.region_chains import DEFINITIONS, Definition, Tissue
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import Template, full_template

Labels = NDArray[np.int16]
SPHERE_STEP_MM = 2.0  # distance of the spheres that a chain is filled with
FINE_MM = 1.25  # below this spacing the nearest label of the 1 mm map is good enough
MAX_SAMPLES = 4  # label samples along each edge of a voxel when labels go to a coarser grid

# The order in which tissues are dealt out: what is closed and small goes first.
ORDER: tuple[tuple[Tissue, bool], ...] = (
    ("horn", True), ("fluid", True), ("grey", True), ("nucleus", True), ("any", True),
    ("cerebellar_white", True), ("fluid", False), ("grey", False), ("white", False),
)  # fmt: skip
REPORTED_TISSUE = {
    "grey": "GM",
    "nucleus": "GM",
    "any": "WM",
    "white": "WM",
    "cerebellar_white": "WM",
    "fluid": "CSF",
    "horn": "CSF",
}


class Region(NamedTuple):
    """One region: label from 1, name, hemisphere (left, right, midline), tissue (GM, WM, CSF), structure without side."""

    label: int
    name: str
    hemisphere: str
    tissue: str
    structure: str


@lru_cache(maxsize=1)
def all_regions() -> tuple[Region, ...]:
    """Every region in the order of its label."""
    regions: list[Region] = []
    for definition in DEFINITIONS:
        for side in ("midline",) if definition.midline else ("left", "right"):
            name = definition.name if definition.midline else f"{side} {definition.name}"
            regions.append(Region(len(regions) + 1, name, side, REPORTED_TISSUE[definition.tissue], definition.name))
    return tuple(regions)


def region_table() -> pd.DataFrame:
    """One row per region with the columns of `Region`."""
    return pd.DataFrame(all_regions(), columns=list(Region._fields))


def find(name: str) -> list[int]:
    """Labels of a region: ``"left hippocampus"`` gives one, ``"hippocampus"`` both sides.

    Raises:
        UserError: no such region; the sentence gives the nearest name.
    """
    plain = " ".join(name.lower().replace("_", " ").split())
    labels = [region.label for region in all_regions() if plain in (region.name.lower(), region.structure.lower())]
    if not labels:
        structures = list(dict.fromkeys(region.structure for region in all_regions()))
        known = {text.lower(): text for text in (*structures, *(region.name for region in all_regions()))}
        near = difflib.get_close_matches(plain, known, n=1)
        hint = f"the nearest name is '{known[near[0]]}'" if near else f"the regions are {', '.join(structures)}"
        raise UserError(f"there is no region '{name}'; {hint}.")
    return labels


def _spheres(definition: Definition) -> NDArray[np.float64]:
    """Spheres [n, 4] (x, y, z, radius in mm) of a definition, radii interpolated along each chain."""
    filled = []
    for chain in definition.chains.split("|"):
        points = np.array([[float(value) for value in point.split()] for point in chain.split(",")])
        filled.append(points[:1])
        for start, end in pairwise(points):
            num = max(1, int(np.ceil(np.linalg.norm(end[:3] - start[:3]) / SPHERE_STEP_MM)))
            filled.append(start + (end - start) * (np.arange(1, num + 1) / num)[:, None])
    return np.concatenate(filled)


def _tissue_masks(template: Template) -> dict[Tissue, NDArray[np.bool_]]:
    """Voxels [X, Y, Z] that each tissue class may occupy; classes overlap where anatomy is mixed (thalamus, brain-stem)."""
    gm, wm, csf, mask = template.gm, template.wm, template.csf, template.mask
    return {
        "grey": mask & (gm >= wm) & (gm >= csf),
        "white": mask & (wm > gm) & (wm >= csf),
        "fluid": mask & (csf > gm) & (csf > wm),
        "horn": mask & (csf > 0.1),
        "nucleus": mask & (csf < 0.5) & (wm < 0.9),
        "any": mask & (csf < 0.5),
        "cerebellar_white": mask & (wm > 0.3),
    }


@lru_cache(maxsize=1)
def full_regions() -> Labels:
    """Labels [197, 233, 189] on the template's own 1 mm grid; 0 outside the brain.

    The template is symmetric: the left half and the midline are dealt out, and mirrored to the right.
    """
    template = full_template()
    num_left = template.mask.shape[0] // 2 + 1
    tissues = {tissue: mask[:num_left] for tissue, mask in _tissue_masks(template).items()}
    labels = np.zeros((num_left, *template.mask.shape[1:]), np.int16)
    for tissue, closed in ORDER:
        spheres, owners = _group(tissue, closed)
        places = np.argwhere(tissues[tissue] & (labels == 0))
        world = places @ template.affine[:3, :3].T + template.affine[:3, 3]
        labels[tuple(places.T)] = _deal_out(world, spheres, owners, closed)
    mirrored = _other_side()[labels[-2::-1]]
    return np.concatenate([labels, mirrored])


def _other_side() -> Labels:
    """Label of the same structure in the other hemisphere, by label; midline regions are their own."""
    label_of = {(region.structure, region.hemisphere): region.label for region in all_regions()}
    opposite = {"left": "right", "right": "left", "midline": "midline"}
    others = [label_of[region.structure, opposite[region.hemisphere]] for region in all_regions()]
    return np.array([0, *others], np.int16)


def _group(tissue: Tissue, closed: bool) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Spheres [n, 4] and owners [n] of the left and midline regions of one tissue class."""
    chosen = [d for d in DEFINITIONS if d.tissue == tissue and d.closed == closed]
    spheres = [_spheres(definition) for definition in chosen]
    labels = [find(d.name if d.midline else f"left {d.name}")[0] for d in chosen]
    owners = [np.full(len(chain), label, np.int16) for chain, label in zip(spheres, labels, strict=True)]
    return np.concatenate(spheres), np.concatenate(owners)


def _deal_out(
    world: NDArray[np.float64], spheres: NDArray[np.float64], owners: NDArray[np.int16], closed: bool
) -> Labels:
    """Owner of the sphere with the smallest power distance for each place [n, 3]; 0 where a closed group does not reach.

    A power distance is a plain distance in one dimension more: spheres sit at height ``sqrt(R^2 - r^2)`` (R is the largest
    radius), places at height 0.
    """
    largest = float(spheres[:, 3].max())
    height = np.sqrt(largest**2 - spheres[:, 3] ** 2)
    tree = cKDTree(np.column_stack([spheres[:, :3], height]))
    reach = largest if closed else np.inf
    distance, nearest = tree.query(np.column_stack([world, np.zeros(len(world))]), distance_upper_bound=reach)
    reached = np.isfinite(distance)
    return np.where(reached, owners[np.where(reached, nearest, 0)], 0).astype(np.int16)


def regions_on(plan: GridPlan) -> Labels:
    """Labels [X, Y, Z] on the plan's grid, int16, 0 outside the brain.

    Each voxel takes the label that fills most of it, with a weight per region chosen so that volumes stay those of the
    1 mm map: thin and small regions do not vanish at 3 or 4 mm. The array is shared and read-only: copy it to change it.
    """
    return _regions_on_grid(plan.shape, plan.affine)


@lru_cache(maxsize=4)
def _regions_on_grid(shape: tuple[int, int, int], affine: tuple[tuple[float, ...], ...]) -> Labels:
    full, template = full_regions(), full_template()
    to_full = np.linalg.inv(template.affine) @ np.asarray(affine)
    num_samples = 1 if to_full[0, 0] < FINE_MM else min(MAX_SAMPLES, int(np.ceil(to_full[0, 0])) + 1)
    offsets = (np.arange(num_samples) + 0.5) / num_samples - 0.5
    axes = [
        [np.rint(to_full[a, a] * (np.arange(n) + o) + to_full[a, 3]).astype(int) for o in offsets]
        for a, n in enumerate(shape)
    ]
    samples = [_read(full, i, j, k).ravel() for i in axes[0] for j in axes[1] for k in axes[2]]
    flat = samples[0] if len(samples) == 1 else _combine(samples)
    labels = flat.reshape(shape)
    labels.setflags(write=False)
    return labels


def _combine(samples: list[Labels]) -> Labels:
    """One label per voxel from several samples [n] of each: 0 where most are 0, else the region of the largest share."""
    inside = np.flatnonzero(sum((sample > 0).astype(np.uint8) for sample in samples) > len(samples) / 2)
    counts = np.zeros((len(inside), len(all_regions()) + 1), np.uint8)
    for sample in samples:
        counts[np.arange(len(inside)), sample[inside]] += 1
    labels = np.zeros(len(samples[0]), np.int16)
    labels[inside] = _keep_volumes(counts[:, 1:].astype(np.float32)) + 1
    return labels


def _read(full: Labels, i: NDArray[np.int_], j: NDArray[np.int_], k: NDArray[np.int_]) -> Labels:
    """The 1 mm labels at a product grid of indices; 0 outside."""
    read = full[np.ix_(*(np.clip(index, 0, n - 1) for index, n in zip((i, j, k), full.shape, strict=True)))].copy()
    for axis, (index, n) in enumerate(zip((i, j, k), full.shape, strict=True)):
        outside = (index < 0) | (index >= n)
        if outside.any():
            read[(slice(None),) * axis + (outside,)] = 0
    return read


def _keep_volumes(fractions: NDArray[np.float32], num_rounds: int = 12) -> NDArray[np.int_]:
    """Column with the largest weighted fraction per row [n, regions], weighted so that each column gets its share of rows."""
    wanted = fractions.sum(axis=0) / fractions.sum(axis=1).mean()
    weights = np.ones(fractions.shape[1], np.float32)
    for _ in range(num_rounds):
        owner = np.argmax(fractions * weights, axis=1)
        got = np.bincount(owner, minlength=len(weights))
        weights *= np.clip(wanted / np.maximum(got, 0.5), 0.5, 2.0) ** 0.3
    return np.argmax(fractions * weights, axis=1)
