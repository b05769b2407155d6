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
from gen3d.core.files import require_regular, shown
from gen3d.imaging.foreign import ForeignImage, read_foreign, read_own
from gen3d.imaging.orientation import Affine, OrientationRule

SLOPE = 1.0 / 8192.0
"""Stored volumes are int16 with this slope: a range of -4 to 4 in steps of 1.2e-4."""

MIN_VOXELS_PER_SIDE = 8
LEAST_CONTRAST = 1e-3  # of the largest magnitude
INTENSITIES = (1e-12, 1e12)  # of the largest magnitude: others come from a wrong data type or scale

Float3D = NDArray[np.float32]


@dataclass(frozen=True)
class Volume:
    """A 3D image in closest-canonical (RAS+) axis order: data [X, Y, Z], affine voxel -> world mm (RAS).

    `assumed` means that the user said what its axes are: its world has its origin at its own centre.
    """

    data: Float3D
    affine: Affine
    assumed: bool = False

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])


def read_volume(path: Path, rule: OrientationRule | None = None) -> Volume:
    """Read one 3D scan (see `read_foreign` for the formats) as float32 in RAS+ axis order.

    Raises:
        UserError: see `read_scan`.
    """
    return read_scan(path, rule).volume()


@dataclass(frozen=True)
class Scan:
    """A scan as it is stored: data [I, J, K] float32, affine [4, 4] voxel -> world mm (RAS); see `Volume` for `assumed`."""

    data: Float3D
    affine: Affine
    assumed: bool = False

    def volume(self) -> Volume:
        """The scan with its axes turned to the closest of right, front and top."""
        turned = ForeignImage(Path(), self.data, self.affine).canonical()
        return Volume(np.ascontiguousarray(turned.data, dtype=np.float32), turned.affine, self.assumed)


def read_scan(path: Path, rule: OrientationRule | None = None) -> Scan:
    """Read one 3D scan and check that it can be one.

    Args:
        path: the file.
        rule: what the user said about orientations that headers do not tell, see `affine_of`.

    Raises:
        UserError: what `read_foreign` refuses; fewer than 8 voxels along a side; empty, constant or non-finite data, or
            values that are no intensities. The sentence names the file and the remedy.
    """
    image = read_foreign(path, rule)
    if min(image.data.shape) < MIN_VOXELS_PER_SIDE:
        raise UserError(
            f"{path}: has only {min(image.data.shape)} voxels along one side {image.data.shape}; a whole-brain scan is needed."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        data = np.asarray(image.data, dtype=np.float32)
    _check_values(path, data)
    return Scan(data, image.affine, image.assumed)


def _check_values(path: Path, data: Float3D) -> None:
    low, high = float(data.min()), float(data.max())  # not finite if any voxel is not
    if not np.isfinite(high - low):
        bad = int(data.size - np.isfinite(data).sum())
        raise UserError(f"{path}: {bad} voxels are NaN or infinite; export it again or set them to 0.")
    if low == high:
        raise UserError(f"{path}: every voxel has the same value ({low:g}); the export failed.")
    if _nearly_constant(data.ravel(order="K")):
        raise UserError(f"{path}: nearly all voxels have the same value; the export failed.")
    if not INTENSITIES[0] < max(abs(low), abs(high)) < INTENSITIES[1]:
        raise UserError(
            f"{path}: values from {low:g} to {high:g} are no intensities; check the data type and the scaling in its header."
        )
    if high - low < LEAST_CONTRAST * max(abs(low), abs(high)):
        raise UserError(
            f"{path}: its values differ by {high - low:g} only, from {low:.8g} to {high:.8g}; check the scaling in its header."
        )


def _nearly_constant(values: Float3D) -> bool:
    """Whether fewer than a thousandth differ from the median; a sample says first whether that is worth computing."""
    sample = values[:: max(1, values.size // 100_000)]
    if np.count_nonzero(sample != np.median(sample)) > 0.05 * sample.size:
        return False
    return bool(np.count_nonzero(values != np.median(values)) < 0.001 * values.size)


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
        size = require_regular(path).st_size
        image: Any = nib.load(path, mmap=True)
        mapped: NDArray[np.int16] = image.dataobj.get_unscaled()
        claimed = int(image.dataobj.offset) + mapped.nbytes
        if claimed != size:
            raise ValueError(f"{size} bytes instead of {claimed}")
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
    return read_map_and_affine(path)[0]


def read_map_and_affine(path: Path) -> tuple[Float3D, Affine]:
    """A map or mask that gen3d wrote itself, float32 [X, Y, Z], and its affine [4, 4].

    Raises:
        UserError: no such file, or a damaged one.
    """
    try:
        image = read_own(path)
    except UserError:  # it says what is wrong with the file
        raise
    except Exception as error:
        raise UserError(
            f"{shown(path)}: cannot be read ({_short(error)}); run the verb that wrote this folder again."
        ) from None
    return np.asarray(image.data, dtype=np.float32), image.affine
