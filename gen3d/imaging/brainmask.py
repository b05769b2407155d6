"""Which voxels of a scan are brain: as the scan is stripped already, from the registered template, or by an external tool.

What a network proposes is weighed in `network_mask`.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.core.errors import UserError
from gen3d.core.pool import run_program
from gen3d.imaging.affine import depth_in_template, foreground, registration_template
from gen3d.imaging.network_mask import NETWORK_MASKS, deepbet_files
from gen3d.imaging.orientation import OrientationRule
from gen3d.imaging.resample import sample
from gen3d.imaging.volume import Volume, read_volume, write_nifti

MaskMethod = Literal["auto", "given", "stripped", "template", "deepbet", "synthstrip", "hd-bet"]

LARGEST_BRAIN_ML = (
    2200.0  # more tissue than this is a head: brains with their membranes reach 1.7 L, defaced heads began at 2.4 L
)
SURFACE_MM, DEEP_MM = 4.0, 20.0  # a mask may keep a rim of fluid of so many mm; ventricles begin deeper
SKULL_SHARE = 0.2
"""Dark voxels of a layer, from which on it is skull: see `dark_layer`. Stripped brains reached .10 (91 scans), slabs .15 (133),
heads cut 14 mm from the brain began at .29 (122). A head cut at 6 mm is told as one; one cut at 4 mm is taken for a loose mask, and
there the mask of a stripped scan is as near to labels as the template's (analysis/27_which_brain_mask.md)."""
FEWEST_VOXELS = 100  # of a layer that is judged
REACH_MM = 6.0  # how far outside the template's brain a person's brain may lie after affine registration
TOOLS = {
    "synthstrip": ("mri_synthstrip", ["-i", "{scan}", "-m", "{mask}"]),
    "hd-bet": (
        "hd-bet",
        ["-i", "{scan}", "-o", "{folder}/brain.nii.gz", "-device", "cpu", "--disable_tta", "--save_bet_mask"],
    ),
}


def looks_stripped(scan: Volume) -> bool:
    """Whether only a brain is left.

    Its tissue fills no more than the largest brain, the background is one exact value, and no dark layer lies below the surface
    of what is left: a head that was cut close to the brain has one value around it too, but scalp and skull inside.
    """
    volume_ml = float(foreground(scan).sum() * np.prod(scan.spacing_mm)) / 1000
    background_share = float(np.mean(scan.data == scan.data.min()))
    return volume_ml < LARGEST_BRAIN_ML and background_share > 0.2 and dark_layer(scan) < SKULL_SHARE


def dark_layer(scan: Volume) -> float:
    """The largest share of dark voxels in any layer 4 to 20 mm below the surface of what is not background, 0 to 1.

    A layer is 2 mm thick, or as thick as a voxel; the faces of the image count as surface.
    """
    held = _largest(scan.data > scan.data.min())
    box = ndimage.find_objects(held.astype(np.int8), max_label=1)[0]
    if box is None:
        return 0.0
    inside = np.pad(ndimage.binary_fill_holes(held[box]), 1)
    depth_mm = ndimage.distance_transform_edt(inside, scan.spacing_mm)[1:-1, 1:-1, 1:-1]
    below = (depth_mm > SURFACE_MM) & (depth_mm <= DEEP_MM)
    layers = np.ceil((depth_mm[below] - SURFACE_MM) / max(2.0, *scan.spacing_mm)).astype(int)
    dark = ~foreground(scan)[box][below]
    sizes = np.bincount(layers)
    large = sizes >= FEWEST_VOXELS
    return float((np.bincount(layers[dark], minlength=len(sizes))[large] / sizes[large]).max(initial=0.0))


def stripped_mask(scan: Volume) -> NDArray[np.bool_]:
    """[X, Y, Z] the largest piece of tissue, its sulci and ventricles included.

    Tissue is what exceeds 15 % of the bright level: a lower threshold would take in the half-filled voxels around the brain.
    """
    return _solid(_largest(foreground(scan)), scan.spacing_mm, closing_mm=4.0)


