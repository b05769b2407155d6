"""Change of the regions of people with several visits, measured within each person in the space in the middle of the visits.

One person at a time: all visits are resampled once to the mid-space (`imaging.within_person`), the template's regions are
brought to the mean image, and each visit's regions are compared with it. No visit is favoured. What affine alignment took up,
the size of the whole brain, is a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from gen3d.anomaly.change_folder import change_map_path
from gen3d.anomaly.region_channels import RIGID, WHOLE_BRAIN, read_log_scale, transform_path
from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.visits import refuse_backward_diagnoses, visits_of
from gen3d.core.artefact import digest
from gen3d.core.disk import writing
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.imaging.person_space import person_space
from gen3d.imaging.volume import write_nifti
from gen3d.imaging.within_person import WithinSettings, align_visits, region_log_changes

Floats = NDArray[np.float64]

CACHE = ".people"


@dataclass(frozen=True)
class VisitingPeople:
    """People with several visits of a cohort: the folders, a row per visit (`cohort.visits`), and the regions measured."""

    folders: tuple[Path, ...]
    visits: pd.DataFrame
    regions: tuple[str, ...]

    @property
    def num_people(self) -> int:
        """People with several visits."""
        return int(self.visits["subject"].nunique())


@dataclass(frozen=True)
class Measuring:
    """What all people's measurements need: the cohort's folders, where maps are written, and whether they are."""

    folders: tuple[Path, ...]
    out: Path
    maps: bool
    settings: WithinSettings

    @property
    def kept(self) -> KeptRows:
        """The people who were measured before."""
        return KeptRows(self.out / CACHE)


@dataclass(frozen=True)
class PersonVisits:
    """One person's visits in the order of time: keys, and the folder of each."""

    subject: str
    keys: tuple[str, ...]
    folders: tuple[str, ...]
    identity: str


@dataclass(frozen=True)
class VisitVolumes:
    """One person's log volumes relative to the middle of all visits.

    Attributes:
        visits: rows of the person's visits, in the order of time.
        values: [n, R] log volume of every region; NaN for a region without a voxel.
    """

    visits: pd.DataFrame
    values: Floats

    @property
    def years(self) -> Floats:
        """Years since the first visit [n]."""
        return self.visits["years"].to_numpy(np.float64)


def open_people(folders: tuple[Path, ...]) -> VisitingPeople:
    """The people of a cohort who came more than once.

    Raises:
        UserError: not a prepared cohort, nobody came twice, ages or sessions or diagnoses contradict the order of the visits.
    """
    prepared = open_prepared(folders)
    prepared.require_channels((T1W,))
    visits = visits_of(prepared.manifest)
    refuse_backward_diagnoses(visits)
    names = [str(name) for name in prepared.region_table["name"]]
    return VisitingPeople(folders, visits, ((WHOLE_BRAIN, *names) if _has_sizes(prepared, visits) else tuple(names)))


def measure(people: VisitingPeople, measuring: Measuring, workers: int) -> Iterator[VisitVolumes]:
    """Every person's log volumes, as they are done; who was measured before an interruption costs nothing."""
    settings = measuring.settings.model_dump(mode="json")
    parts = []
    for subject, rows in people.visits.groupby("subject", sort=False):
        keys = tuple(rows["key"].astype(str))
        identity = digest([settings, measuring.maps, list(keys), list(people.regions)])
        parts.append(PersonVisits(str(subject), keys, tuple(rows["folder"].astype(str)), identity))
    by_subject = dict(iter(people.visits.groupby("subject", sort=False)))

    def known(part: PersonVisits) -> dict[str, Any] | None:
        return measuring.kept.get(part.keys[0], part.identity)

    for row in kept_or_made(
        parts, known, _measure_people, (measuring, people.regions), lambda n: num_workers(workers, n)
    ):
        values = np.array([[np.nan if v is None else v for v in line] for line in row["values"]], np.float64)
        yield VisitVolumes(by_subject[row["subject"]], values)


def _measure_people(shared: tuple[Measuring, tuple[str, ...]], people: list[PersonVisits]) -> list[dict[str, Any]]:
    measuring, regions = shared
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # people are the parallel dimension
    prepared = open_prepared(measuring.folders)
    rows = []
    for person in people:
        values = _measured(prepared, person, measuring, regions)
        row = {"subject": person.subject, "values": [[float(v) if np.isfinite(v) else None for v in x] for x in values]}
        measuring.kept.keep(person.keys[0], row, person.identity)
        rows.append(row)
    return rows


def _measured(prepared: Prepared, person: PersonVisits, measuring: Measuring, regions: tuple[str, ...]) -> Floats:
    """Log volumes [n, R] of one person's visits relative to the mid-space; writes the maps of change if they are wanted."""
    space = align_visits([prepared.volume(key, T1W) for key in person.keys], measuring.settings)
    table = prepared.region_table
    labels = person_space(space.mean, prepared.plan).labels(prepared.regions)
    highest = max(int(table["label"].max()), int(labels.max()))
    of = table["label"].to_numpy(int) - 1
    values = np.stack([region_log_changes(change, labels, highest)[of] for change in space.log_jacobians()])
    if regions[0] == WHOLE_BRAIN:
        sizes = np.array([read_log_scale(transform_path(*at)) for at in zip(person.folders, person.keys, strict=True)])
        values = np.column_stack([sizes - sizes.mean(), values])
    if measuring.maps:
        with writing(measuring.out):
            for place, key in enumerate(person.keys[1:], start=1):
                path = change_map_path(measuring.out, person.keys[0], key)
                path.parent.mkdir(parents=True, exist_ok=True)
                change = np.where(prepared.mask, space.log_change(0, place), 0)
                write_nifti(path, change, prepared.plan.matrix)
    return values


def _has_sizes(prepared: Prepared, visits: pd.DataFrame) -> bool:
    """Whether affine alignment took up the size of the brain, and is kept for every visit."""
    paths = [transform_path(folder, key) for folder, key in visits[["folder", "key"]].to_numpy()]
    return prepared.plan.degrees_of_freedom != RIGID and all(path.is_file() for path in paths)
