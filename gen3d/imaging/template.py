"""The MNI152 template on any plan's grid: T1w, tissue shares and brain mask, from the maps nilearn ships (no download)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.plan import GridPlan

WM_LEVEL = 1.0
"""T1w intensity of the white-matter median in every prepared volume."""
BRAIN_ABOVE = 0.2  # of the brightest voxel: nilearn's brain mask
FILES = {name: f"mni_icbm152_{name[:2]}_tal_nlin_sym_09a_converted.nii.gz" for name in ("t1w", "gm", "wm")}


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
    images = _maps()
    canonical = {name: nib.as_closest_canonical(image) for name, image in images.items()}
    arrays = {name: np.asarray(image.dataobj, dtype=np.float32) for name, image in canonical.items()}
    mask = arrays["t1w"] > BRAIN_ABOVE
    gm, wm = np.clip(arrays["gm"], 0, 1) * mask, np.clip(arrays["wm"], 0, 1) * mask
    t1w = arrays["t1w"] * mask
    t1w *= WM_LEVEL / float(np.median(t1w[wm > 0.95]))
    csf = np.clip(1.0 - gm - wm, 0, 1) * mask
    return Template(t1w, gm, wm, csf.astype(np.float32), mask, np.asarray(canonical["t1w"].affine))


def _maps() -> dict[str, Any]:
    """T1w, grey and white matter as nilearn's `load_mni152_*_template(1)` returns them.

    Its files are read directly, because importing nilearn takes longer than all that is done with a scan before its alignment.
    """
    spec = find_spec("nilearn")
    folder = Path(spec.origin).parent / "datasets" / "data" if spec is not None and spec.origin else Path()
    files = {name: folder / file for name, file in FILES.items()}
    if not all(path.is_file() for path in files.values()):  # a version of nilearn that keeps them elsewhere
        from nilearn import datasets

        return {
            "t1w": datasets.load_mni152_template(resolution=1),
            "gm": datasets.load_mni152_gm_template(resolution=1),
            "wm": datasets.load_mni152_wm_template(resolution=1),
        }
    images: dict[str, Any] = {}
    for name, path in files.items():
        image: Any = nib.load(path)
        data = np.asanyarray(image.dataobj).astype(np.float32)
        images[name] = nib.Nifti1Image(data / data.max(), image.affine)
    return images


def on_grid(
    volume: NDArray[np.float32], affine: NDArray[np.float64], plan: GridPlan, blur_mm: float | None = None
) -> NDArray[np.float32]:
    """Average a finer volume into the plan's voxels (Gaussian antialiasing, or one of this SD, then trilinear).

    Both are products of one weight per axis where the axes of the two grids are parallel, as the template's and every
    plan's are; then each axis is averaged by one small matrix.
    """
    to_source = np.linalg.inv(affine) @ plan.matrix
    if np.count_nonzero(np.abs(to_source[:3, :3]) > 1e-9) > 3:
        raise ValueError("the axes of the two grids are not parallel")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    moved = volume.astype(np.float32)
    for axis in range(3):
        ratio = plan.spacing_mm / spacing[axis]
        antialiasing = float(np.sqrt(ratio**2 - 1) / np.sqrt(8 * np.log(2))) if ratio > 1 else 0.0
        sigma = antialiasing if blur_mm is None else float(blur_mm / spacing[axis])
        places = to_source[axis, axis] * np.arange(plan.shape[axis]) + to_source[axis, 3]
        weights = _weights(places, volume.shape[axis], sigma)
        moved = np.moveaxis(np.tensordot(weights, moved, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(moved)


def _weights(places: NDArray[np.float64], num_voxels: int, sigma: float) -> NDArray[np.float32]:
    """Row by row, what each voxel of a line [num_voxels] adds to the smoothed line at a place: [len(places), num_voxels]."""
    between = np.zeros((len(places), num_voxels))
    inside = (places >= 0) & (places <= num_voxels - 1)
    low = np.clip(np.floor(places).astype(int), 0, num_voxels - 2)
    rows = np.flatnonzero(inside)
    between[rows, low[rows]] = 1 - (places - low)[rows]
    between[rows, low[rows] + 1] += (places - low)[rows]
    smoothing = ndimage.gaussian_filter1d(np.eye(num_voxels), sigma, axis=0) if sigma else np.eye(num_voxels)
    return (between @ smoothing).astype(np.float32)


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
