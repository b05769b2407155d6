"""Distances between two sets of scans in a feature space, with that between two halves of real scans as the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gen3d.maths.stats import Interval

Float = NDArray[np.float64]
Rows = NDArray[np.int64]

METRICS = ("fid", "kid", "mmd")
MIN_SCANS = 2
"""ScanSet in each of two sets that a covariance, or a mean over pairs of scans, needs."""

AT_ONCE = 1024
"""Vectors that are compared with all others at a time."""

MOST_IN_MEDIAN = 4096
"""Vectors whose median distance is the width of the Gaussian kernel."""


def median_distance(features: ArrayLike) -> float:
    """Median Euclidean distance between two different rows [n, d]; 1 where all rows are equal.

    Of more than MOST_IN_MEDIAN rows, that many that lie evenly over them are compared.
    """
    values = np.asarray(features, dtype=np.float64)
    if len(values) > MOST_IN_MEDIAN:
        values = values[np.linspace(0, len(values) - 1, MOST_IN_MEDIAN).round().astype(np.int64)]
    squares = (values**2).sum(axis=1)
    squared = _squared_distances(values @ values.T, squares, squares)
    middle = float(np.sqrt(np.median(squared[np.triu_indices(len(values), 1)])))
    return middle if middle > 0 else 1.0


def _squared_distances(inner: Float, squares: Float, others: Float) -> Float:
    """From inner products [n, m] and squared lengths [n] and [m]."""
    return np.maximum(squares[:, None] + others[None, :] - 2.0 * inner, 0.0)


@dataclass(frozen=True)
class Pool:
    """Features [n, k, d] of all scans that are compared: k vectors of d numbers per scan.

    `bandwidth` is that of the Gaussian kernel; it belongs to the pool, so that all distances are on one scale.
    """

    features: Float
    bandwidth: float = 1.0

    @cached_property
    def _flat(self) -> Float:
        return np.asarray(self.features, dtype=np.float64).reshape(-1, self.features.shape[-1])

    @cached_property
    def _centred(self) -> Float:
        return self._flat - self._flat.mean(axis=0)  # distances do not change, and rounding errors are smaller

    @cached_property
    def _polynomial(self) -> Float:
        flat = self._flat
        return self._by_scan(lambda rows: (flat[rows] @ flat.T / flat.shape[1] + 1.0) ** 3)

    @cached_property
    def _gaussian(self) -> Float:
        centred, width = self._centred, 2.0 * self.bandwidth**2
        squares = (centred**2).sum(axis=1)

        def kernel(rows: slice) -> Float:
            squared = _squared_distances(centred[rows] @ centred.T, squares[rows], squares)
            squared /= -width
            return np.exp(squared, out=squared)

        return self._by_scan(kernel)

    def _by_scan(self, kernel: Callable[[slice], Float]) -> Float:
        """Mean of a kernel over the vectors of two scans, [n, n], 0 on the diagonal: a scan is not compared with itself.

        kernel: some vectors -> their kernel with all vectors; as many at a time as bound the memory.
        """
        num, per_scan, _ = self.features.shape
        means = np.empty((num, num))
        step = max(1, AT_ONCE // per_scan)
        for start in range(0, num, step):
            some = kernel(slice(start * per_scan, (start + step) * per_scan))
            means[start : start + step] = some.reshape(-1, per_scan, num, per_scan).mean(axis=(1, 3))
        np.fill_diagonal(means, 0.0)
        return means

    def fid(self, first: Rows, second: Rows) -> float:
        """Squared Frechet distance of two Gaussians with the moments of two sets (Heusel et al. 2017); vectors are samples.

        ||mu_x - mu_y||^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2). The last trace is the sum of the singular values of
        X_c Y_c' / sqrt((n - 1)(m - 1)), which are those of R_x R_y' where X_c = Q_x R_x and Y_c = Q_y R_y: neither a [d, d]
        nor an [n, m] matrix is larger than it must be. Biased upwards by about tr S (1 / n + 1 / m) and
        more: only distances of the same n and m can be compared. With fewer samples than dimensions a set without any
        variety can be nearer than another sample of the same distribution; the MMD is not fooled by that.
        """
        x, y = (self._centred[self._vectors(rows)] for rows in (first, second))
        between = float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum())
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        traces = sum(float((part**2).sum()) / (len(part) - 1.0) for part in (x, y))
        shared = np.linalg.svd(_factor(x) @ _factor(y).T, compute_uv=False).sum()
        return float(between + traces - 2.0 * shared / np.sqrt((len(x) - 1.0) * (len(y) - 1.0)))

    def kid(self, first: Rows, second: Rows) -> float:
        """KID of two disjoint sets: unbiased squared MMD with the kernel (x'y / d + 1)^3 (Binkowski et al. 2018).

        Its mean is 0 for samples of one distribution whatever their size, so that it may be negative.
        """
        return _unbiased(self._polynomial, first, second)

    def mmd(self, first: Rows, second: Rows) -> float:
        """Unbiased squared MMD of two disjoint sets with the kernel exp(-|x - y|^2 / (2 bandwidth^2)) (Gretton et al. 2012)."""
        return _unbiased(self._gaussian, first, second)

    def permuted(self, first: Rows, second: Rows, num_permutations: int, seed: int) -> float:
        """p of the hypothesis that two sets come from one distribution: scans change sets at random, statistic `mmd`.

        (1 + permutations that are at least as far apart) / (1 + permutations), so that it is never 0.
        """
        both = np.concatenate([first, second])
        kernel = self._gaussian[np.ix_(both, both)]
        generator = np.random.default_rng(seed)
        member = np.zeros((num_permutations + 1, len(both)))
        member[0, : len(first)] = 1.0
        for row in member[1:]:
            row[generator.permutation(len(both))[: len(first)]] = 1.0
        rest = 1.0 - member
        to_members, to_rest = member @ kernel, rest @ kernel
        within, outside = (to_members * member).sum(axis=1), (to_rest * rest).sum(axis=1)
        across = (to_members * rest).sum(axis=1)
        n, m = len(first), len(second)
        statistic = within / (n * (n - 1)) + outside / (m * (m - 1)) - 2.0 * across / (n * m)
        # Rounding must not decide between the observed arrangement and a permutation that repeats it.
        at_least = int(np.sum(statistic[1:] >= statistic[0] - 1e-12 * max(1.0, abs(float(statistic[0])))))
        return (1.0 + at_least) / (1.0 + num_permutations)

    def _vectors(self, scans: Rows) -> Rows:
        per_scan = self.features.shape[1]
        return (np.asarray(scans)[:, None] * per_scan + np.arange(per_scan)).ravel()


def _factor(values: Float) -> Float:
    """R of values = Q R where there are more rows than columns, else the values: with the same inner products of columns."""
    return np.asarray(np.linalg.qr(values, mode="r")) if len(values) > values.shape[1] else values


def _unbiased(kernel: Float, first: Rows, second: Rows) -> float:
    n, m = len(first), len(second)
    within = kernel[np.ix_(first, first)].sum() / (n * (n - 1))
    outside = kernel[np.ix_(second, second)].sum() / (m * (m - 1))
    return float(within + outside - 2.0 * kernel[np.ix_(first, second)].mean())


@dataclass(frozen=True)
class Draw:
    """One repetition: n real scans `real`, n other real scans `other`, and n positions in every further set."""

    real: Rows
    other: Rows
    positions: Rows


def half_draws(num_real: int, num_synthetic: int, num_repeats: int, seed: int) -> list[Draw]:
    """Repeated halves: two disjoint sets of n real scans, and n synthetic ones; n = min(num_real // 2, num_synthetic).

    Raises:
        ValueError: fewer than two scans in a half.
    """
    size = min(num_real // 2, num_synthetic)
    if size < MIN_SCANS:
        raise ValueError(f"{num_real} real and {num_synthetic} synthetic scans leave {size} in each half")
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(num_repeats):
        order = generator.permutation(num_real)
        chosen = generator.permutation(num_synthetic)[:size]
        draws.append(Draw(order[:size], order[size : 2 * size], chosen))
    return draws


Distance = Callable[[Rows, Rows], float]


@dataclass(frozen=True)
class SetDistances:
    """One set against real scans over repeated halves.

    `value` and `excess` (value minus the floor of the same repetition) are means with the 2.5th and 97.5th percentile over
    repetitions. A half differs from the whole about as much as the whole from the population (the delete-half jackknife
    of Shao and Wu 1989), so that the percentiles are read as an interval over scans; `num` is the n of each set.
    """

    value: Interval
    excess: Interval


def compare_sets(
    distance: Distance, draws: Sequence[Draw], sets: Mapping[str, tuple[Rows, bool]]
) -> tuple[Interval, dict[str, SetDistances]]:
    """The floor (real against other real scans) and every set against the same real scans.

    Args:
        distance: between two arrays of row numbers of the pool; the real scans are its first rows.
        draws: of `half_draws`.
        sets: name -> (rows of the pool, whether row i is derived from real scan i). Of a derived set, the scans derived from
            `Draw.other` are used, so that no real scan is compared with its own changed copy.
    """
    floor = np.array([distance(draw.other, draw.real) for draw in draws])
    by_set = {}
    for name, (rows, paired) in sets.items():
        values = np.array([distance(rows[draw.other if paired else draw.positions], draw.real) for draw in draws])
        num = len(draws[0].real)
        by_set[name] = SetDistances(over_repeats(values, num), over_repeats(values - floor, num))
    return over_repeats(floor, len(draws[0].real)), by_set


def over_repeats(values: ArrayLike, num: int) -> Interval:
    """Mean and 2.5th and 97.5th percentile of repetitions; `num` is the n of each."""
    repeats = np.asarray(values, dtype=np.float64)
    low, high = np.percentile(repeats, [2.5, 97.5])
    return Interval(float(repeats.mean()), float(low), float(high), num)
