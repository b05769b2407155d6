"""A scanner for tests: series written by pydicom, with every trap on request."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

MR, ENHANCED, CAPTURE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.7"
NUM_SLICES, SPACING_MM = 80, 1.5
LPS = np.diag([-1.0, -1.0, 1.0])
NAME = "Doe^Jane Maria"


def head(num_slices: int = NUM_SLICES, seed: int = 0) -> NDArray[np.uint16]:
    """A stack [I, J, K] in which no two voxels of a line are alike."""
    return np.random.default_rng(seed).integers(1, 1000, (18, 16, num_slices)).astype(np.uint16)


def slanted() -> NDArray[np.float64]:
    """An affine (RAS, mm) of sagittal slices, a little oblique."""
    turn = Rotation.from_euler("xyz", [3.0, -2.0, 4.0], degrees=True).as_matrix() @ [[0, 0, -1], [1, 0, 0], [0, -1, 0]]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * SPACING_MM, (-60.0, -90.0, -40.0)
    return affine


def write_series(
    folder: Path,
    data: NDArray[np.uint16] | None = None,
    affine: NDArray[np.float64] | None = None,
    study: str = "1.2.3.1",
    number: int = 1,
    slices: Sequence[int] | None = None,
    changes: Mapping[str, Any] | None = None,
    rle: bool = False,
) -> list[Path]:
    """Write one file per slice (those of `slices`); `changes` are elements by keyword. Returns the files."""
    data = head() if data is None else data
    affine = slanted() if affine is None else affine
    series, frame_uid = generate_uid(entropy_srcs=[str(folder), study, str(number)]), generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    header = _header(data, affine, study, series, number)
    header.FrameOfReferenceUID, header.ImageOrientationPatient = frame_uid, _orientation(affine)
    for keyword, value in (changes or {}).items():
        setattr(header, keyword, value)
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    files = []
    for place in range(data.shape[2]) if slices is None else slices:
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        header.InstanceNumber = place + 1
        header.ImagePositionPatient = _written(LPS @ (affine @ [0, 0, place, 1])[:3])
        header.PixelData = np.ascontiguousarray(data[:, :, place].T).tobytes()
        if rle:
            header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            header.compress(RLELossless, generate_instance_uid=False)
        path = folder / f"IM{number:03d}{place:04d}{int(header.get('EchoNumbers') or 1)}"
        header.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def write_enhanced(folder: Path, data: NDArray[np.uint16] | None = None, number: int = 1) -> Path:
    """One file with all slices of a series."""
    data, affine = head() if data is None else data, slanted()
    header = _header(data, affine, "1.2.3.1", generate_uid(), number)
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = ENHANCED
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.ImageType, header.NumberOfFrames = ["ORIGINAL", "PRIMARY", "T1", "NONE"], data.shape[2]
    header.ComplexImageComponent, header.InstanceNumber = "MAGNITUDE", 1
    shared, measures, timing = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = header.PixelSpacing, header.SliceThickness
    timing.RepetitionTime, timing.FlipAngle = header.RepetitionTime, header.FlipAngle
    del header.PixelSpacing, header.SliceThickness
    shared.PixelMeasuresSequence, shared.MRTimingAndRelatedParametersSequence = Items([measures]), Items([timing])
    header.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for place in range(data.shape[2]):
        frame, position, plane, echo, content = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = _written(LPS @ (affine @ [0, 0, place, 1])[:3])
        plane.ImageOrientationPatient, echo.EffectiveEchoTime = _orientation(affine), 2.9
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", place + 1, [1, place + 1]
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = Items([position]), Items([plane])
        frame.MREchoSequence, frame.FrameContentSequence = Items([echo]), Items([content])
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = Items(frames)
    header.PixelData = np.ascontiguousarray(data.transpose(2, 1, 0)).tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    header.save_as(folder / f"EN{number:03d}", enforce_file_format=True)
    return folder / f"EN{number:03d}"


def _header(data: NDArray[np.uint16], affine: NDArray[np.float64], study: str, series: str, number: int) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.Modality = MR, "MR"
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = (
        NAME,
        "HOSP-4711",
        "19500601",
        "F",
    )
    header.PatientAge, header.StudyDate, header.StudyTime = "070Y", "20200901", "121816"
    header.StudyInstanceUID, header.SeriesInstanceUID, header.SeriesNumber = study, series, number
    header.SeriesDate, header.SeriesTime = header.StudyDate, f"1300{number:02d}"
    header.AcquisitionDate, header.AcquisitionTime, header.AcquisitionNumber = "20200901", f"1300{number:02d}", number
    header.InstitutionName, header.ReferringPhysicianName, header.AccessionNumber = (
        "St Elsewhere",
        "House^Gregory",
        "A12345",
    )
    header.Manufacturer, header.ManufacturerModelName, header.MagneticFieldStrength = "SIEMENS", "Prisma", 3
    header.DeviceSerialNumber, header.StationName = "66021", "MR1"
    header.SeriesDescription, header.ProtocolName = "t1_mprage_sag Jane", "t1_mprage_sag"
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "DIS3D", "NORM"]
    header.MRAcquisitionType, header.ScanningSequence, header.SequenceVariant = "3D", ["GR", "IR"], "SP"
    header.EchoTime, header.RepetitionTime, header.InversionTime, header.FlipAngle = 2.9, 2300, 900, 9
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header.PixelSpacing = [float(spacing[1]), float(spacing[0])]
    header.SliceThickness = float(spacing[2])
    header.Rows, header.Columns, header.SamplesPerPixel = data.shape[1], data.shape[0], 1
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.PhotometricInterpretation, header.BodyPartExamined, header.PatientPosition = "MONOCHROME2", "BRAIN", "HFS"
    private = header.private_block(0x0029, "MADE FOR TESTS", create=True)
    private.add_new(0x01, "LO", "Doe Jane Maria")
    return header


def _orientation(affine: NDArray[np.float64]) -> list[str]:
    directions = LPS @ affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    return _written(directions.T.ravel())


def _written(values: NDArray[np.float64]) -> list[str]:
    return [f"{value:.9f}"[:16] for value in values]


def all_bytes(folder: Path) -> bytes:
    """Everything in a folder and its names, in lower case; packed images unpacked."""
    parts = []
    for path in sorted(folder.rglob("*")):
        parts.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            content = path.read_bytes()
            parts.append(gzip.decompress(content)[:352] if path.name.endswith(".gz") else content)
    return b"\n".join(parts).lower()
