"""Distances between synthetic and real scans in feature spaces, with that between two halves of real scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gen3d.core.memory import announce_memory
from gen3d.core.tables import Row
from gen3d.maths.set_distances import (
    AT_ONCE,
    METRICS,
    Pool,
    SetDistances,
    compare_sets,
    half_draws,
    median_distance,
)
from gen3d.maths.stats import Interval
from gen3d.quality.features import FeatureMaker, ScanSet, metric_name

NUM_PERMUTATIONS = 999


def distance_rows(makers: Sequence[FeatureMaker], sets: Sequence[ScanSet], num_repeats: int, seed: int) -> pd.DataFrame:
    """One row per extractor, metric and set of scans.

    Args:
        makers: the extractors.
        sets: the real scans first; those that are `derived_from_real` are the same scans, changed.
        num_repeats: halves of the real people that are drawn.
        seed: of the halves and permutations.

    Columns: extractor, normalisation, metric, name (with extractor, n and normalisation), set, n, and each with `_low` and
    `_high`: value, floor (two halves of the real people) and excess (value - floor). `ratio` is value / floor for the FID,
    which is never 0. `p` is that of a permutation test on all scans of both sets (synthetic only).
    """
    rows: list[Row] = []
    for maker in makers:
        planes = list(zip(*(maker.features(scans) for scans in sets), strict=True))
        pools = [_pool([plane.astype(np.float64) for plane in of_sets]) for of_sets in planes]
        rows += _rows(maker, pools, sets, num_repeats, seed)
    return pd.DataFrame(rows)


def _pool(features: list[np.ndarray[Any, np.dtype[np.float64]]]) -> Pool:
    """All scans of one plane; the Gaussian kernel's width is the median distance of real vectors, the same for all sets."""
    num, per_scan = sum(len(part) for part in features), features[0].shape[1]
    announce_memory(f"the kernels of {num} scans", num_bytes_of_kernels(num, per_scan), "lower most_people")
    real = features[0].reshape(-1, features[0].shape[-1])
    return Pool(np.concatenate(features), median_distance(real))


def num_bytes_of_kernels(num: int, per_scan: int) -> int:
    """Of two kernels of scans, which stay in memory, and of the vectors of some scans with all, while one is made."""
    return 8 * (2 * num**2 + 4 * min(num * per_scan, AT_ONCE + per_scan) * num * per_scan)


def _rows(
    maker: FeatureMaker, pools: Sequence[Pool], sets: Sequence[ScanSet], num_repeats: int, seed: int
) -> list[Row]:
    starts = np.cumsum([0, *(len(scans) for scans in sets)])
    places = {
        scans.name: (np.arange(start, start + len(scans)), scans.derived_from_real)
        for scans, start in zip(sets[1:], starts[1:], strict=False)
    }
    synthetic = next(scans for scans in sets[1:] if not scans.derived_from_real)
    draws = half_draws(len(sets[0]), len(synthetic), num_repeats, seed)
    rows = []
    for metric in METRICS:

        def distance(first: Any, second: Any, metric: str = metric) -> float:
            return float(np.mean([getattr(pool, metric)(first, second) for pool in pools]))

        floor, by_set = compare_sets(distance, draws, places)
        for name, compared in by_set.items():
            row = _row(maker, metric, name, floor, compared)
            if name == synthetic.name and metric == "mmd":
                everybody = np.arange(len(sets[0])), places[name][0]
                # Planes see the same scans: the smallest p, corrected for their number.
                p = [pool.permuted(*everybody, NUM_PERMUTATIONS, seed) for pool in pools]
                row["p"] = min(1.0, len(pools) * min(p))
            rows.append(row)
    return rows


def _row(maker: FeatureMaker, metric: str, name: str, floor: Interval, compared: SetDistances) -> Row:
    kind, num = maker.config.kind, compared.value.num
    return {
        "extractor": kind,
        "normalisation": maker.normalisation,
        "metric": metric,
        "name": metric_name(metric, kind, num, maker.normalisation),
        "set": name,
        "n": num,
        **_columns("value", compared.value),
        **_columns("floor", floor),
        **_columns("excess", compared.excess),
        "ratio": compared.value.value / floor.value if metric == "fid" and floor.value > 0 else float("nan"),
        "p": float("nan"),
    }


def _columns(name: str, interval: Interval) -> Row:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
