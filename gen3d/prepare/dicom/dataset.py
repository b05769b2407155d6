"""The BIDS folder of a conversion: images, sidecars of a fixed list of keys, tables of people and visits, verdicts of series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d import __version__
from gen3d.cohort.bids_names import BIDS_VERSION
from gen3d.core.artefact import write_json
from gen3d.core.disk import write_whole
from gen3d.core.tables import TableFile, write_table
from gen3d.prepare.dicom.converting import Converted
from gen3d.prepare.dicom.people import Person, age_years, scanner, shifted_day

VERDICTS_OF_SERIES = TableFile(
    "dicom.tsv", ("subject", "session", "series", "description", "images", "verdict", "reason", "file")
)
USED, NOT_USED = "used", "not used"
RECORD = "dicom.json"
"""Of what source a folder is the conversion, by a hash."""
SIDECAR_KEYS = (
    "Modality", "MagneticFieldStrength", "Manufacturer", "ManufacturersModelName", "SoftwareVersions", "MRAcquisitionType",
    "ScanningSequence", "SequenceVariant", "ScanOptions", "SequenceName", "PulseSequenceType", "ImageType",
    "NonlinearGradientCorrection", "SeriesNumber", "AcquisitionNumber", "SliceThickness", "SpacingBetweenSlices", "EchoTime",
    "RepetitionTime", "RepetitionTimeExcitation", "RepetitionTimePreparation", "InversionTime", "FlipAngle", "PixelBandwidth",
    "ReceiveCoilName", "PartialFourier", "ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane",
    "ParallelAcquisitionTechnique", "AcquisitionMatrixPE", "ReconMatrixPE", "PercentPhaseFOV", "PercentSampling",
    "EchoTrainLength", "PhaseEncodingSteps", "AcquisitionDuration", "PhilipsRescaleSlope", "PhilipsRescaleIntercept",
    "PhilipsScaleSlope", "ImageOrientationPatientDICOM", "ConversionSoftware", "ConversionSoftwareVersion",
)  # fmt: skip
"""What of dcm2niix's sidecar is kept: facts of the sequence. What is not in this list is not written, whatever it is."""
NAMING_KEYS = ("SeriesDescription", "ProtocolName")
"""Kept too, but free text: without the words that name the person."""
README = """\
T1w scans converted from DICOM by gen3d {version} and dcm2niix.

Headers hold no name, no id of the hospital, no institution and no private element; {dates} `dicom.tsv` has a
verdict for every series that was there. The images are whole heads: a face can be recognised from them, and be compared with
photographs. Give away what `gen3d prepare` makes of them, which is a brain, or remove the faces first.
"""
DATES = {"none": "no date is kept.", "shifted": "dates are moved back by a time of each person's own."}


@dataclass(frozen=True)
class UsedVisit:
    """A visit with its image."""

    session: str
    day: str
    converted: Converted
    person: Person
    place: int


def image_name(subject: str, session: str) -> str:
    """The path of a visit's image below the folder."""
    return f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}_T1w.nii.gz"


def write_person(folder: Path, subject: str, visits: Sequence[UsedVisit], dates: str, seed: str) -> dict[str, Any]:
    """Write a person's images, sidecars and tables of visits; returns the row of participants.tsv."""
    sessions = []
    for visit in visits:
        path = folder / image_name(subject, visit.session)
        path.parent.mkdir(parents=True)
        write_whole(path, visit.converted.image)
        write_json(
            path.with_name(path.name.replace(".nii.gz", ".json")), sidecar(visit.converted.sidecar, visit.person)
        )
        series = visit.person.visits[visit.place].series[0]
        row: dict[str, Any] = {"session_id": f"ses-{visit.session}", "age": _cell(age_years(series))}
        if dates == "shifted":
            day = shifted_day(visit.person.patient_id, visit.day, seed)
            row["acq_time"] = f"{day}T00:00:00" if day else "n/a"
            scans = pd.DataFrame([{"filename": f"anat/{path.name}", "acq_time": row["acq_time"]}])
            write_table(path.parent.parent / f"sub-{subject}_ses-{visit.session}_scans.tsv", scans)
        sessions.append(row)
    write_table(folder / f"sub-{subject}" / f"sub-{subject}_sessions.tsv", pd.DataFrame(sessions))
    person = visits[0].person
    return {
        "participant_id": f"sub-{subject}",
        "age": sessions[0]["age"],
        "sex": person.sex,
        "scanner": scanner(person.visits[visits[0].place].series[0]) or "n/a",
    }


def sidecar(found: Mapping[str, Any], person: Person) -> dict[str, Any]:
    """What of dcm2niix's sidecar is kept."""
    kept = {key: found[key] for key in SIDECAR_KEYS if key in found}
    return kept | {key: person.scrubbed(str(found[key])) for key in NAMING_KEYS if key in found}


def write_dataset(
    folder: Path, participants: pd.DataFrame, verdicts: pd.DataFrame, dates: str, record: Mapping[str, Any]
) -> None:
    """Write what belongs to the folder as a whole."""
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "T1w scans from DICOM",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": "gen3d", "Version": __version__}, {"Name": "dcm2niix"}],
        },
    )
    write_whole(folder / "README", README.format(version=__version__, dates=DATES[dates]).encode())
    write_whole(folder / ".bidsignore", f"{VERDICTS_OF_SERIES.file}\n{RECORD}\n".encode())
    write_table(folder / "participants.tsv", participants)
    described = {
        "age": {"Description": "age at the first visit; 90 stands for every age above 89", "Units": "years"},
        "sex": {"Description": "sex in the header, M or F"},
        "scanner": {"Description": "maker, model and field strength in T"},
    }
    write_json(folder / "participants.json", described)
    VERDICTS_OF_SERIES.write(folder, verdicts)
    write_json(folder / RECORD, dict(record))


def _cell(value: float) -> Any:
    return "n/a" if math.isnan(value) else value
