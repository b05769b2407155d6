"""What the header of an image file claims, and whether its parts agree: sizes, types, scaling, units, offsets, tags.

Two values that contradict each other are refused with both in the sentence. What is usual in practice passes by rule: no
bits per voxel (0); no units (0 means mm); no scaling (slope 0 or NaN, with an intercept of 0 or NaN); voxels that begin
later than the header ends, with or without extensions in between; an unused fourth dimension of 1.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader

from gen3d.core.errors import UserError
from gen3d.imaging.streams import Claim

NIFTI_SIZES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
SINGLE, PAIR = (b"n+1\0", b"n+2\0"), (b"ni1\0", b"ni2\0")
UNITS = {0: "not given", 1: "metre", 2: "mm", 3: "micron"}
MGH_DATA = 284  # bytes before the voxels
MGH_TYPES = (0, 1, 3, 4)
MGH_MAY_FOLLOW = 16 << 20  # bytes of scan parameters and tags after the voxels of an MGH file
MGH_PARAMETERS = 20  # of these bytes, five numbers: TR, flip angle, TE, TI, field of view
MGH_TAGS_WITHOUT_LENGTH = (1, 2, 20, 30)
MGH_LAST_TAG = 1000
MGH_LARGEST_PARAMETER = 1e7
MGH_PADDING = 16  # zeros after the last tag
SCALES = (1e-12, 1e12)  # of a slope


@dataclass(frozen=True)
class Header:
    """A parsed header. `kind` is "nifti", "analyze" or "mgh"; `fields` is nibabel's header, unmended."""

    kind: str
    fields: Any
    offset: int
    """Byte at which the voxels begin in the file that holds them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """All dimensions, as stored."""
        return tuple(int(side) for side in self.fields.get_data_shape())

    @property
    def claim(self) -> Claim:
        """The bytes and voxels of the file that holds the voxels."""
        num_voxels = math.prod(self.shape)
        size = self.offset + num_voxels * int(self.fields.get_data_dtype().itemsize)
        return Claim(size, num_voxels, MGH_MAY_FOLLOW if self.kind == "mgh" else 0)


def read_nifti_header(path: Path, block: bytes, single: bool) -> Header:
    """Parse and check the header of a NIfTI-1 or -2 file, or of a NIfTI or Analyze 7.5 pair.

    Args:
        path: named in sentences.
        block: the file's first bytes.
        single: the voxels follow in the same file.

    Raises:
        UserError: no such header, or one whose parts contradict each other.
    """
    size, order = _size_and_order(path, block)
    fields: Any = NIFTI_SIZES[size](block[:size], order, check=False)
    magic = bytes(block[344:348]) if size == 348 else bytes(block[4:8])
    if single and magic in PAIR:
        raise UserError(
            f"{path}: says that its voxels are in another file (.img); rename it to .hdr, or convert it again."
        )
    if not single and magic in SINGLE:
        raise UserError(f"{path}: says that its voxels are in the same file; rename it to .nii, or convert it again.")
    header = Header("nifti", fields, 0)
    if magic not in (*SINGLE, *PAIR):
        if single or size != 348:
            raise _unreadable(path, f"its magic is {magic!r}")
        header = Header("analyze", nib.Spm2AnalyzeHeader(block[:size], order, check=False), 0)
    else:
        _check_units(path, int(fields["xyzt_units"]))
    _check_scaling(path, float(header.fields["scl_slope"]), float(header.fields["scl_inter"]))
    _check_dimensions(path, [int(side) for side in fields["dim"]])
    _check_type(path, header)
    offset = _offset(path, float(fields["vox_offset"]), size + 4 if single else 0)
    if single:
        _check_extensions(path, block, size, offset, order)
    header.fields["vox_offset"] = offset
    return Header(header.kind, header.fields, offset)


def read_mgh_header(path: Path, block: bytes) -> Header:
    """Parse and check the header of an MGH file.

    Raises:
        UserError: no such header, or one that contradicts itself.
    """
    if len(block) < MGH_DATA:
        raise _unreadable(path, f"{len(block)} bytes")
    version, *dims, kind, _ = struct.unpack(">7i", block[:28])
    if version != 1 or min(dims) < 1:
        raise _unreadable(path, f"version {version}, dimensions {dims}")
    if kind not in MGH_TYPES:
        raise _unreadable(path, f"unknown voxel type {kind}")
    (flag,) = struct.unpack_from(">h", block, 28)
    if flag != 1:
        raise UserError(
            f"{path}: has goodRASFlag {flag}, so its voxel sizes and its left and right are not known; write them (mri_convert)."
        )
    return Header("mgh", MGHHeader(block[:MGH_DATA], check=False), MGH_DATA)


def check_mgh_footer(path: Path, rest: bytes) -> None:
    """What follows the voxels of an MGH file must be scan parameters and tags: other bytes are voxels that the header denies.

    Raises:
        UserError: it is something else.
    """
    numbers = np.frombuffer(rest[:MGH_PARAMETERS], dtype=">f4", count=len(rest[:MGH_PARAMETERS]) // 4)
    good, place = bool((np.abs(numbers) < MGH_LARGEST_PARAMETER).all()), MGH_PARAMETERS
    while good and place + 12 <= len(rest):
        tag, length = struct.unpack_from(">iq", rest, place)
        if tag in MGH_TAGS_WITHOUT_LENGTH:
            return
        if tag == 0:
            break
        good = 0 < tag <= MGH_LAST_TAG and 0 <= length <= len(rest) - place - 12
        place += 12 + length
    if not good or len(rest) - place > MGH_PADDING or rest[place:].strip(b"\0"):
        raise UserError(
            f"{path}: {len(rest)} bytes follow the voxels that its header claims, and they are no tags of FreeSurfer; convert it "
            "again."
        )


def voxels(header: Header, stream: BytesIO) -> np.ndarray[Any, Any]:
    """The array of all dimensions, scaled as the header says."""
    return np.asanyarray(nib.arrayproxy.ArrayProxy(stream, header.fields, mmap=False))


def _size_and_order(path: Path, block: bytes) -> tuple[int, str]:
    for order in "<>":
        if (
            len(block) >= 4
            and (size := struct.unpack_from(f"{order}i", block)[0]) in NIFTI_SIZES
            and len(block) >= size
        ):
            return int(size), order
    raise _unreadable(path, "it begins with no header")


def _check_dimensions(path: Path, dim: list[int]) -> None:
    num, sides = dim[0], dim[1:]
    if not 1 <= num <= 7 or min(sides[:num]) < 1:
        raise _unreadable(path, f"{num} dimensions of {sides[: max(1, min(num, 7))]} voxels")


def _check_type(path: Path, header: Header) -> None:
    code, bits = int(header.fields["datatype"]), int(header.fields["bitpix"])
    try:
        dtype = header.fields.get_data_dtype()
    except Exception:
        raise _unreadable(path, f"unknown data type {code}") from None
    wanted = 8 * int(dtype.itemsize)
    if not wanted:
        raise _unreadable(path, f"data type {code} has no voxels of whole bytes")
    if bits not in (0, wanted):
        raise UserError(
            f"{path}: its header says data type {code} ({wanted} bits a voxel) and {bits} bits a voxel; convert it again."
        )


def _check_units(path: Path, code: int) -> None:
    unit = code & 7
    if unit not in (0, 2):
        raise UserError(
            f"{path}: its header gives sizes in {UNITS.get(unit, f'an unknown unit (code {unit})')}, not in mm; write them in mm "
            "(nibabel: header.set_xyzt_units)."
        )


def _check_scaling(path: Path, slope: float, inter: float) -> None:
    scaled = math.isfinite(slope) and slope != 0
    if scaled and not (SCALES[0] <= abs(slope) <= SCALES[1] and abs(inter) <= SCALES[1]):
        raise UserError(
            f"{path}: its header scales voxels by {slope:g} and adds {inter:g}; mend the header (scl_slope, scl_inter)."
        )
    if not scaled and not (inter == 0 or math.isnan(inter)):
        raise UserError(
            f"{path}: its header says that voxels are not scaled (slope {slope:g}) but adds {inter:g}; mend the header."
        )


def _offset(path: Path, offset: float, least: int) -> int:
    if offset == 0:
        return least
    if not offset >= least or not math.isfinite(offset) or offset != int(offset):
        raise UserError(
            f"{path}: its voxels begin at byte {offset:g} by its header, which itself ends at byte {least}; convert it again."
        )
    return int(offset)


def _check_extensions(path: Path, block: bytes, size: int, offset: int, order: str) -> None:
    """Extensions are stepped over: only that they end before the voxels matters."""
    place = size + 4
    if len(block) < place or block[size] == 0:
        return
    while place + 8 <= min(offset, len(block)):
        (length,) = struct.unpack_from(f"{order}i", block, place)
        if length < 8 or place + length > offset:
            raise UserError(
                f"{path}: an extension of its header is {length} bytes long and would end at byte {place + length}, but voxels "
                f"begin at byte {offset}; convert it again."
            )
        place += length


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: not a readable NIfTI or MGH image ({reason}); convert it again.")
