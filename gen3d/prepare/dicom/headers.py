"""The headers of DICOM files as plain values: what tells a series, its person and its geometry. Pixels are not read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.core.errors import UserError
from gen3d.core.files import is_regular, open_regular
from gen3d.core.progress import track
from gen3d.imaging.streams import DICOM, DICOM_AT

EXTRA = "pip install 'gen3d[dicom]'"
GROUP_8 = (b"\x08\x00", b"\x02\x00")
"""How a file without the preamble begins: the element group 0008, or 0002, in little-endian order."""
DIRECTORY = "dicomdir"

TEXTS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge",
    "StudyInstanceUID", "StudyDate", "SeriesInstanceUID", "SeriesDescription", "ProtocolName", "SequenceName",
    "PulseSequenceName", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "AcquisitionNumber", "MRAcquisitionType",
    "ScanningSequence", "BurnedInAnnotation", "ConversionType", "ContrastBolusAgent", "LossyImageCompression",
    "Manufacturer", "ManufacturerModelName", "ComplexImageComponent", "InstitutionName",
)  # fmt: skip
NUMBERS = (
    "SeriesNumber", "InstanceNumber", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "SliceThickness",
    "SpacingBetweenSlices", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames", "ImagesInAcquisition",
    "MagneticFieldStrength",
)  # fmt: skip
LISTS = ("ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
IMAGE_TYPE_TEXT = (0x0021, 0x1175)
"""Where Siemens keeps DIS2D, DIS3D, ND and NORM since XA30."""
IMPLICIT = "1.2.840.10008.1.2"
NATIVE = (IMPLICIT, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes whose pixels are not compressed."""


@dataclass(frozen=True)
class SliceFrame:
    """One slice: its position and the directions of its rows and columns (mm, LPS), and its echo time in ms."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    echo_ms: float


@dataclass(frozen=True)
class Instance:
    """One file: its texts and numbers by DICOM's keywords ("" and NaN where absent), words of its image type, and its slices.

    `num_bytes` are those from its pixels on.
    """

    path: Path
    num_bytes: int
    syntax: str
    texts: dict[str, str]
    numbers: dict[str, float]
    image_type: tuple[str, ...]
    pixel_mm: tuple[float, ...]
    frames: tuple[SliceFrame, ...] = field(repr=False)

    @property
    def is_short(self) -> bool:
        """Whether a file of uncompressed pixels ends before they do."""
        needed = [self.numbers[name] for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")]
        size = float(np.nanprod([*needed, len(self.frames), 1 / 8]))
        return self.syntax in NATIVE and all(np.isfinite(needed)) and self.num_bytes < size


def require_pydicom() -> Any:
    """pydicom, which reads headers.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise UserError(f"DICOM sources need pydicom, which is not installed; {EXTRA}.") from None
    return pydicom


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file below a folder in the order of names; links are not followed, and directories of DICOM are no images."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if name.lower() != DIRECTORY and not name.startswith(".") and not path.is_symlink() and is_regular(path):
                yield path


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by how it begins."""
    try:
        with open_regular(path) as stream:
            start = stream.read(DICOM_AT + len(DICOM))
    except OSError:
        return False
    return start[DICOM_AT:] == DICOM or (len(start) > DICOM_AT and start[:2] in GROUP_8 and start[4:6].isalpha())


def read_headers(paths: Iterable[Path]) -> tuple[list[Instance], int]:
    """The images among files, and how many files could not be read as DICOM."""
    pydicom = require_pydicom()
    instances, num_damaged = [], 0
    for path in track(list(paths), "reading headers"):
        if not is_dicom(path):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # values against the standard are common, and judged here
                instance = _instance(pydicom, path)
        except Exception:  # whatever a damaged header makes of pydicom, the file is named by its number only
            num_damaged += 1
            continue
        if instance is not None:
            instances.append(instance)
    return instances, num_damaged


def _instance(pydicom: Any, path: Path) -> Instance | None:
    """One file's header; None for a directory of DICOM."""
    wanted = [*TEXTS, *NUMBERS, *LISTS, *SEQUENCES, pydicom.tag.Tag(IMAGE_TYPE_TEXT)]
    with open_regular(path) as stream:
        header = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=wanted)
        num_bytes = path.stat().st_size - stream.tell()
    texts = {name: _text(header, name) for name in TEXTS}
    if not texts["SOPClassUID"] or "DirectoryRecordSequence" in header:
        return None
    numbers = {name: _number(header, name) for name in NUMBERS}
    words = [str(word).upper() for word in _sequence_of(header.get("ImageType"))]
    if IMAGE_TYPE_TEXT in header:
        value = header[IMAGE_TYPE_TEXT].value
        value = value.decode("ascii", "replace").split("\\") if isinstance(value, bytes) else _sequence_of(value)
        words += [str(word).strip().upper() for word in value]
    shared = _first(header.get("SharedFunctionalGroupsSequence"))
    pixel_mm = _floats(header.get("PixelSpacing"))
    if shared is not None:
        measures, timing = (
            _first(shared.get("PixelMeasuresSequence")),
            _first(shared.get("MRTimingAndRelatedParametersSequence")),
        )
        pixel_mm = pixel_mm or _floats(measures.get("PixelSpacing") if measures else None)
        for source, names in (
            (measures, ("SliceThickness", "SpacingBetweenSlices")),
            (timing, ("RepetitionTime", "FlipAngle")),
        ):
            numbers |= {name: _number(source, name) for name in names if source is not None and name in source}
    frames = _frames(header, shared, numbers)
    if np.isnan(numbers["EchoTime"]) and frames:
        numbers["EchoTime"] = frames[0].echo_ms
    syntax = str(getattr(header.file_meta, "TransferSyntaxUID", IMPLICIT))
    return Instance(path, num_bytes, syntax, texts, numbers, tuple(words), pixel_mm, frames)


def _frames(header: Any, shared: Any, numbers: dict[str, float]) -> tuple[SliceFrame, ...]:
    """The slices of a file: one, or those of an enhanced one."""
    each = _sequence_of(header.get("PerFrameFunctionalGroupsSequence"))
    if not each:
        plane = _floats(header.get("ImagePositionPatient")), _floats(header.get("ImageOrientationPatient"))
        return (SliceFrame(*plane, numbers["EchoTime"]),)

    def find(frame: Any, group: str, name: str) -> Any:
        item = _first(frame.get(group)) or (_first(shared.get(group)) if shared is not None else None)
        return item.get(name) if item is not None else None

    frames = []
    for frame in each:
        echo = find(frame, "MREchoSequence", "EffectiveEchoTime")
        position = _floats(find(frame, "PlanePositionSequence", "ImagePositionPatient"))
        orientation = _floats(find(frame, "PlaneOrientationSequence", "ImageOrientationPatient"))
        frames.append(SliceFrame(position, orientation, float("nan") if echo is None else float(echo)))
    return tuple(frames)


def _sequence_of(value: Any) -> Sequence[Any]:
    if value is None or value == "":
        return ()
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _text(header: Any, name: str) -> str:
    value = header.get(name)
    if value is None:
        return ""
    parts = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    return "\\".join(str(part) for part in parts).strip().strip("\0")


def _number(header: Any, name: str) -> float:
    numbers = _floats(header.get(name))
    return numbers[0] if numbers else float("nan")


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(part) for part in _sequence_of(value))
