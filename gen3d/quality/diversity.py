"""Diversity of synthetic scans compared with that of real people: MS-SSIM over pairs of scans of a set."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.cohort.channels import DATA_RANGE
from gen3d.core.progress import track
from gen3d.core.tables import Row
from gen3d.core.work_arrays import save_array
from gen3d.imaging.similarity import structural_similarity
from gen3d.maths.stats import Interval
from gen3d.quality.features import ScanSet

KEPT_BYTES = 1_500_000_000
"""Prepared scans that are kept in memory while pairs are measured."""

Moments = TypeVar("Moments")


def pair_means(measure: MultiScaleSSIM, scans: ScanSet, num_pairs: int, seed: int, kept: Path) -> PairMeans:
    """MS-SSIM of all pairs of some scans, or of `num_pairs` random ones; values are kept in a file."""
    first, second = choose_pairs(len(scans), num_pairs, seed)
    if kept.is_file():
        return PairMeans(first, second, np.load(kept), len(scans))
    ready: OrderedDict[int, list[ScaleMoments]] = OrderedDict()

    def moments(row: int) -> list[ScaleMoments]:
        if row not in ready:
            if len(ready) >= measure.num_kept:
                ready.popitem(last=False)
            ready[row] = measure.prepare(scans.read(scans.keys[row]))
        ready.move_to_end(row)
        return ready[row]

    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    steps = track(pairs, f"{measure.name} of {scans.name} scans")
    values = np.array([measure.pair(moments(a), moments(b)) for a, b in steps])
    save_array(kept, values)
    return PairMeans(first, second, values, len(scans))


def diversity_rows(
    mask: NDArray[np.bool_],
    sets: Sequence[ScanSet],
    num_pairs: int,
    num_resamples: int,
    seed: int,
    folder: Path,
) -> list[Row]:
    """One row per set: mean MS-SSIM over pairs with its interval over scans, and the difference from the real scans.

    The first set are the real scans, to which all others are compared. A higher mean is less diversity.
    """
    measure = MultiScaleSSIM(mask, DATA_RANGE)
    by_set = [pair_means(measure, scans, num_pairs, seed, folder / f"pairs_{scans.name}.npy") for scans in sets]
    real = by_set[0].resampled(num_resamples, seed)
    rows = []
    for scans, pairs in zip(sets, by_set, strict=True):
        # Derived scans vary with the real ones, so the same resamples of people are used for both and cancel in the difference.
        together = scans is sets[0] or scans.derived_from_real
        drawn = pairs.resampled(num_resamples, seed if together else seed + 1)
        value = _interval(pairs.mean, drawn, len(scans))
        difference = _interval(pairs.mean - by_set[0].mean, drawn - real, len(scans))
        rows.append(
            {"measure": measure.name, "set": scans.name, "num_scans": len(scans), "num_pairs": len(pairs.values)}
            | {"value": value.value, "value_low": value.low, "value_high": value.high}
            | ({} if scans is sets[0] else _difference(difference))
        )
    return rows


def _difference(interval: Interval) -> Row:
    return {"minus_real": interval.value, "minus_real_low": interval.low, "minus_real_high": interval.high}


def _interval(value: float, resampled: NDArray[np.float64], num: int) -> Interval:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(value, float(low), float(high), num)


Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

SIGMA_VOXELS, RADIUS_VOXELS = 1.5, 5
"""The Gaussian window of Wang et al. 2004: 11 voxels wide."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Wang et al. 2003, for five scales; with fewer scales the first ones, brought to a sum of 1."""


def num_scales(mask: Mask) -> int:
    """Scales at which the brain is still wider than the window along every axis, 1 to 5."""
    shortest = min(side.stop - side.start for side in ndimage.find_objects(mask.astype(np.uint8))[0])
    scales = 1
    while scales < len(SCALE_WEIGHTS) and shortest // 2**scales > 2 * RADIUS_VOXELS:
        scales += 1
    return scales


