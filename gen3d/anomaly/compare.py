"""Voxel values, region values and latents of every scan compared with its expectation.

They are kept on disk while they are needed, so that an interrupted comparison continues, and several processes share it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gen3d.anomaly.channels import ChannelMaker, ScanComparison
from gen3d.anomaly.expectation import Ensemble, load_runs
from gen3d.anomaly.measured_regions import MeasuredRegions
from gen3d.anomaly.region_means import RegionMeans
from gen3d.cohort.channels import LOG_JACOBIAN, T1W, Channel
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import PersonHashes, identities
from gen3d.core.pool import as_done, num_workers
from gen3d.core.progress import track
from gen3d.core.work_arrays import WorkingArrays
from gen3d.models.run import Run, covariates_of, scan_seed

LATENTS, Z = "latents", "z"
TIMED, WORTH_S = 3, 40.0
"""Scans that are compared before it is decided whether the rest is worth the start of further processes: seconds of one."""


def voxels(channel: str) -> str:
    """Name of the array of a channel's voxel values."""
    return f"{channel}-voxels"


def regions(channel: str) -> str:
    """Name of the array of a channel's region values."""
    return f"{channel}-regions"


@dataclass(frozen=True)
class CompareSettings:
    """What a comparison depends on besides the scan: channels, posterior draws, smoothing FWHM in mm, seed."""

    channels: tuple[Channel, ...]
    samples: int
    smoothing_mm: float
    seed: int


class ScanComparer:
    """Compares scans of a cohort with what a run expects of them.

    Args:
        prepared: the cohort.
        run: the model, or several that are used as one.
        settings: of the comparison; the channels must be available.
    """

    def __init__(self, prepared: Prepared, run: Run | Ensemble, settings: CompareSettings) -> None:
        self.prepared, self.run, self.settings = prepared, run, settings
        self._maker = ChannelMaker(prepared.mask, prepared.plan.spacing_mm, settings.smoothing_mm)
        self._means = RegionMeans(prepared.regions, prepared.mask, prepared.region_table)
        self._encoder = run if isinstance(run, Run) and run.comparable_latents else None
        self._volumes = [name for name in (T1W, LOG_JACOBIAN) if name in prepared.plan.channels]
        self.measured = MeasuredRegions(prepared) if "deformation" in settings.channels else None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of each array of values -> shape of a scan's row."""
        num_voxels, num_regions = int(self.prepared.mask.sum()), len(self.prepared.region_table)
        shapes: dict[str, tuple[int, ...]] = {}
        for channel in self.settings.channels:
            shapes |= {voxels(channel): (num_voxels,), regions(channel): (num_regions,)}
        if self.measured is not None:
            shapes |= {regions(name): (len(names),) for name, names in self.measured.names.items()}
        if self._encoder is not None:
            shapes[LATENTS] = (int(np.prod(self._encoder.latent_shape)),)
        return shapes

    def __call__(self, row: pd.Series, person: PersonHashes) -> dict[str, NDArray[np.float32]]:
        """The values of one scan, a row of the cohort table that a member of every run can judge."""
        key, run = str(row["key"]), self.run
        observed = {name: self.prepared.volume(key, name) for name in self._volumes}
        volume = np.stack([observed[name] for name in run.channels])
        covariates = covariates_of(run, row)
        expectation = run.expect(volume, person, covariates, self.settings.samples, scan_seed(self.settings.seed, key))
        assert expectation is not None, "every row is held out from a member"
        comparison = ScanComparison(observed, dict(zip(run.channels, expectation[0], strict=True)))
        values: dict[str, NDArray[np.float32]] = {}
        for channel in self.settings.channels:
            sharp = self._maker.sharp(comparison, channel)
            values[regions(channel)] = self._means(sharp)
            values[voxels(channel)] = self._maker.smooth(sharp, channel)
        if self.measured is not None:
            values |= {regions(name): of for name, of in self.measured(row).items()}
        if self._encoder is not None:
            values[LATENTS] = self._encoder.encode(volume, person, covariates)
        return values


