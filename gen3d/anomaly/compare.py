"""Voxel values, region means and latents of every scan compared with its expectation.

They are kept on disk, so that an interrupted comparison continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.channels import ChannelMaker, ScanComparison
from gen3d.anomaly.expectation import Ensemble
from gen3d.cohort.channels import LOG_JACOBIAN, T1W, Channel
from gen3d.cohort.folder import Prepared
from gen3d.cohort.seen import identities
from gen3d.core.progress import track
from gen3d.core.work_arrays import WorkingArrays
from gen3d.models.run import Run, covariates_of, scan_seed


@dataclass(frozen=True)
class ChannelValues:
    """Per channel: smoothed voxel values [n, V] and region means [n, R]; latents [n, d] or None."""

    arrays: WorkingArrays
    voxels: dict[Channel, NDArray[np.float32]]
    regions: dict[Channel, NDArray[np.float32]]
    latents: NDArray[np.float32] | None

    def discard(self) -> None:
        """Remove the working files."""
        self.voxels.clear()
        self.arrays.discard()


class RegionMeans:
    """Means of masked values over the regions of a label map; 0 where a region has no voxel."""

    def __init__(self, labels: NDArray[np.int16], mask: NDArray[np.bool_], table: pd.DataFrame) -> None:
        position = {int(label): i for i, label in enumerate(table["label"])}
        inside = labels[mask]
        self._index = np.array([position.get(int(label), -1) for label in inside])
        self._valid = self._index >= 0
        self._counts = np.bincount(self._index[self._valid], minlength=len(table)).astype(np.float64)

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[V] -> [R]; 0 for a region without voxels on this grid."""
        sums = np.bincount(self._index[self._valid], weights=values[self._valid], minlength=len(self._counts))
        return np.asarray(sums / np.maximum(self._counts, 1), dtype=np.float32)


def open_latents(arrays: WorkingArrays, run: Run, prepared: Prepared, table: pd.DataFrame) -> NDArray[np.float32]:
    """The working array of latents, as wide as the latent of the first scan."""
    row = table.iloc[0]
    volume = prepared.load([row["key"]], run.channels)[0]
    person = identities(table)[0]
    return arrays.open("latents", (len(run.encode(volume, person, covariates_of(run, row))),))


def compare(
    folder: Path,
    prepared: Prepared,
    run: Run | Ensemble,
    table: pd.DataFrame,
    channels: Sequence[Channel],
    samples: int,
    smoothing_mm: float,
    seed: int,
) -> ChannelValues:
    """Compute the channel values of every row of `table`, or continue an interrupted computation.

    Args:
        folder: the maps folder; working files with the prefix `.values-` lie in it until `ChannelValues.discard`.
        prepared: the cohort.
        run: the model, or several that are used as one.
        table: assessed scans, one row each, index 0..n-1.
        channels: the channels to compute.
        samples: posterior draws per expectation, 0 for the posterior mean.
        smoothing_mm: FWHM of the voxel values.
        seed: seed of the draws; each scan has its own generator, so the order does not matter.
    """
    maker = ChannelMaker(prepared.mask, prepared.plan.spacing_mm, smoothing_mm)
    region_means = RegionMeans(prepared.regions, prepared.mask, prepared.region_table)
    arrays = WorkingArrays(folder, len(table))
    num_voxels, num_regions = int(prepared.mask.sum()), len(prepared.region_table)
    voxels = {channel: arrays.open(f"{channel}-voxels", (num_voxels,)) for channel in channels}
    regions = {channel: arrays.open(f"{channel}-regions", (num_regions,)) for channel in channels}
    encoder = run if isinstance(run, Run) and run.comparable_latents else None
    latents = open_latents(arrays, encoder, prepared, table) if encoder is not None else None
    names = [name for name in (T1W, LOG_JACOBIAN) if name in prepared.plan.channels]
    people = identities(table)
    for i in track(arrays.missing(), "comparing"):
        row = table.iloc[i]
        observed = {name: prepared.volume(row["key"], name) for name in names}
        volume = np.stack([observed[name] for name in run.channels])
        expectation = run.expect(volume, people[i], covariates_of(run, row), samples, scan_seed(seed, row["key"]))
        assert expectation is not None, "every row is held out from a member"
        comparison = ScanComparison(observed, dict(zip(run.channels, expectation[0], strict=True)))
        for channel in channels:
            sharp = maker.sharp(comparison, channel)
            regions[channel][i] = region_means(sharp)
            voxels[channel][i] = maker.smooth(sharp, channel)
        if encoder is not None and latents is not None:
            latents[i] = encoder.encode(volume, people[i], covariates_of(run, row))
        arrays.mark(i)
    return ChannelValues(arrays, voxels, regions, latents)