class Window:
    """Gaussian means of volumes [X, Y, Z] over the part of the window that lies in the mask.

    The same means as `gen3d.imaging.similarity.smoother`'s in a third of the time, by products with a banded matrix: a
    thousand pairs of every set are filtered.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self._bands = [_band(size) for size in mask.shape]
        self._inverse = np.zeros(mask.shape, np.float32)
        self._inverse[mask] = 1.0 / self._filter(mask.astype(np.float32))[mask]

    def mean(self, volume: Float) -> Float:
        """Local means at the voxels of the mask [V]; `volume` is 0 outside the mask."""
        return np.asarray((self._filter(volume) * self._inverse)[self.mask], dtype=np.float32)

    def _filter(self, volume: Float) -> Float:
        first, second, third = self._bands
        rows = (first @ volume.reshape(volume.shape[0], -1)).reshape(volume.shape)
        return np.asarray(np.matmul(second, rows) @ third, dtype=np.float32)


def _band(size: int) -> Float:
    """The window as a matrix [size, size]."""
    distance = np.abs(np.arange(size)[:, None] - np.arange(size)[None, :])
    weights = np.exp(-(distance**2) / (2 * SIGMA_VOXELS**2)) * (distance <= RADIUS_VOXELS)
    return np.asarray(weights / weights[size // 2].sum(), dtype=np.float32)


@dataclass(frozen=True)
class ScaleMoments:
    """One scan at one scale: values [X, Y, Z] about `centre`, local means [V] and variances [V]."""

    values: Float
    mean: Float
    variance: Float


class MultiScaleSSIM:
    """MS-SSIM (Wang et al. 2003) of pairs of scans inside one mask."""

    def __init__(self, mask: Mask, data_range: float) -> None:
        self.scales, self.data_range = num_scales(mask), data_range
        self.name = f"MS-SSIM ({self.scales} scale{'s' if self.scales > 1 else ''}, brain)"
        self.num_kept = max(2, KEPT_BYTES // (16 * mask.size))
        weights = np.array(SCALE_WEIGHTS[: self.scales])
        self._weights = weights / weights.sum()
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        self._box, self._windows = box, [Window(mask[box])]
        for _ in range(1, self.scales):
            self._windows.append(Window(_halved(self._windows[-1].mask.astype(np.float32)) >= 0.5))

    def prepare(self, volume: Float) -> list[ScaleMoments]:
        """What a scan [X, Y, Z] in stored units contributes to all its pairs, per scale."""
        moments, values = [], _inside(volume, self._box, self._windows[0].mask)
        for scale, window in enumerate(self._windows):
            if scale:
                values = _halved(values)
            # About the middle of the range, where float32 loses nothing to cancellation.
            centred = (values - np.float32(self.data_range / 2)) * window.mask
            mean = window.mean(centred)
            moments.append(ScaleMoments(centred, mean, np.maximum(window.mean(centred**2) - mean**2, 0)))
        return moments

    def pair(self, first: list[ScaleMoments], second: list[ScaleMoments]) -> float:
        """MS-SSIM of two prepared scans: contrast and structure at every scale, luminance at the coarsest."""
        product = 1.0
        for scale, (a, b, window) in enumerate(zip(first, second, self._windows, strict=True)):
            covariance = window.mean(a.values * b.values) - a.mean * b.mean
            middle = np.float32(self.data_range / 2)
            means = (a.mean + middle, b.mean + middle) if scale == self.scales - 1 else None
            similarity = structural_similarity(covariance, a.variance + b.variance, self.data_range, means)
            product *= max(float(similarity.mean()), 0.0) ** float(self._weights[scale])
        return product


def _inside(volume: Float, box: tuple[slice, ...], mask: Mask) -> Float:
    """The brain's box of a volume, 0 outside the mask."""
    return np.asarray(volume[box] * mask, dtype=np.float32)


def _halved(values: Float) -> Float:
    """Means of blocks of 2 x 2 x 2 voxels; an odd last plane is left out."""
    x, y, z = (side // 2 for side in values.shape)
    even = values[: 2 * x, : 2 * y, : 2 * z]
    return np.asarray(even.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5)), dtype=np.float32)


@dataclass(frozen=True)
class PairMeans:
    """Values [p] of pairs of scans (first [p], second [p]) among `num` scans: their mean, and its interval over scans."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    values: NDArray[np.float64]
    num: int

    @property
    def mean(self) -> float:
        """Over pairs."""
        return float(self.values.mean())

    def resampled(self, num_resamples: int, seed: int) -> NDArray[np.float64]:
        """The mean when scans, not pairs, are drawn again with replacement [r]; a scan is never paired with itself."""
        generator = np.random.default_rng(seed)
        weights = generator.multinomial(self.num, np.full(self.num, 1 / self.num), size=num_resamples).astype(
            np.float64
        )
        pairs = weights[:, self.first] * weights[:, self.second]
        total = pairs.sum(axis=1)
        return np.asarray(np.where(total > 0, pairs @ self.values / np.maximum(total, 1e-12), np.nan))


def choose_pairs(num: int, most: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of `num` scans, or `most` of them at random, ordered by the first scan."""
    first, second = np.triu_indices(num, 1)
    if len(first) > most:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(first))[:most])
        first, second = first[chosen], second[chosen]
    return first.astype(np.int64), second.astype(np.int64)
