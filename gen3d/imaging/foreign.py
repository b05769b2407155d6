"""Images that gen3d did not write, of any kind: proven whole, their headers compared with themselves, their sides known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.core.files import require_regular
from gen3d.imaging.headers import Header, check_mgh_footer, read_mgh_header, read_nifti_header, voxels
from gen3d.imaging.orientation import Affine, OrientationRule, affine_of, says_orientation
from gen3d.imaging.streams import Claim, proven

SINGLE_FILES = (".nii", ".nii.gz")
MGH_FILES = (".mgh", ".mgz", ".mgh.gz")
PAIRS = ((".hdr", ".img"), (".hdr.gz", ".img.gz"))
MAY_FOLLOW_A_HEADER = 1 << 20  # bytes of extensions in the .hdr of a pair


@dataclass(frozen=True)
class ForeignImage:
    """One volume as it is stored: `data` [I, J, K] of a number type, `affine` [4, 4] voxel -> world mm (RAS).

    `assumed` means that its axes are those that the user said, its header giving none: its origin is its own centre.
    """

    path: Path
    data: NDArray[Any]
    affine: Affine
    assumed: bool = False

    def canonical(self) -> ForeignImage:
        """The same image with its axes turned to the closest of right, front and top."""
        turn = nib.orientations.io_orientation(self.affine)
        if np.isnan(turn).any():
            raise UserError(f"{self.path}: its affine is singular, so the orientation is unknown; convert it again.")
        back = nib.orientations.inv_ornt_aff(turn, self.data.shape)
        return ForeignImage(
            self.path, nib.orientations.apply_orientation(self.data, turn), self.affine @ back, self.assumed
        )


def read_foreign(path: Path, rule: OrientationRule | None = None) -> ForeignImage:
    """Read one 3D image of numbers: NIfTI-1 or -2 (.nii, .nii.gz, .hdr and .img), Analyze 7.5, MGH (.mgh, .mgz).

    Raises:
        UserError: no such file, a damaged one, a header that contradicts itself (see `headers` and `orientation`), more than
            one volume, or voxels that are no numbers. The sentence names the file, the values and the remedy.
    """
    require_regular(path)
    name = path.name.lower()
    try:
        if name.endswith(MGH_FILES):
            header, data = _mgh(path)
        elif name.endswith(SINGLE_FILES):
            header, data = _nifti(path)
        elif len(files_of(path)) == 2:
            header, data = _pair(*files_of(path))
        else:
            raise UserError(
                f"{path}: not a readable NIfTI or MGH image (its name ends with none of .nii, .nii.gz, .hdr, .img, .mgh, .mgz); "
                "convert it."
            )
        shape = _three_sides(path, header.shape)
        affine = affine_of(path, header, rule)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not a readable NIfTI or MGH image ({_short(error)}); convert it again.") from None
    if data.dtype.kind not in "iufb":
        raise UserError(f"{path}: voxels are of type {data.dtype}, not numbers; convert it to a scalar image.")
    return ForeignImage(path, data.reshape(shape), affine, not says_orientation(header))


def read_own(path: Path) -> ForeignImage:
    """A NIfTI image that gen3d wrote, of any shape: proven whole, without the checks that a scan's header needs.

    Raises:
        UserError: no such file, or a damaged one.
    """
    header, data = _nifti(path)
    return ForeignImage(path, data, np.asarray(header.fields.get_best_affine(), dtype=np.float64))


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that make up an image: header and voxels of a pair, whichever is named; otherwise the file itself."""
    for suffixes in PAIRS:
        for suffix in suffixes:
            if path.name.lower().endswith(suffix):
                stem = path.name[: -len(suffix)]
                upper = path.name[-len(suffix) :].isupper()
                header, data = (path.with_name(stem + (end.upper() if upper else end)) for end in suffixes)
                return header, data
    return (path,)


def _nifti(path: Path) -> tuple[Header, NDArray[Any]]:
    found: list[Header] = []

    def claim(block: bytes) -> Claim:
        found.append(read_nifti_header(path, block, single=True))
        return found[0].claim

    stream = proven(path, claim)
    return found[0], voxels(found[0], stream)


def _pair(header_path: Path, data_path: Path) -> tuple[Header, NDArray[Any]]:
    found: list[Header] = []

    def claim(block: bytes) -> Claim:
        found.append(read_nifti_header(header_path, block, single=False))
        return Claim(348, 0, MAY_FOLLOW_A_HEADER)

    proven(header_path, claim)
    header = found[0]
    stream = proven(data_path, lambda block: header.claim)
    return header, voxels(header, stream)


def _mgh(path: Path) -> tuple[Header, NDArray[Any]]:
    found: list[Header] = []

    def claim(block: bytes) -> Claim:
        found.append(read_mgh_header(path, block))
        return found[0].claim

    stream = proven(path, claim)
    header = found[0]
    stream.seek(header.claim.size)
    check_mgh_footer(path, stream.read())
    return header, voxels(header, stream)


def _three_sides(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    kept = shape[:3] if all(side == 1 for side in shape[3:]) else shape
    if len(kept) != 3:
        raise UserError(f"{path}: has {len(kept)} dimensions {kept}, one volume has 3; extract one volume from it.")
    return kept[0], kept[1], kept[2]


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 120 else text[:117] + "..."