@dataclass(frozen=True)
class ChannelValues:
    """Arrays of values by name, a row per scan, and one of the size of a channel's voxel values for z, `scratch`.

    `measured` are the regions of the channels that exist by region only.
    """

    arrays: WorkingArrays
    by_name: dict[str, NDArray[np.float32]]
    scratch: NDArray[np.float32]
    measured: dict[str, pd.DataFrame]

    @property
    def latents(self) -> NDArray[np.float32] | None:
        """[n, d], None for models without comparable latents."""
        return self.by_name.get(LATENTS)

    def discard(self) -> None:
        """Remove the working files."""
        self.by_name.clear()
        self.arrays.discard()


@dataclass(frozen=True)
class _Share:
    """What a further process needs to compare scans of a table: where everything lies."""

    folder: Path
    num_rows: int
    prepared: tuple[Path, ...]
    run: tuple[Path, ...]
    settings: CompareSettings
    threads: int


def compare(
    folder: Path,
    prepared: Prepared,
    run: Run | Ensemble,
    table: pd.DataFrame,
    settings: CompareSettings,
    workers: int = 0,
    known: Mapping[str, Mapping[str, NDArray[np.float32]]] | None = None,
) -> ChannelValues:
    """Compute the values of every row of `table`, or continue an interrupted computation.

    Args:
        folder: the output folder; working files with the prefix `.values-` lie in it until `ChannelValues.discard`.
        prepared: the cohort.
        run: the model, or several that are used as one.
        table: assessed scans, one row each, index 0..n-1.
        settings: each scan has its own generator of draws, so the order does not matter.
        workers: processes, 0 for one per core; further ones start only where they are worth their start.
        known: key of a scan -> its values by name, of scans that were compared elsewhere.
    """
    comparer = ScanComparer(prepared, run, settings)
    arrays = WorkingArrays(folder, len(table))
    by_name = {name: arrays.open(name, shape) for name, shape in comparer.shapes().items()}
    scratch = arrays.open(Z, (int(prepared.mask.sum()),))
    people = identities(table)
    if known:
        for row in arrays.missing():
            if (of_scan := known.get(str(table.at[row, "key"]))) is not None:
                _store(by_name, row, of_scan)
                arrays.mark(row)
    missing = arrays.missing()
    began = time.monotonic()

    def here(rows: Sequence[int]) -> Iterator[int]:
        for row in rows:
            _store(by_name, row, comparer(table.iloc[row], people[row]))
            arrays.mark(row)
            yield row

    def everything() -> Iterator[int]:
        yield from here(missing[:TIMED])
        rest = missing[TIMED:]
        seconds = (time.monotonic() - began) / TIMED * len(rest)
        processes = num_workers(workers, max(1, len(rest) // TIMED))
        if processes == 1 or seconds < WORTH_S:
            yield from here(rest)
            return
        threads = max(1, torch.get_num_threads() // processes)
        share = _Share(folder, len(table), prepared.folders, run.folders, settings, threads)
        items = [(row, table.iloc[row], people[row]) for row in rest]
        yield from as_done(_compare_elsewhere, share, items, processes)

    for _ in track(everything(), "comparing", total=len(missing)):
        pass
    return ChannelValues(arrays, by_name, scratch, comparer.measured.names if comparer.measured is not None else {})


def _store(arrays: dict[str, NDArray[np.float32]], row: int, values: Mapping[str, NDArray[np.float32]]) -> None:
    for name, array in arrays.items():
        array[row] = values[name]


def _compare_elsewhere(share: _Share, item: tuple[int, pd.Series, PersonHashes]) -> int:
    row, of_scan, person = item
    comparer, arrays, by_name = _opened(share)
    _store(by_name, row, comparer(of_scan, person))
    arrays.mark(row)
    return row


@lru_cache(maxsize=1)
def _opened(share: _Share) -> tuple[ScanComparer, WorkingArrays, dict[str, NDArray[np.float32]]]:
    torch.set_num_threads(share.threads)
    comparer = ScanComparer(open_prepared(share.prepared), load_runs(share.run), share.settings)
    arrays = WorkingArrays(share.folder, share.num_rows)
    return comparer, arrays, {name: arrays.open(name, shape) for name, shape in comparer.shapes().items()}
