"""The raw BIDS dataset of `gen3d-bids`: what it says of itself, its T1w scans, and those that were asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.cohort.labels import label
from gen3d.core import words
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.prepare.sources import read_sources

DESCRIPTION = "dataset_description.json"
NEEDED = ("Name", "BIDSVersion")
COLUMNS = {"source_subject": "participant_id", "session": "session_id", "source": "path", "age_years": "age"}
KEPT = ("participant_id", "session_id", "path", "age", "sex", "site", "diagnosis", "cdr", "mmse")
"""Columns of a participant's table, by their usual names."""

MOST_NAMED = 10


@dataclass(frozen=True)
class RawDataset:
    """A dataset with T1w scans; `scans` has the columns of the cohort table, and `notes` say how the tables were read."""

    folder: Path
    description: dict[str, Any]
    scans: pd.DataFrame
    notes: list[str]

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the dataset can be had: its DOI, or nothing."""
        doi = str(self.description.get("DatasetDOI", "")).strip()
        doi = doi.removeprefix("https://doi.org/").removeprefix("http://doi.org/").removeprefix("doi:")
        return (f"doi:{doi}",) if doi else ()

    @property
    def described(self) -> list[dict[str, str]]:
        """SourceDatasets of what is made from it; a folder of this machine tells nobody else anything."""
        if self.sources:
            return [{"DOI": source} for source in self.sources]
        return [{"Version": f"{self.description['Name']}, BIDS {self.description['BIDSVersion']}"}]


@dataclass(frozen=True)
class PersonScans:
    """A participant's label (letters and digits) and the rows of the scans that were asked for."""

    label: str
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """sub-X."""
        return f"sub-{self.label}"

    def table(self, site: str = "") -> pd.DataFrame:
        """What `gen3d prepare` reads: a row per scan with the file's path and what is known of the person.

        Args:
            site: the site of all scans; "" keeps that of the dataset.
        """
        table = self.rows.rename(columns=COLUMNS)
        table["participant_id"] = [f"sub-{str(name).removeprefix('sub-')}" for name in table["participant_id"]]
        table["path"] = [str(Path(path).resolve()) for path in table["path"]]
        if site:
            table["site"] = site
        kept = table[[name for name in KEPT if name in table]].astype(object)
        return kept.where(kept.notna() & (kept != ""), "n/a")


def open_dataset(folder: Path) -> RawDataset:
    """Open a raw BIDS dataset.

    Raises:
        UserError: no folder, no description or one that is none, or no T1w scan that can be used.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; BIDS_DIR is the folder of the dataset.")
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"{folder}: no {DESCRIPTION}, so it is not a BIDS dataset; give the folder that holds it, or write it with "
            '{"Name": "...", "BIDSVersion": "1.10.0"}.'
        )
    try:
        description = load_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not JSON that can be read ({error}); correct it.") from None
    absent = [name for name in NEEDED if not isinstance(description.get(name), str) or not description[name].strip()]
    if absent:
        raise UserError(f"{path}: no {' and no '.join(absent)}, which BIDS requires; add it.")
    source = read_sources((folder,))
    unmatched = source.unmatched_counts()
    notes = [*source.notes, *([f"{folder}: does not match up: {unmatched}"] if unmatched else [])]
    return RawDataset(folder, description, source.frame, notes)


def chosen(
    dataset: RawDataset, participants: Sequence[str], sessions: Sequence[str]
) -> tuple[list[PersonScans], list[str]]:
    """The participants that were asked for with the scans of their sessions, and sentences on who has none of these sessions.

    Args:
        dataset: the scans.
        participants: labels, with or without `sub-`; all if there are none.
        sessions: labels, with or without `ses-`; all if there are none.

    Raises:
        UserError: a label that is given twice or is not there; nobody with these sessions.
    """
    scans = dataset.scans
    wanted = _labels(participants, "sub-", "participant")
    known = dict.fromkeys(scans["subject"].astype(str))
    _refuse_unknown(dataset, wanted, list(known), "sub-", "participant")
    of_sessions = _labels(sessions, "ses-", "session")
    scans = scans[scans["subject"].isin(wanted)] if wanted else scans
    _refuse_unknown(dataset, of_sessions, list(dict.fromkeys(scans["session"].astype(str))), "ses-", "session")
    left = scans[scans["session"].isin(of_sessions)] if of_sessions else scans
    people = [PersonScans(str(name), rows.reset_index(drop=True)) for name, rows in left.groupby("subject", sort=True)]
    without = sorted(set(scans["subject"]) - set(left["subject"]))
    asked = words.listed([f"ses-{name}" for name in of_sessions], "or") if of_sessions else ""
    return people, [f"sub-{name} has no T1w scan of {asked}, so it is left out" for name in without]


def _labels(given: Sequence[str], prefix: str, what: str) -> list[str]:
    labels = [label(text.removeprefix(prefix)) for text in given]
    twice = next((name for place, name in enumerate(labels) if name in labels[:place]), None)
    if twice is not None:
        raise UserError(f"the {what} {prefix}{twice} is given twice; give each label once.")
    return labels


def _refuse_unknown(dataset: RawDataset, wanted: list[str], known: list[str], prefix: str, what: str) -> None:
    absent = [name for name in wanted if name not in known]
    if not absent:
        return
    first = absent[0]
    if prefix == "sub-" and (dataset.folder / f"sub-{first}").is_dir():
        raise UserError(f"{dataset.folder}: sub-{first} has no T1w scan that can be used; leave out this participant.")
    near = difflib.get_close_matches(first, known, n=1)
    listed = ", ".join(sorted(known)[:MOST_NAMED]) + (", ..." if len(known) > MOST_NAMED else "")
    hint = f"did you mean {near[0]}?" if near else f"there are {len(known)}: {listed}."
    raise UserError(f"{dataset.folder}: no {what} {prefix}{first} with a T1w scan; {hint}")
