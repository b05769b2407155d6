"""What is kept of every person: smoothed voxels on a coarser grid, means of regions, and a histogram of intensities.

Scans are read one at a time. What is kept lies on disk, a row per person: a test of all voxels reads some columns of everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.channels import LOG_JACOBIAN, T1W
from gen3d.cohort.folder import Prepared
from gen3d.core.errors import UserError
from gen3d.core.progress import track
from gen3d.core.work_arrays import WorkingArrays
from gen3d.explore.levels import Exploring
from gen3d.imaging.similarity import smoother

GREYS = 256
HISTOGRAM = "histogram"
FEWEST_VOXELS = 8
"""Of a side of the coarser grid; a shorter side keeps all its voxels."""


@dataclass(frozen=True)
class CoarseGrid:
    """Every `steps`-th voxel of the plan's grid: mask [x, y, z] and affine [4, 4]."""

    steps: tuple[int, int, int]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]

    def of(self, volume: NDArray[np.floating]) -> NDArray[np.floating]:
        """Its voxels [x, y, z] of a volume [X, Y, Z]."""
        first, second, third = self.steps
        return volume[::first, ::second, ::third]

    def filled(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Values [V] of the mask's voxels as a volume [x, y, z], 0 elsewhere."""
        volume = np.zeros(self.mask.shape, np.float32)
        volume[self.mask] = values
        return volume

    def on_plan(self, values: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The same on the plan's grid [X, Y, Z], each voxel with the value of the nearest kept one inside `mask`."""
        places = [np.minimum((np.arange(side) + step // 2) // step, kept - 1) for side, step, kept in
                  zip(mask.shape, self.steps, self.mask.shape, strict=True)]  # fmt: skip
        return np.where(mask, self.filled(values)[np.ix_(*places)], np.float32(0))


def coarse_grid(prepared: Prepared, map_mm: float) -> CoarseGrid:
    """The grid of the test of voxels, about `map_mm` wide.

    Raises:
        UserError: the brain mask is empty.
    """
    if not prepared.mask.any():
        raise UserError(f"{prepared.folders[0]}: its brain mask is empty; prepare the scans again.")
    matrix, shape = prepared.plan.matrix, prepared.plan.shape
    wanted = np.maximum(1, np.floor(map_mm / np.linalg.norm(matrix[:3, :3], axis=0) + 1e-6)).astype(int)
    first, second, third = (
        int(step) if side >= FEWEST_VOXELS * step else 1 for side, step in zip(shape, wanted, strict=True)
    )
    affine = matrix.copy()
    affine[:3, :3] *= np.array([first, second, third])
    return CoarseGrid((first, second, third), prepared.mask[::first, ::second, ::third], affine)


def channels_of(prepared: Prepared) -> tuple[str, ...]:
    """The channels that are explored."""
    return tuple(channel for channel in (T1W, LOG_JACOBIAN) if channel in prepared.plan.channels)


@dataclass(frozen=True)
class MeansOfRegions:
    """Names of regions and their voxels, by which a volume becomes a mean per region."""

    names: tuple[str, ...]
    numbers: NDArray[np.int64]
    """Number of every masked voxel's region, -1 for none."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Voxels of every region."""
        return np.bincount(self.numbers[self.numbers >= 0], minlength=len(self.names))

    def of(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Means [R] of masked values [V]."""
        inside = self.numbers >= 0
        sums = np.bincount(self.numbers[inside], weights=values[inside], minlength=len(self.names))
        return np.asarray(sums / np.maximum(self.sizes, 1))


def region_means(prepared: Prepared) -> MeansOfRegions:
    """The regions of the cohort that have voxels; none for slices without labels."""
    table = prepared.region_table
    labels = prepared.regions[prepared.mask]
    present = [
        (int(label), str(name))
        for label, name in zip(table["label"], table["name"], strict=True)
        if (labels == label).any()
    ]
    number = {label: place for place, (label, _) in enumerate(present)}
    lookup = np.full(int(labels.max(initial=0)) + 1, -1, np.int64)
    for label, place in number.items():
        lookup[label] = place
    return MeansOfRegions(tuple(name for _, name in present), lookup[np.maximum(labels, 0)])


@dataclass(frozen=True)
class LevelReadings:
    """Rows of people: voxels [n, V] and regions [n, R] by channel, histogram [n, 256] of the T1w; V and R inside the mask."""

    voxels: dict[str, NDArray[np.float32]]
    regions: dict[str, NDArray[np.float32]]
    histogram: NDArray[np.float32]


def person_volume(prepared: Prepared, keys: tuple[str, ...], channel: str) -> NDArray[np.float32]:
    """Mean of a person's scans [X, Y, Z]."""
    total = np.zeros(prepared.plan.shape)
    for key in keys:
        total += prepared.volume(key, channel)
    return (total / len(keys)).astype(np.float32)


def num_bytes(num_people: int, grid: CoarseGrid, num_regions: int, num_channels: int) -> int:
    """On disk while the verb works."""
    return 4 * num_people * (num_channels * (int(grid.mask.sum()) + num_regions) + GREYS)


def gather(
    out: Path,
    prepared: Prepared,
    people: Exploring,
    grid: CoarseGrid,
    regions: MeansOfRegions,
    fwhm_mm: float,
    white: float,
) -> tuple[LevelReadings, WorkingArrays]:
    """Read everybody once; what an interrupted run had is kept.

    Args:
        out: folder of the work.
        prepared, people: the cohort and who of it.
        grid, regions: what is kept.
        fwhm_mm: smoothing inside the mask before the grid is made coarser.
        white: grey value (of 0 to 255) of the white-matter median.
    """
    arrays = WorkingArrays(out, len(people.scans))
    channels = channels_of(prepared)
    kept = LevelReadings(
        {channel: arrays.open(f"voxels_{channel}", (int(grid.mask.sum()),)) for channel in channels},
        {channel: arrays.open(f"regions_{channel}", (len(regions.names),)) for channel in channels if regions.names},
        arrays.open(HISTOGRAM, (GREYS,)),
    )
    mask = prepared.mask
    smooth = smoother(mask, fwhm_mm, tuple(np.linalg.norm(prepared.plan.matrix[:3, :3], axis=0)))
    volume = np.zeros(mask.shape, np.float32)
    for row in track(arrays.missing(), "reading people"):
        keys = people.scans[row]
        for channel in channels:
            inside = person_volume(prepared, keys, channel)[mask]
            if regions.names:
                kept.regions[channel][row] = regions.of(inside)
            volume[mask] = smooth(inside)
            kept.voxels[channel][row] = grid.of(volume)[grid.mask]
        kept.histogram[row] = np.mean([greys_of(prepared.volume(key, T1W)[mask], white) for key in keys], axis=0)
        arrays.mark(row)
    return kept, arrays


def greys_of(values: NDArray[np.floating], white: float) -> NDArray[np.float64]:
    """Shares [256] of voxels at each grey value of an 8-bit scan whose white matter is at `white`, without background (0)."""
    values = values[values > 0]
    greys = np.clip(np.rint(values * white), 0, GREYS - 1).astype(np.int64)
    return np.bincount(greys, minlength=GREYS) / max(1, len(greys))


def mean_volumes(prepared: Prepared, people: Exploring, channel: str) -> NDArray[np.float32]:
    """Mean over people of every level [levels, X, Y, Z]; one scan is in memory at a time."""
    total = np.zeros((len(people.levels), *prepared.plan.shape))
    for level, keys in track(zip(people.of_level, people.scans, strict=True), f"mean {channel}", len(people.scans)):
        total[level] += person_volume(prepared, keys, channel)
    counts = np.array(list(people.counts().values()), dtype=np.float64)
    return np.asarray(total / counts[:, None, None, None], dtype=np.float32)
