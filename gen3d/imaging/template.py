"""The MNI152 template on any plan's grid: T1w, tissue shares and brain mask, from the maps nilearn ships (no download)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.plan import GridPlan

WM_LEVEL = 1.0
"""T1w intensity of the white-matter median in every prepared volume."""


@dataclass(frozen=True)
class Template:
    """Arrays [X, Y, Z] on one grid: t1w (WM median 1, background 0), gm, wm, csf shares (0 to 1), brain mask."""

    t1w: NDArray[np.float32]
    gm: NDArray[np.float32]
    wm: NDArray[np.float32]
    csf: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


@lru_cache(maxsize=1)
def full_template() -> Template:
    """The template at its own 1 mm resolution."""
    from nilearn import datasets

    images = {
        "t1w": datasets.load_mni152_template(resolution=1),
        "gm": datasets.load_mni152_gm_template(resolution=1),
        "wm": datasets.load_mni152_wm_template(resolution=1),
        "mask": datasets.load_mni152_brain_mask(resolution=1),
    }
    canonical = {name: nib.as_closest_canonical(image) for name, image in images.items()}
    arrays = {name: np.asarray(image.dataobj, dtype=np.float32) for name, image in canonical.items()}
    mask = arrays["mask"] > 0.5
    gm, wm = np.clip(arrays["gm"], 0, 1) * mask, np.clip(arrays["wm"], 0, 1) * mask
    t1w = arrays["t1w"] * mask
    t1w *= WM_LEVEL / float(np.median(t1w[wm > 0.95]))
    csf = np.clip(1.0 - gm - wm, 0, 1) * mask
    return Template(t1w, gm, wm, csf.astype(np.float32), mask, np.asarray(canonical["t1w"].affine))


def on_grid(volume: NDArray[np.float32], affine: NDArray[np.float64], plan: GridPlan) -> NDArray[np.float32]:
    """Average a finer volume into the plan's voxels (Gaussian antialiasing, then trilinear)."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    ratio = plan.spacing_mm / spacing
    sigma = np.where(ratio > 1, np.sqrt(np.maximum(ratio**2 - 1, 0)) / np.sqrt(8 * np.log(2)), 0)
    smooth = ndimage.gaussian_filter(volume, sigma) if sigma.any() else volume
    to_source = np.linalg.inv(affine) @ plan.matrix
    moved: NDArray[np.float32] = ndimage.affine_transform(
        smooth, to_source[:3, :3], to_source[:3, 3], output_shape=plan.shape, order=1, mode="constant"
    )
    return moved


_CACHE: dict[tuple[object, ...], Template] = {}


def template_on(plan: GridPlan) -> Template:
    """The template on a plan's grid, computed once per process and grid."""
    grid = (plan.shape, plan.affine)
    if grid not in _CACHE:
        full = full_template()
        moved = {name: on_grid(getattr(full, name), full.affine, plan) for name in ("t1w", "gm", "wm", "csf")}
        mask = on_grid(full.mask.astype(np.float32), full.affine, plan) > 0.5
        moved = {name: (array * mask).astype(np.float32) for name, array in moved.items()}
        _CACHE[grid] = Template(moved["t1w"], moved["gm"], moved["wm"], moved["csf"], mask, plan.matrix)
    return _CACHE[grid]
