"""How different synthetic scans are from one another, beside how different real people are: MS-SSIM and 4-G-r* over pairs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.channels import DATA_RANGE
from gen3d.core.progress import track
from gen3d.infer.features import Scans, whole_file
from gen3d.maths.pair_similarity import GradientStructure, MultiScaleSSIM, PairMeans, choose_pairs
from gen3d.maths.stats import Interval

KEPT_BYTES = 1_500_000_000
"""Prepared scans that are kept in memory while pairs are measured."""

Row = dict[str, Any]
Moments = TypeVar("Moments")


class Measure(Generic[Moments]):
    """A likeness of two scans: its name, what one scan contributes, and the value of a pair."""

    def __init__(
        self,
        name: str,
        prepare: Callable[[NDArray[np.float32]], Moments],
        pair: Callable[[Moments, Moments], float],
        bytes_per_scan: int,
    ) -> None:
        self.name, self.prepare, self.pair = name, prepare, pair
        self.num_kept = max(2, KEPT_BYTES // max(1, bytes_per_scan))


def measures(mask: NDArray[np.bool_]) -> list[Measure[Any]]:
    """Both measures for scans inside this mask; the first one's name says its number of scales."""
    multi, structure = MultiScaleSSIM(mask, DATA_RANGE), GradientStructure(mask, DATA_RANGE)
    scales = f"{multi.scales} scale{'s' if multi.scales > 1 else ''}"
    size = 16 * mask.size
    return [
        Measure(f"MS-SSIM ({scales}, brain)", multi.prepare, multi.pair, size),
        Measure("4-G-R-SSIM (brain)", structure.prepare, structure.pair, size),
    ]


def pair_means(measure: Measure[Any], scans: Scans, num_pairs: int, seed: int, kept: Path) -> PairMeans:
    """The measure over all pairs of some scans, or over `num_pairs` random ones; values are kept in a file."""
    first, second = choose_pairs(len(scans), num_pairs, seed)
    if kept.is_file():
        return PairMeans(first, second, np.load(kept), len(scans))
    ready: OrderedDict[int, Any] = OrderedDict()

    def moments(row: int) -> Any:
        if row not in ready:
            if len(ready) >= measure.num_kept:
                ready.popitem(last=False)
            ready[row] = measure.prepare(scans.read(scans.keys[row]))
        ready.move_to_end(row)
        return ready[row]

    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    words = f"{measure.name} of {scans.name} scans"
    values = np.array([measure.pair(moments(a), moments(b)) for a, b in track(pairs, words)])
    with whole_file(kept) as partial, partial.open("wb") as stream:
        np.save(stream, values)
    return PairMeans(first, second, values, len(scans))


def diversity_rows(
    mask: NDArray[np.bool_],
    sets: Sequence[Scans],
    num_pairs: int,
    num_resamples: int,
    seed: int,
    folder: Path,
) -> list[Row]:
    """One row per measure and set: mean over pairs with its interval over scans, and the difference from the real scans.

    The first set are the real scans; their mean is what any other is read against. A higher mean is less diversity.
    """
    rows = []
    for number, measure in enumerate(measures(mask)):
        found = [
            pair_means(measure, scans, num_pairs, seed, folder / f"pairs{number}_{scans.name}.npy") for scans in sets
        ]
        real = found[0].resampled(num_resamples, seed)
        for scans, pairs in zip(sets, found, strict=True):
            # What is made from the real scans varies with them: the same people are drawn for both.
            together = scans is sets[0] or scans.made_from_real
            drawn = pairs.resampled(num_resamples, seed if together else seed + 1)
            value = _interval(pairs.mean, drawn, len(scans))
            difference = _interval(pairs.mean - found[0].mean, drawn - real, len(scans))
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
