"""Distances between synthetic and real scans in feature spaces, each beside what real scans differ by among themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gen3d.infer.features import FeatureMaker, Scans, metric_name
from gen3d.maths.set_metrics import METRICS, Compared, Pool, compare_sets, half_draws, median_distance
from gen3d.maths.stats import Interval

Row = dict[str, Any]
NUM_PERMUTATIONS = 999


def distance_rows(makers: Sequence[FeatureMaker], sets: Sequence[Scans], num_repeats: int, seed: int) -> pd.DataFrame:
    """One row per extractor, metric and set of scans.

    Args:
        makers: the extractors.
        sets: the real scans first; those of `made_from_real` are what something does to the same scans.
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
    real = features[0].reshape(-1, features[0].shape[-1])
    return Pool(np.concatenate(features), median_distance(real))


def _rows(maker: FeatureMaker, pools: Sequence[Pool], sets: Sequence[Scans], num_repeats: int, seed: int) -> list[Row]:
    starts = np.cumsum([0, *(len(scans) for scans in sets)])
    places = {
        scans.name: (np.arange(start, start + len(scans)), scans.made_from_real)
        for scans, start in zip(sets[1:], starts[1:], strict=False)
    }
    synthetic = next(scans for scans in sets[1:] if not scans.made_from_real)
    draws = half_draws(len(sets[0]), len(synthetic), num_repeats, seed)
    rows = []
    for metric in METRICS:

        def distance(first: Any, second: Any, metric: str = metric) -> float:
            return float(np.mean([getattr(pool, metric)(first, second) for pool in pools]))

        floor, found = compare_sets(distance, draws, places)
        for name, compared in found.items():
            row = _row(maker, metric, name, floor, compared)
            if name == synthetic.name and metric == "mmd":
                everybody = np.arange(len(sets[0])), places[name][0]
                # Planes see the same scans: the smallest p, corrected for their number.
                p = [pool.permuted(*everybody, NUM_PERMUTATIONS, seed) for pool in pools]
                row["p"] = min(1.0, len(pools) * min(p))
            rows.append(row)
    return rows


def _row(maker: FeatureMaker, metric: str, name: str, floor: Interval, compared: Compared) -> Row:
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
