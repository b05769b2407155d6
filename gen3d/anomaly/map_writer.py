"""The files of one scan's map in one channel, and what tables say of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.folder import map_path, write_map
from gen3d.anomaly.tables import cluster_rows
from gen3d.anomaly.volumes import unmask
from gen3d.cohort.channels import ON_TEMPLATE
from gen3d.cohort.folder import Prepared
from gen3d.core.pool import num_workers
from gen3d.imaging.native import read_native_space, write_native
from gen3d.maths.reference import ReferenceScores
from gen3d.maths.significance import burden, fdr, p_values


@dataclass(frozen=True)
class MapSettings:
    """False discovery rate, |z| of a cluster, smallest cluster in ml, and whether maps on the scan's voxels are written."""

    q: float
    cluster_z: float
    min_cluster_ml: float
    native: bool


@dataclass(frozen=True)
class ScanMap:
    """One scan's z [V] in one channel, and the masses of the heaviest clusters of controls but the person, [n]."""

    key: str
    prepared_folder: Path
    channel: str
    z: NDArray[np.float32]
    masses: NDArray[np.float64]


@dataclass(frozen=True)
class MapFacts:
    """The burden of a map, its voxels that survive the false discovery rate, and its rows of clusters.tsv."""

    burden: float
    voxels_fdr: float
    clusters: list[dict[str, Any]]


@dataclass(frozen=True)
class MapWriter:
    """Writes maps of scans on a cohort's grid into a folder."""

    folder: Path
    prepared: Prepared
    settings: MapSettings

    def __call__(self, scan: ScanMap) -> MapFacts:
        """Write the z map, the surviving voxels and, where it is wanted and known, the map on the voxels of the scan."""
        mask, plan = self.prepared.mask, self.prepared.plan
        z, survives = unmask(scan.z, mask), fdr(p_values(scan.z), self.settings.q)
        write_map(self.folder, scan.key, scan.channel, z, unmask(survives, mask), plan.matrix)
        if self.settings.native and scan.channel not in ON_TEMPLATE:
            native = read_native_space(scan.prepared_folder, scan.key)
            if native is not None:
                write_native(map_path(self.folder, scan.key, scan.channel, native=True), native, z, plan.matrix)
        least = max(1, round(self.settings.min_cluster_ml * 1000 / plan.spacing_mm**3))
        reference = ReferenceScores.of(scan.masses)
        rows = cluster_rows(scan.key, scan.channel, z, self.settings.cluster_z, least, reference, self.prepared)
        return MapFacts(burden(scan.z), int(survives.sum()), rows)

    def all(self, scans: Iterable[ScanMap], workers: int = 0) -> Iterator[MapFacts]:
        """Write many, several at a time (0: one per core), in their order; compression lets other threads run."""
        waiting: list[Any] = []
        with ThreadPoolExecutor(num_workers(workers, 64)) as pool:
            for scan in scans:
                waiting.append(pool.submit(self, scan))
                if len(waiting) >= 4 * num_workers(workers, 64):
                    yield waiting.pop(0).result()
            for done in waiting:
                yield done.result()


WITHOUT_MAP = MapFacts(math.nan, math.nan, [])
"""Of a scan of a site that cannot be judged."""
