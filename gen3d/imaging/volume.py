"""NIfTI in and out: every volume travels with its affine, and a damaged file is one sentence, not a traceback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gen3d.core.disk import whole_file
from gen3d.core.errors import UserError

SLOPE = 1.0 / 8192.0
"""Stored volumes are int16 with this slope: a range of -4 to 4 in steps of 1.2e-4."""

MIN_VOXELS_PER_SIDE = 8
SPACING_MM = (0.2, 10.0)
MAX_SHEAR_COSINE = 0.1

Float3D = NDArray[np.float32]
Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Volume:
    """A 3D image in closest-canonical (RAS+) axis order: data [X, Y, Z], affine voxel -> world mm (RAS)."""

    data: Float3D
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])


def read_volume(path: Path) -> Volume:
    """Read one 3D scan (.nii, .nii.gz, .mgz) as float32 in RAS+ axis order.

    Raises:
        UserError: missing, unreadable or truncated file; not 3D; empty, constant or non-finite data; an affine that
            is zero, singular, sheared or has absurd voxel sizes. The sentence names the file and the remedy.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: empty file (0 bytes); copy or convert it again.")
    _refuse_negative_spacing(path)
    image: Any
    try:
        image = nib.load(path)
        shape = tuple(int(side) for side in image.shape)
        affine = np.asarray(image.affine, dtype=np.float64)
    except Exception as error:
        raise UserError(f"{path}: not a readable NIfTI or MGH image ({_short(error)}); convert it again.") from None
    _check_header(path, image, shape, affine)
    try:
        raw = np.asanyarray(image.dataobj)
    except Exception as error:
        raise UserError(f"{path}: truncated or damaged image data ({_short(error)}); copy it again.") from None
    if raw.dtype.kind not in "iufb":
        raise UserError(f"{path}: voxels are of type {raw.dtype}, not numbers; convert it to a scalar image.")
    data = np.asarray(raw, dtype=np.float32).reshape(shape[:3])
    _check_values(path, data)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    return Volume(np.ascontiguousarray(canonical.dataobj, dtype=np.float32), np.asarray(canonical.affine))


def _refuse_negative_spacing(path: Path) -> None:
    """nibabel repairs negative voxel sizes silently; what they mean is for the user to say."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    try:
        with nib.openers.ImageOpener(str(path)) as stream:
            sizes = nib.Nifti1Header.from_fileobj(stream, check=False)["pixdim"][1:4]
    except Exception:  # not a NIfTI header: the reader below says so
        return
    if (sizes < 0).any():
        shown = " x ".join(f"{float(size):g}" for size in sizes)
        raise UserError(f"{path}: has a negative voxel size ({shown} mm) in its header; mend the header.")


def _check_header(path: Path, image: Any, shape: tuple[int, ...], affine: Affine) -> None:
    if len(shape) > 3 and all(side == 1 for side in shape[3:]):
        shape = shape[:3]
    if len(shape) != 3:
        raise UserError(f"{path}: has {len(shape)} dimensions {shape}, a T1w scan has 3; extract one volume from it.")
    if min(shape) < MIN_VOXELS_PER_SIDE:
        raise UserError(f"{path}: has only {min(shape)} voxels along one side {shape}; a whole-brain scan is needed.")
    if not np.isfinite(affine).all():
        raise UserError(f"{path}: its affine holds NaN or infinity; mend the header (fslorient, nibabel).")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(f"{path}: its affine is zero or singular, so the orientation is unknown; convert it again.")
    if lengths.min() < SPACING_MM[0] or lengths.max() > SPACING_MM[1]:
        shown = " x ".join(f"{length:.3g}" for length in lengths)
        raise UserError(f"{path}: voxels of {shown} mm are not those of a brain scan; check the units in the header.")
    directions = affine[:3, :3] / lengths
    cosines = np.abs(directions.T @ directions - np.eye(3))
    if cosines.max() > MAX_SHEAR_COSINE:
        raise UserError(f"{path}: its affine is sheared (axes are not at right angles); resample it to a plain grid.")


def _check_values(path: Path, data: Float3D) -> None:
    bad = int(data.size - np.isfinite(data).sum())
    if bad:
        raise UserError(f"{path}: {bad} voxels are NaN or infinite; export it again or set them to 0.")
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise UserError(f"{path}: every voxel has the same value ({low:g}); the export failed.")
    if np.count_nonzero(data != np.median(data)) < 0.001 * data.size:
        raise UserError(f"{path}: nearly all voxels have the same value; the export failed.")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 120 else text[:117] + "..."


def write_nifti(path: Path, data: NDArray[Any], affine: NDArray[Any]) -> None:
    """Write a NIfTI-1 file (float data as float32), with the affine as both sform and qform, atomically."""
    array = np.asarray(data)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype == bool:
        array = array.astype(np.uint8)
    elif array.dtype in (np.int64, np.uint64):
        array = array.astype(np.int32)
    _save(path, nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64)))


def store(path: Path, data: NDArray[Any], affine: NDArray[Any]) -> None:
    """Write a volume as int16 NIfTI with a fixed slope, uncompressed: memory-mappable, and any viewer opens it."""
    levels = np.clip(np.rint(np.asarray(data, dtype=np.float32) / SLOPE), -32767, 32767).astype(np.int16)
    image = nib.Nifti1Image(levels, np.asarray(affine, dtype=np.float64))
    image.header.set_slope_inter(SLOPE, 0.0)
    _save(path, image)


def _save(path: Path, image: nib.Nifti1Image) -> None:
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=4)
    image.set_qform(image.affine, code=4)
    with whole_file(path) as partial:
        nib.save(image, partial)


def open_stored(path: Path) -> NDArray[np.int16]:
    """Memory-map a volume written by `store`; multiply by SLOPE for its values. int16 [X, Y, Z]."""
    try:
        image: Any = nib.load(path, mmap=True)
        mapped: NDArray[np.int16] = image.dataobj.get_unscaled()
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({_short(error)}); run the verb that wrote this folder again."
        ) from None
    if mapped.dtype != np.int16:
        raise UserError(f"{path}: is not a stored volume of gen3d (int16 expected, found {mapped.dtype}).")
    return mapped


def read_stored(path: Path) -> Float3D:
    """A stored volume's values, float32 [X, Y, Z]."""
    return np.asarray(open_stored(path), dtype=np.float32) * np.float32(SLOPE)


def read_map(path: Path) -> Float3D:
    """A map or mask on a grid gen3d wrote itself: float32 [X, Y, Z], without the checks a raw scan needs."""
    try:
        image: Any = nib.load(path)
        return np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({_short(error)}); run the verb that wrote this folder again."
        ) from None
