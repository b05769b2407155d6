"""The tables and descriptions that make a folder of synthetic scans a prepared cohort and a BIDS derivatives dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d import __version__
from gen3d.cohort.bids_names import BIDS_VERSION, PARTICIPANT_COLUMNS, read_columns
from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import GENERATOR_SUBJECTS, write_cohort
from gen3d.cohort.region_validity import ML, remark
from gen3d.cohort.structures import SUFFIX
from gen3d.core.artefact import write_atomic, write_json
from gen3d.core.disk import writing
from gen3d.core.tables import Row, write_table
from gen3d.imaging.volume import read_stored, store
from gen3d.synthesis.folder import ENTITIES, SESSION, Atlas, SyntheticDataset, key_of, subject_of

SITE, ROLE = "synthetic", "evaluation"
REQUESTED, COPY = "requested_", "audit_copy"
COHORT_TEXT, COHORT_NUMBERS = ("site", "sex", "diagnosis"), ("age_years", "cdr", "mmse")
BIDS_NAMES = {"age_years": "age", "diagnosis": "group"}
UNITS = {"age_years": "year"}
COLUMNS = PARTICIPANT_COLUMNS | read_columns("gen3d.synthesis")


def cohort_table(
    requested: pd.DataFrame, measured: Sequence[Row], copies: Sequence[bool | None], generator: str
) -> pd.DataFrame:
    """The cohort table of a synthetic dataset, one row per sample.

    What was requested stands in the columns `requested_*`, and as the person's own age, sex, diagnosis and site where those
    are conditions; an unknown value is missing in both.

    Args:
        requested: requested conditions, [samples, names], indexed by sample.
        measured: rows of `measure_all`, or none.
        copies: verdict of the audit on each; None where there was no audit.
        generator: key of the run that drew them.
    """
    samples = list(requested.index)
    frame = pd.DataFrame({"subject": [subject_of(sample) for sample in samples]}, index=requested.index)
    frame["session"], frame["role"], frame["key"] = SESSION, ROLE, [key_of(sample) for sample in samples]
    for name in (*COHORT_TEXT, *COHORT_NUMBERS):
        frame[name] = requested.get(name, np.nan)
    for name in COHORT_TEXT:
        frame[name] = frame[name].astype(object).where(frame[name].notna(), SITE if name == "site" else "")
    for name in COHORT_NUMBERS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    frame["generator"], frame["sample"] = generator, samples
    frame[COPY] = ["unknown" if copied is None else str(copied).lower() for copied in copies]
    frame = frame.join(requested.add_prefix(REQUESTED))
    if measured:
        frame = frame.join(pd.DataFrame(list(measured)).set_index("sample"))
    return frame.reset_index(drop=True)


def write_prepared(dataset: SyntheticDataset, atlas: Atlas, table: pd.DataFrame, mask: NDArray[np.bool_]) -> None:
    """Write what makes the folder one that `open_prepared` reads: plan, mask, regions and the cohort table."""
    plan, out = dataset.plan, dataset.out
    with writing(out):
        write_cohort(out, plan, mask, atlas.labels, atlas.table, table)


def write_image(dataset: SyntheticDataset, sample: int) -> None:
    """Write a scan's BIDS image, the stored T1w compressed, unless it is there."""
    path = dataset.image(sample)
    if not path.is_file():
        with writing(dataset.out):
            store(path, read_stored(dataset.path(sample, T1W)), dataset.plan.matrix)


def write_bids(dataset: SyntheticDataset, table: pd.DataFrame, model: str) -> None:
    """Write what makes the folder a BIDS derivatives dataset around the images: tables, descriptions and the reading notes."""
    out = dataset.out
    dropped = ["session", "role", "key", "cdr", "mmse"]
    people = table.drop(columns=[name for name in dropped if f"{REQUESTED}{name}" not in table])
    people = people.rename(columns=BIDS_NAMES)
    people["subject"] = "sub-" + people["subject"]
    people = people.rename(columns={"subject": "participant_id"}).replace("", np.nan)
    description = {
        "Name": f"Synthetic T1w scans ({model})",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "gen3d", "Version": __version__, "Description": f"scans drawn from a {model} model"}],
    }
    with writing(out):
        write_table(out / "participants.tsv", people)
        write_json(out / "participants.json", {name: describe_column(name) for name in people.columns})
        write_json(out / f"{ENTITIES}.json", _sidecar())
        write_atomic(out / "README", README.format(version=__version__, model=model, entities=ENTITIES))
        write_atomic(out / ".bidsignore", BIDS_IGNORE)
        write_json(out / "dataset_description.json", description)


def describe_column(name: str) -> dict[str, Any]:
    """What a column of participants.tsv holds, with its unit."""
    if name.startswith(REQUESTED):
        condition = name.removeprefix(REQUESTED)
        return {"Description": f"{condition} that was requested of the model; n/a: left unknown"} | _unit(condition)
    if name.endswith(SUFFIX):
        structure = name.removesuffix(SUFFIX).replace("_", " ")
        caution = remark(structure, ML)
        return {
            "Description": f"volume of the {structure}, both hemispheres together, measured by registration to the "
            "template after the linear alignment" + (f"; {caution}" if caution else ""),
            "Units": "ml",
        }
    return dict(COLUMNS[name])


def _unit(condition: str) -> dict[str, str]:
    unit = "ml" if condition.endswith(SUFFIX) else UNITS.get(condition)
    return {"Units": unit} if unit else {}


def _sidecar() -> dict[str, Any]:
    return {
        "Description": "synthetic T1w scan, drawn from a generative model; white-matter median 1, background 0",
        "SkullStripped": True,
        "Units": "white-matter level",
    }


README = """\
Synthetic T1w scans of people who do not exist, drawn by gen3d {version} from a {model} model.
For research; not for the diagnosis or care of a person. A study that uses them has to say so.

Layout
  sub-*/anat/sub-*_{entities}.nii.gz   the scans, on the template, skull-stripped
  participants.tsv, participants.json                       what was requested and what was measured, every column described
  provenance.json                                           run, request, seeds, sampler, and the result of the audit
  audit.json                                                whether scans copy training people
  figures/samples.png                                       the first scans, to look at
  volumes/, manifest.tsv, plan.json, ...                    the same scans as the verbs of gen3d read them

"""
BIDS_IGNORE = "".join(
    f"{name}\n"
    for name in (
        "artefact.json", ".lock", ".samples", "volumes", "quarantine", "figures", "manifest.tsv", "plan.json", "mask.nii",
        "regions.nii", "regions.tsv", "provenance.json", "audit.json", GENERATOR_SUBJECTS
    )
)  # fmt: skip
"""Folders stand without a slash: the BIDS validator takes `volumes/` for what is in it, and objects to the folder."""
