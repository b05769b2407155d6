"""Judge scans by a norm, one by one: maps, region rows and scores, without anybody else's scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.compare import LATENTS, CompareSettings, ScanComparer, regions, voxels
from gen3d.anomaly.expectation import Ensemble, load_runs
from gen3d.anomaly.folder import LATENT_SCORE
from gen3d.anomaly.map_writer import WITHOUT_MAP, MapFacts, MapSettings, MapWriter, ScanMap
from gen3d.anomaly.norm.folder import NormFolder, open_norm
from gen3d.anomaly.tables import RegionRows, SubjectColumns
from gen3d.cohort.channels import CHANNELS
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import PersonHashes, identities
from gen3d.core.errors import UserError
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.core.tables import plain_row, records
from gen3d.maths.deviation import deviation
from gen3d.maths.significance import percentile
from gen3d.models.run import Run

CACHE = ".scans"
SCANS_PER_PROCESS = 8
"""Scans that are worth the start of a further process."""


@dataclass(frozen=True)
class JudgeTask:
    """What determines how a cohort is judged: the norm, the cohort, where to write, and how; with how many threads."""

    norm: Path
    prepared: tuple[Path, ...]
    out: Path
    maps: MapSettings
    threads: int = 0


class ScanJudge:
    """Judges scans of a prepared cohort by a norm, and writes their maps."""

    def __init__(self, norm: NormFolder, prepared: Prepared, run: Run | Ensemble, task: JudgeTask) -> None:
        self.norm, self.prepared, self._threads = norm, prepared, task.threads
        settings = norm.record.settings
        self._comparer = ScanComparer(
            prepared,
            run,
            CompareSettings(
                tuple(channel for channel in CHANNELS if channel in norm.map_channels),
                int(settings["samples"]),
                float(settings["smoothing_mm"]),
                int(settings["seed"]),
            ),
        )
        self._voxels = {channel: norm.voxels(channel) for channel in norm.map_channels}
        self._regions = {channel: norm.regions(channel) for channel in norm.region_channels}
        self._rows = {
            channel: RegionRows(channel, pd.DataFrame({"name": list(of.names)}))
            for channel, of in self._regions.items()
        }
        self._writer = MapWriter(task.out, prepared, task.maps)
        self._require_same_regions()

    def _require_same_regions(self) -> None:
        """Refuse a cohort whose brain or regions are not those that the norm was fitted on."""
        norm, folder = self.norm, self.prepared.folders[0]
        num_voxels = int(self.prepared.mask.sum())
        if num_voxels != norm.record.num_voxels:
            raise UserError(
                f"{folder}: its brain mask has {num_voxels} voxels and that of {norm.folder} {norm.record.num_voxels}; prepare "
                "the scans with the version of gen3d that the norm was made with."
            )
        names = tuple(str(name) for name in self.prepared.region_table["name"])
        for channel in norm.map_channels:
            if names != self._regions[channel].names:
                raise UserError(
                    f"{folder}: its regions are not those of {norm.folder}; prepare the scans with the version of gen3d that "
                    "the norm was made with."
                )

    def __call__(self, row: pd.Series, person: PersonHashes) -> dict[str, Any]:
        """Judge one scan, a row of the cohort table; returns its rows of the tables as `subject`, `regions`, `clusters`."""
        key = str(row["key"])
        values = self._comparer(row, person)
        frame = pd.DataFrame([row])
        subject: dict[str, float] = {}
        region_rows: list[pd.DataFrame] = []
        maps = self._maps(row, values, frame)
        for channel, of_regions in self._regions.items():
            if regions(channel) not in values:
                continue  # such as the size of a head whose alignment is not kept
            group = self.norm.group_of(channel)
            people, is_open = group.coded(frame), group.is_open(str(row["site"]))
            of_scan = values[regions(channel)][None]
            effect = of_regions.norm.effect(of_scan, people)[0]
            z = of_regions.norm.z(of_scan, people)[0] if is_open else np.full(len(effect), np.nan, np.float32)
            region_rows.append(self._rows[channel].of(key, effect, z, of_regions.scores))
            if channel in self._voxels:
                facts = maps.get(channel, WITHOUT_MAP)
                subject |= SubjectColumns(channel, of_regions.scores).of(facts.burden, facts.voxels_fdr, z)
        subject |= self._latent(values.get(LATENTS))
        return {
            "subject": plain_row({"key": key} | subject),
            "regions": records(pd.concat(region_rows, ignore_index=True)),
            "clusters": [plain_row(cluster) for facts in maps.values() for cluster in facts.clusters],
        }

    def _maps(self, row: pd.Series, values: dict[str, NDArray[np.float32]], frame: pd.DataFrame) -> dict[str, MapFacts]:
        """Write the maps of a scan; channel -> what tables say of it, for channels in which its site can be judged."""
        scans = []
        for channel, norm in self._voxels.items():
            group = self.norm.group_of(channel)
            if group.is_open(str(row["site"])):
                z = norm.z(values[voxels(channel)][None], group.coded(frame))[0]
                masses = self._regions[channel].scores.masses
                scans.append(ScanMap(str(row["key"]), Path(str(row["folder"])), channel, z, masses))
        return dict(zip([scan.channel for scan in scans], self._writer.all(scans, self._threads), strict=True))

    def _latent(self, latent: NDArray[np.float32] | None) -> dict[str, float]:
        reference = self.norm.latents
        if latent is None or reference is None:
            return {}
        distance = float(deviation(reference.model, latent[None])[0])
        return {LATENT_SCORE: distance, "percentile_latent": float(percentile([distance], reference.distances)[0])}


def judge_all(task: JudgeTask, table: pd.DataFrame, workers: int) -> Iterator[dict[str, Any]]:
    """Judge the scans of a table, in several processes where they are many; scans that were judged before cost nothing."""
    kept = KeptRows(task.out / CACHE)
    items = list(zip([row for _, row in table.iterrows()], identities(table), strict=True))

    def processes(num_groups: int) -> int:
        return num_workers(workers, max(1, num_groups // SCANS_PER_PROCESS))

    task = replace(task, threads=workers if processes(len(items)) == 1 else 1)

    def known(item: tuple[pd.Series, PersonHashes]) -> dict[str, Any] | None:
        return kept.get(str(item[0]["key"]))

    yield from kept_or_made(items, known, _judge_group, task, processes)


def _judge_group(task: JudgeTask, items: list[tuple[pd.Series, PersonHashes]]) -> list[dict[str, Any]]:
    judge, kept, rows = _opened(task), KeptRows(task.out / CACHE), []
    for row, person in items:
        rows.append(judge(row, person))
        kept.keep(str(row["key"]), rows[-1])
    return rows


@lru_cache(maxsize=1)
def _opened(task: JudgeTask) -> ScanJudge:
    norm = open_norm(task.norm)
    return ScanJudge(norm, open_prepared(task.prepared), load_runs(norm.run_folders), task)
