"""Who counts: people of the cohort table, found in the source by their id and never by their place in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import VERBS as COHORTS
from gen3d.cohort.manifest import SOURCE_SUBJECT, is_control, is_synthetic, is_twin, read_manifest
from gen3d.core import words as spell
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.genotypes.keyed_table import ID_COLUMNS
from gen3d.genotypes.sources import SEXES

TRAIN = "train"
GENOTYPE_ID = ("genotype_id", "iid", "#iid", "sample", "sample_id")


@dataclass(frozen=True)
class Cohort:
    """People of the cohort table, one row each: subject, source_subject, sex (M, F or ""), diagnosis, role, further columns."""

    path: Path
    people: pd.DataFrame

    @property
    def subjects(self) -> list[str]:
        """In the order of the table."""
        return [str(subject) for subject in self.people["subject"]]

    def controls(self, names: Sequence[str] | None) -> NDArray[np.bool_]:
        """Who is a healthy control; nobody where the table has no diagnosis. [n]"""
        if not (self.people["diagnosis"] != "").any():
            return np.zeros(len(self.people), dtype=bool)
        return is_control(self.people, names).to_numpy(dtype=bool)

    @property
    def training(self) -> NDArray[np.bool_]:
        """Who has the role train; everybody where nobody has. [n]"""
        training = (self.people["role"] == TRAIN).to_numpy(dtype=bool)
        return training if training.any() else np.ones(len(training), dtype=bool)


def read_cohort(path: Path) -> Cohort:
    """The people of a prepared folder, or of a table with a column subject.

    Raises:
        UserError: neither, or a table without people.
    """
    if path.is_dir():
        read(path, COHORTS)
        table = read_manifest(path)
        table = table[(table["role"] != "excluded") & ~is_twin(table) & ~is_synthetic(table)]
    else:
        table = _own_table(path)
    for name in ("diagnosis", "role", "sex", SOURCE_SUBJECT):
        if name not in table.columns:
            table = table.assign(**{name: ""})
    people = table.drop_duplicates("subject").reset_index(drop=True)
    if not len(people):
        raise UserError(f"{path}: holds no people whose scans are used.")
    return Cohort(path, people.assign(sex=[SEXES.get(str(sex).strip().upper(), "") for sex in people["sex"]]))


def _own_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file or folder; table= is a prepared folder, or a table with a column subject."
        )
    table = read_user_table(path)
    by_name = {str(name).lower(): str(name) for name in table.columns}
    found = next((by_name[name] for name in ID_COLUMNS if name in by_name), None)
    if found is None:
        raise UserError(f"{path}: no column says whose row it is; people are joined by id, so add a column subject.")
    table = table.rename(columns={found: "subject"})
    if (table["subject"] == "").any():
        raise UserError(f"{path}: {int((table['subject'] == '').sum())} rows have no {found}.")
    if "session" not in by_name and table["subject"].duplicated().any():
        again = table.loc[table["subject"].duplicated(), "subject"].iloc[0]
        raise UserError(f"{path}: {found} {again} is there twice; give one row per person, or a column session.")
    return table.rename(columns={by_name[name]: name for name in ("diagnosis", "role", "sex") if name in by_name})


def read_ids(path: Path) -> dict[str, str]:
    """Subject by genotype id.

    Raises:
        UserError: lacks a column, or one of either is there twice.
    """
    table = read_user_table(path)
    by_name = {str(name).lower(): str(name) for name in table.columns}
    own = next((by_name[name] for name in GENOTYPE_ID if name in by_name), None)
    if own is None or "subject" not in by_name:
        raise UserError(
            f"{path}: needs the columns genotype_id and subject; it has {', '.join(map(str, table.columns))}."
        )
    subject = by_name["subject"]
    for column in (own, subject):
        twice = table.loc[table[column].duplicated(), column]
        if len(twice):
            raise UserError(f"{path}: {column} {twice.iloc[0]} is there twice; a person has one genotype.")
    return dict(zip(table[own], table[subject], strict=True))


def rows_of_people(
    cohort: Cohort, path: Path, ids: Sequence[str], subject_of: dict[str, str] | None = None, what: str = "genotypes"
) -> NDArray[np.int64]:
    """The row of every person of the cohort in another file, -1 for who is not in it; [people].

    Args:
        cohort: whose people are looked for.
        path: of the other file.
        ids: of its rows.
        subject_of: subject by id, where they are named differently.
        what: the file holds.

    Raises:
        UserError: nobody is in both.
    """
    place = {}
    for row, name in enumerate(ids):
        subject = name if subject_of is None else subject_of.get(name)
        if subject is not None:
            place[subject] = row
    people = cohort.people
    for column in ("subject", SOURCE_SUBJECT):
        rows = np.array([place.get(str(name), -1) if str(name) else -1 for name in people[column]], dtype=np.int64)
        if (rows >= 0).any():
            return rows
    hint = "ids= says which genotype_id is which subject" if what == "genotypes" else "name people as the table does"
    alike = (
        f"Both have {len(people)} people, which does not make them the same people: rows are never joined by their order"
        if len(people) == len(ids)
        else "Rows are never joined by their order"
    )
    raise UserError(
        f"{path}: none of its {spell.people(len(ids))} is among the {spell.people(len(people))} of {cohort.path}, as ids such as "
        f"{ids[0]} and {people['subject'].iloc[0]} show. {alike}; {hint}."
    )