def template_mask(scan: Volume, template_to_scan: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[X, Y, Z] brain of an affinely registered scan.

    Voxels as bright as brain tissue and at most 6 mm outside the template's brain, detached from membranes and skull by an opening;
    then closed, so that the fluid of sulci and ventricles belongs to the brain. Meant for a copy at about 2 mm.
    """
    template = registration_template()
    to_template = np.linalg.inv(template_to_scan) @ scan.affine
    shape = scan.data.shape
    depth_mm = sample(Volume(depth_in_template(), template.affine), to_template, shape, outside=-100.0)
    white = sample(Volume(template.wm, template.affine), to_template, shape) > 0.9
    grey = sample(Volume(template.gm, template.affine), to_template, shape) > 0.8
    if white.sum() < 100 or grey.sum() < 100:
        return np.zeros(shape, dtype=bool)
    white_level, grey_level = float(np.median(scan.data[white])), float(np.median(scan.data[grey]))
    tissue = (scan.data > 0.55 * grey_level) & (scan.data < 1.4 * white_level) & (depth_mm > -REACH_MM)
    tissue |= depth_mm > 15.0
    opened = ndimage.binary_opening(tissue, _ball(2.5, scan.spacing_mm))
    core = _largest(opened)
    grown = ndimage.binary_dilation(core, _ball(2.5, scan.spacing_mm)) & (tissue | core)
    return _solid(grown, scan.spacing_mm, closing_mm=6.0) & (depth_mm > -REACH_MM)


def depth_share_outside(scan: Volume, mask: NDArray[np.bool_], template_to_scan: NDArray[np.float64]) -> float:
    """Share of the mask that lies more than 6 mm outside the template's brain: membranes, neck, or a wrong alignment."""
    template = registration_template()
    to_template = np.linalg.inv(template_to_scan) @ scan.affine
    depth_mm = sample(Volume(depth_in_template(), template.affine), to_template, mask.shape, outside=-100.0)
    return float((mask & (depth_mm < -REACH_MM)).sum() / max(int(mask.sum()), 1))


def given_mask(path: Path, scan: Volume, orientation: OrientationRule | None = None) -> NDArray[np.bool_]:
    """[X, Y, Z] a mask file on the scan's voxels (resampled through the world coordinates if its grid differs).

    Raises:
        UserError: the mask cannot be read, does not overlap the scan, or one of both alone says how it lies.
    """
    mask = read_volume(path, orientation)
    if mask.assumed != scan.assumed:
        one, other = ("the mask", "its scan") if mask.assumed else ("the scan", "this mask")
        raise UserError(
            f"{path}: {one} says no orientation in its header and {other} says one, so they cannot be laid on each other; write "
            "the same affine and codes into both (fslcpgeom)."
        )
    on_scan = sample(mask, scan.affine, scan.data.shape) > 0.5 * float(mask.data.max())
    if not on_scan.any():
        raise UserError(f"{path}: this brain mask lies outside its scan; check that both are in the same space.")
    return on_scan


def check_tool(method: str) -> None:
    """Raise a UserError if a tool or network was chosen that is not installed."""
    if method in NETWORK_MASKS:
        deepbet_files()
    if method in TOOLS and shutil.which(TOOLS[method][0]) is None:
        raise UserError(
            f"brain_mask={method} needs the program `{TOOLS[method][0]}`, which is not on the PATH; "
            "install it, or use brain_mask=auto."
        )


def tool_mask(method: str, path: Path, scan: Volume, orientation: OrientationRule | None = None) -> NDArray[np.bool_]:
    """[X, Y, Z] the brain as SynthStrip (FreeSurfer) or HD-BET sees it.

    The program gets the original file; a copy as read here if HD-BET could not read it, or if the user had to say how it lies.

    Raises:
        UserError: the program is missing or fails.
    """
    check_tool(method)
    program, arguments = TOOLS[method]
    with tempfile.TemporaryDirectory() as folder:
        expected = Path(folder) / ("mask.nii.gz" if method == "synthstrip" else "brain_bet.nii.gz")
        said = orientation is not None and (orientation.assume is not None or orientation.prefer != "agreement")
        if said or not path.name.endswith(".nii.gz"):  # HD-BET reads nothing else
            volume = read_volume(path, orientation)
            path = Path(folder) / "scan.nii.gz"
            write_nifti(path, volume.data, volume.affine)
        filled = [text.format(scan=path, mask=expected, folder=folder) for text in arguments]
        done = run_program([program, *filled])
        if done.returncode != 0 or not expected.is_file():
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise UserError(f"{path}: `{program}` failed ({reason[0][:200]}); try brain_mask=auto.")
        return given_mask(expected, replace(scan, assumed=False))  # the program got a copy that says how it lies


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, num = ndimage.label(mask)
    if num <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = labels == sizes.argmax()
    return largest


def _solid(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], closing_mm: float) -> NDArray[np.bool_]:
    """Close gaps up to twice `closing_mm` and fill holes."""
    result = np.zeros_like(mask)
    occupied = ndimage.find_objects(mask.astype(np.int8), max_label=1)[0]
    if occupied is None:
        return result
    margin = [int(np.ceil(closing_mm / spacing)) + 1 for spacing in spacing_mm]
    padded = np.pad(mask[occupied], [(side, side) for side in margin])
    closed = ~_grown(~_grown(padded, closing_mm, spacing_mm), closing_mm, spacing_mm)
    outside, _ = ndimage.label(~(closed | padded))  # the margin is outside, and in one piece
    inner = tuple(slice(side, -side) for side in margin)
    result[occupied] = (outside != outside[0, 0, 0])[inner]
    return result


def _grown(mask: NDArray[np.bool_], radius_mm: float, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """[X, Y, Z] what lies no farther from the mask than the radius, by exact distances, one axis after the other."""
    squared = np.where(mask, np.float32(0), np.float32(np.inf))
    for axis, spacing in enumerate(spacing_mm):
        along = np.moveaxis(squared, axis, 0)
        nearest = along.copy()
        for step in range(1, min(int(radius_mm / spacing + 1e-6), len(along) - 1) + 1):
            cost = np.float32((step * spacing) ** 2)
            np.minimum(nearest[step:], along[:-step] + cost, out=nearest[step:])
            np.minimum(nearest[:-step], along[step:] + cost, out=nearest[:-step])
        squared = np.moveaxis(nearest, 0, axis)
    return np.asarray(squared <= np.float32(radius_mm**2 * (1 + 1e-6)))


def _ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    reach = [max(1, int(radius_mm / spacing)) for spacing in spacing_mm]
    axes = np.meshgrid(*(np.arange(-n, n + 1) * s for n, s in zip(reach, spacing_mm, strict=True)), indexing="ij")
    ball: NDArray[np.bool_] = sum(axis**2 for axis in axes) <= max(radius_mm, max(spacing_mm)) ** 2
    return ball
