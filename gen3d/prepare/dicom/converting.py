"""One series to one NIfTI image by dcm2niix, checked against what its headers promised, its own header emptied of texts."""

from __future__ import annotations

import gzip
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.pool import run_program
from gen3d.prepare.dicom.headers import EXTRA
from gen3d.prepare.dicom.series import Series, stacked

OPTIONS = ("-g", "i", "-b", "y", "-ba", "y", "-z", "n", "-x", "i", "-i", "n", "-w", "0", "-l", "o", "-f", "%s_%e")
"""No settings of the user's own, a sidecar without names, nothing cropped, turned, or left out by dcm2niix's own judgement."""
LOST_SLICES, TILTED = "_Eq", "_Tilt"
NO_IMAGE = ("_ph", "_real", "_imaginary", "_ROI", "_MoCo", "_ADC")
SOME_FAILED = 8
"""Exit code of dcm2niix where it converted some of the files."""
TEXT_FIELDS = ((14, 18), (148, 80), (228, 24), (328, 16))
"""Offsets and lengths in a NIfTI-1 header of db_name, descrip (which holds times), aux_file and intent_name."""


class NotConverted(Exception):
    """A series that dcm2niix makes no sound image of; its text is the reason, as the end of a sentence."""


@dataclass(frozen=True)
class Converted:
    """The bytes of a .nii.gz, and dcm2niix's sidecar."""

    image: bytes
    sidecar: dict[str, Any]


def dcm2niix_program() -> str:
    """dcm2niix of its package, or the one on the PATH.

    Raises:
        UserError: there is none.
    """
    found = importlib.util.find_spec("dcm2niix")
    packaged = Path(found.origin).with_name("dcm2niix") if found is not None and found.origin else None
    if packaged is not None and packaged.is_file():
        return str(packaged)
    on_path = shutil.which("dcm2niix")
    if on_path is None:
        raise UserError(f"DICOM sources need the program dcm2niix, which is not installed; {EXTRA}.")
    return on_path


def convert(series: Series, scratch: Path) -> Converted:
    """Convert a series; `scratch` is an empty folder.

    Raises:
        NotConverted: with the reason.
        UserError: dcm2niix is not installed.
    """
    source, target = scratch / "in", scratch / "out"
    source.mkdir()
    target.mkdir()
    for number, instance in enumerate(series.instances):
        (source / f"{number:06d}.dcm").symlink_to(instance.path.resolve())
    done = run_program([dcm2niix_program(), *OPTIONS, "-o", str(target), str(source)])
    if done.returncode == SOME_FAILED:
        raise NotConverted("dcm2niix could not convert all of its files, so slices would be missing")
    images = sorted(target.glob("*.nii"))
    if any(image.stem.endswith(LOST_SLICES) or f"{LOST_SLICES}_" in image.stem for image in images):
        raise NotConverted("slices are missing (dcm2niix had to make the distances equal)")
    images = [image for image in images if not image.stem.endswith((*NO_IMAGE, TILTED))]
    if done.returncode != 0 or not images:
        raise NotConverted(f"dcm2niix made no image of it (exit code {done.returncode}): damaged or truncated")
    if len(images) != max(1, len(series.echoes_ms)):
        raise NotConverted(f"dcm2niix made {len(images)} images of it, so it holds different images")
    for image in images:
        _check(series, image)
    try:
        sidecar = load_object(images[0].with_suffix(".json"))
    except (OSError, ValueError):
        sidecar = {}
    return Converted(
        _cleaned(images[0].read_bytes() if len(images) == 1 else _root_mean_square(images, scratch)), sidecar
    )


def _check(series: Series, image: Path) -> None:
    """Refuse an image with other slices than the headers have."""
    loaded: Any = nib.load(image)
    shape, expected = loaded.shape, stacked(series).num_slices
    if len(shape) != 3:
        raise NotConverted(f"{len(shape)} dimensions ({' x '.join(map(str, shape))}): a series over time")
    if expected not in shape:
        raise NotConverted(f"dcm2niix made {shape[2]} slices of {expected}")


def _root_mean_square(images: list[Path], scratch: Path) -> bytes:
    """Echoes combined as the scanner would (van der Kouwe et al., NeuroImage 2008); bytes of a NIfTI file."""
    loaded: list[Any] = [nib.load(image) for image in images]
    first, total = loaded[0], np.zeros(loaded[0].shape)
    for image in loaded:
        total += np.asarray(image.dataobj, dtype=np.float64) ** 2
    combined = nib.Nifti1Image(np.sqrt(total / len(images)).astype(np.float32), first.affine)
    combined.set_qform(first.affine, code=1)
    combined.set_sform(first.affine, code=1)
    path = scratch / "combined.nii"
    nib.save(combined, path)
    return path.read_bytes()


def _cleaned(content: bytes) -> bytes:
    """A NIfTI-1 file with empty texts in its header, packed without a name or time."""
    header = bytearray(content)
    for offset, length in TEXT_FIELDS:
        header[offset : offset + length] = bytes(length)
    return gzip.compress(bytes(header), compresslevel=6, mtime=0)
