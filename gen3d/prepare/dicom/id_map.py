"""Which id a person gets, and the table that alone can tell it back: outside of what is written, readable by its owner only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gen3d.cohort.labels import label
from gen3d.core.disk import PARTIAL, writing
from gen3d.core.errors import UserError
from gen3d.core.files import require_regular
from gen3d.core.user_table import read_user_table
from gen3d.prepare.dicom.people import new_seed, pseudonym

COLUMNS = ("patient_id", "subject", "seed")
"""`seed` is the person's secret: whoever has it and the hospital's id can make the id and the shift of dates again."""
OF_OTHERS = 0o077


@dataclass(frozen=True)
class Identities:
    """Hospital id -> the id that is written, and the person's secret."""

    subjects: dict[str, str]
    seeds: dict[str, str]


def identities(patient_ids: Iterable[str], id_map: Path | None, subject: str | None = None) -> Identities:
    """The ids of people: as the map has them, new ones by a new secret; nothing is written. `subject` is that of the one person.

    Raises:
        UserError: the map cannot be used, others may read it, or it gives two people one id.
    """
    known = _read(id_map) if id_map is not None and os.path.lexists(id_map) else Identities({}, {})
    subjects, seeds = dict(known.subjects), dict(known.seeds)
    for patient_id in patient_ids:
        seeds[patient_id] = seeds.get(patient_id) or new_seed()
        subjects[patient_id] = subjects.get(patient_id) or subject or pseudonym(patient_id, seeds[patient_id])
    if id_map is not None and len(set(subjects.values())) < len(subjects):
        raise UserError(f"{id_map}: two people have one id in its column subject; give each an id of their own.")
    return Identities(subjects, seeds)


def check_place(id_map: Path | None, folders: Sequence[Path]) -> None:
    """Refuse a map within what is written, which is made to be given away.

    Raises:
        UserError: naming both.
    """
    if id_map is None:
        return
    for folder in folders:
        if id_map.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{id_map}: lies in {folder}, which holds nobody's name; give dicom.id_map= a place outside of it."
            )


def write_id_map(id_map: Path, people: Identities) -> None:
    """Write the map, readable by its owner only from its first byte on."""
    rows = [(patient_id, subject, people.seeds[patient_id]) for patient_id, subject in people.subjects.items()]
    text = pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(sep="\t", index=False)
    with writing(id_map.parent):
        id_map.parent.mkdir(parents=True, exist_ok=True)
        partial = id_map.with_name(f"{PARTIAL}{secrets.token_hex(4)}")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(partial, id_map)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _read(path: Path) -> Identities:
    mode = require_regular(path).st_mode & 0o777
    if mode & OF_OTHERS:
        raise UserError(f"{path}: says whose scans these are, and others may read it (mode {mode:o}); chmod 600 {path}")
    table = read_user_table(path, may_be_empty=True)
    if lacking := {"patient_id", "subject"} - set(table.columns):
        raise UserError(f"{path}: no column {' or '.join(sorted(lacking))}; an id map has {', '.join(COLUMNS[:2])}.")
    if table["patient_id"].duplicated().any():
        raise UserError(f"{path}: one patient_id stands in it twice; keep one row per person.")
    subjects = {row["patient_id"]: label(row["subject"].removeprefix("sub-")) for _, row in table.iterrows()}
    seeds = dict(zip(table["patient_id"], table["seed"], strict=True)) if "seed" in table else {}
    everybody = {patient_id: seeds.get(patient_id) or new_seed() for patient_id in subjects}
    named = {who: subject or pseudonym(who, everybody[who]) for who, subject in subjects.items()}
    return Identities(named, everybody)
