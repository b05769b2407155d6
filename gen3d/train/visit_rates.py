"""Changes between the visits of many people, measured once per run and kept on disk meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.regions import all_regions
from gen3d.cohort.visit_changes import VisitChanges, measure_visits
from gen3d.core.disk import remove_folder
from gen3d.core.pool import as_done, num_workers
from gen3d.core.progress import track
from gen3d.core.work_arrays import WorkingArrays
from gen3d.train.visit_people import VisitPeople

MAPS, REGIONS = "maps", "regions"


@dataclass(frozen=True)
class MeasuredVisits:
    """Log volumes of all scans of `people`, each relative to the middle of the person's visits.

    Attributes:
        prepared: the scans.
        people: whose visits.
        folder: where the arrays lie while a run is trained.
    """

    prepared: Prepared
    people: VisitPeople
    folder: Path

    def measure(self, workers: int) -> None:
        """Register the visits of every person with each other, where that was not done before."""
        arrays, maps, regions = self._open()
        missing = set(arrays.missing())
        people = [rows for rows in self._rows if missing & set(rows.tolist())]
        if not people:
            return
        keys = self.people.frame["key"].astype(str).to_numpy()
        items = [(number, tuple(keys[rows])) for number, rows in enumerate(people)]
        used = num_workers(workers, len(items))
        shared = self.prepared if used == 1 else open_prepared(self.prepared.folders)
        for number, found in track(as_done(_measured, shared, items, used), "changes between visits", len(items)):
            rows = people[number]
            maps[rows], regions[rows] = found.maps, found.regions
            for row in rows:
                arrays.mark(int(row))

    @cached_property
    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Maps [n, X, Y, Z] on the template's voxels and regions [n, R] of every scan; read from disk when used."""
        _, maps, regions = self._open()
        return maps, regions

    def discard(self) -> None:
        """Let go of them."""
        remove_folder(self.folder)

    def _open(self) -> tuple[WorkingArrays, NDArray[np.float32], NDArray[np.float64]]:
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = WorkingArrays(self.folder, len(self.people.frame))
        maps = arrays.open(MAPS, self.prepared.plan.shape)
        return arrays, maps, arrays.open(REGIONS, (len(all_regions()),), "<f8")

    @cached_property
    def _rows(self) -> list[NDArray[np.int64]]:
        subjects = self.people.subjects
        return [np.flatnonzero(subjects == subject) for subject in dict.fromkeys(subjects)]


def _measured(prepared: Prepared, item: tuple[int, tuple[str, ...]]) -> tuple[int, VisitChanges]:
    number, keys = item
    return number, measure_visits([prepared.volume(key, "t1w") for key in keys], prepared.plan)
