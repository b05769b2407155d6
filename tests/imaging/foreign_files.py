"""Small image files of every format that is read, and edits of their bytes behind nibabel's back."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHAPE = (12, 14, 10)
AFFINE = np.array([[2.0, 0, 0, -11], [0, 2, 0, -13], [0, 0, 2, -9], [0, 0, 0, 1]])
"""Voxels of 2 mm in RAS order, their grid centred at the origin."""

FIELDS = {  # offset and type of header fields of NIfTI-1
    "dim": (40, "<i2"),
    "datatype": (70, "<i2"),
    "bitpix": (72, "<i2"),
    "pixdim": (76, "<f4"),
    "vox_offset": (108, "<f4"),
    "scl_slope": (112, "<f4"),
    "scl_inter": (116, "<f4"),
    "xyzt_units": (123, "u1"),
    "qform_code": (252, "<i2"),
    "sform_code": (254, "<i2"),
    "quatern": (256, "<f4"),
    "qoffset": (268, "<f4"),
    "srow_x": (280, "<f4"),
    "srow_y": (296, "<f4"),
    "srow_z": (312, "<f4"),
    "magic": (344, "u1"),
    "extension": (348, "u1"),
}


def values(seed: int = 0, dtype: str = "int16") -> Array:
    """[12, 14, 10] positive noise with a bright block on the right, in front, and on top."""
    data = np.random.default_rng(seed).integers(1, 100, SHAPE)
    data[8:11, 9:12, 6:9] = 1000
    return data.astype(dtype)


def nifti(path: Path, data: Array, affine: Array = AFFINE, codes: tuple[int, int] = (1, 1), kind: Any = None) -> Path:
    """Write a NIfTI file with (sform code, qform code), both affines as given."""
    image = (kind or nib.Nifti1Image)(data, affine)
    image.set_sform(affine, code=codes[0])
    image.set_qform(affine, code=codes[1])
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def edited(path: Path, field: str, *content: float, index: int = 0) -> Path:
    """Write into a header field of a NIfTI-1 file, from its value number `index` on; a gzip stream is made anew."""
    place, kind = FIELDS[field]
    raw = np.array(content, dtype=kind).tobytes()
    place += index * np.dtype(kind).itemsize
    return rewritten(path, lambda data: data[:place] + raw + data[place + len(raw) :])


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Change a file's bytes, those inside its gzip stream where it is one."""
    packed = path.name.endswith(("gz", "mgz"))
    data = change(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return path


def _pair(path: Path, data: Array, affine: Array) -> Path:
    return nifti(path.with_suffix(".img"), data, affine, kind=nib.Nifti1Pair)


def _mgz(path: Path, data: Array, affine: Array) -> Path:
    nib.save(nib.MGHImage(data, affine), path.with_suffix(".mgz"))
    return path.with_suffix(".mgz")


def _big_endian(path: Path, data: Array, affine: Array) -> Path:
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(data, affine, header)
    image.header.set_data_dtype(data.dtype.newbyteorder(">"))
    nib.save(image, path)
    return path


def _with_extension(path: Path, data: Array, affine: Array) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a scanner's remark"))
    nib.save(image, path)
    return path


def _scaled(path: Path, data: Array, affine: Array) -> Path:
    nifti(path, data, affine)
    return edited(path, "scl_slope", 1.0, 0.0)


FORMATS: dict[str, Callable[[Path, Array, Array], Path]] = {
    "compressed": lambda path, data, affine: nifti(path.with_suffix(".nii.gz"), data, affine),
    "plain": nifti,
    "sform alone": lambda path, data, affine: nifti(path, data, affine, (2, 0)),
    "qform alone": lambda path, data, affine: nifti(path, data, affine, (0, 1)),
    "two codes": lambda path, data, affine: nifti(path, data, affine, (4, 1)),
    "NIfTI-2": lambda path, data, affine: nifti(path, data, affine, kind=nib.Nifti2Image),
    "pair": _pair,
    "MGZ": _mgz,
    "fourth dimension of 1": lambda path, data, affine: nifti(path, data[..., None], affine),
    "big-endian": _big_endian,
    "extension": _with_extension,
    "scaled": _scaled,
    "no slope": lambda path, data, affine: edited(nifti(path, data, affine), "scl_slope", np.nan, np.nan),
    "no unit": lambda path, data, affine: edited(nifti(path, data, affine), "xyzt_units", 0),
    "no bits": lambda path, data, affine: edited(nifti(path, data, affine), "bitpix", 0),
    "rounded sizes": lambda path, data, affine: edited(nifti(path, data, affine, (1, 0)), "pixdim", 2.01, index=1),
}
"""name -> writer(path ending in .nii, data [I, J, K], affine), which returns the path to read."""
