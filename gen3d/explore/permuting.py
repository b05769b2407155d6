"""Differences between two groups of people in many readings, corrected for all of them by permutation within strata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ALPHA = 0.05
BLOCK = 4096
"""Readings that are in memory together, [people, BLOCK]."""


@dataclass(frozen=True)
class Shuffles:
    """A label of people and shuffles of it, freed from strata and covariates.

    Attributes:
        design: orthonormal columns [n, k] of strata (each with its mean), and of covariates.
        labels: the label and its shuffles, [1 + P, n], each with unit length after the design is taken out.
        scale: length of the label after that, so that a slope is in the label's own units.
        smallest_p: the smallest p that shuffles within the strata can give.
    """

    design: Floats
    labels: Floats
    scale: float
    smallest_p: float

    @property
    def degrees(self) -> int:
        """Of freedom of the residuals."""
        return self.labels.shape[1] - self.design.shape[1] - 1

    @property
    def possible(self) -> bool:
        """Whether the label varies within strata at all, and residuals remain."""
        return self.scale > 1e-9 and self.degrees > 0


@dataclass(frozen=True)
class Effects:
    """Per reading [V]: slope in the label's units, SD of the residuals, t, p corrected for all readings.

    `largest` |t| of the label and of every shuffle [1 + P]; `critical` is the |t| beyond which the corrected p is at most 5 %.
    """

    slope: Floats
    sd: Floats
    t: Floats
    p_fwe: Floats
    largest: Floats
    critical: float

    @property
    def smallest_p(self) -> float:
        """The smallest of the corrected p values."""
        return float(np.min(self.p_fwe, initial=1.0))


def shuffled(label: Floats, strata: NDArray[np.int64], covariates: Floats, num: int, seed: tuple[int, ...]) -> Shuffles:
    """Shuffle a label within strata.

    Args:
        label: of every person [n]: 0 and 1, or the number of a level.
        strata: within which people may be exchanged [n]; each gets its own mean.
        covariates: whose effects are taken out as well [n, c]. The label is shuffled first and then freed from them (Draper and
            Stoneman 1966, Technometrics 8:695), exact within strata and approximate for covariates.
        num: shuffles P.
        seed: of the shuffles; they depend on it and on the order of people alone.
    """
    generator = np.random.default_rng(seed)
    means = (strata[:, None] == np.unique(strata)[None, :]).astype(np.float64)
    design = _orthonormal(np.concatenate([means, covariates], axis=1))
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    labels = np.empty((num + 1, len(label)))
    labels[0] = label
    for row in labels[1:]:
        for people in members:
            row[people] = label[generator.permutation(people)]
    labels -= (labels @ design) @ design.T
    lengths = np.linalg.norm(labels, axis=1)
    scale = float(lengths[0])
    return Shuffles(
        design, labels / np.maximum(lengths, 1e-12)[:, None], scale, max(_chance(label, members), 1 / (num + 1))
    )


def _orthonormal(columns: Floats) -> Floats:
    """Columns [n, k] spanning the same, without those that add nothing."""
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, singular > 1e-9 * max(float(singular.max(initial=0.0)), 1e-30)])


def _chance(label: Floats, members: list[NDArray[np.int64]]) -> float:
    """One over the number of different shuffles."""
    logarithm = 0.0
    for people in members:
        counts = np.unique(label[people], return_counts=True)[1]
        logarithm += _log_factorial(len(people)) - sum(_log_factorial(int(num)) for num in counts)
    return float(np.exp(-logarithm))


def _log_factorial(num: int) -> float:
    return float(np.sum(np.log(np.arange(1, num + 1))))


class SomeRows:
    """Some rows of an array on disk, of which only the columns that are asked for are read."""

    def __init__(self, values: NDArray[np.floating], rows: NDArray[np.int64]) -> None:
        self._values, self._rows = values, rows
        self.shape = (len(rows), values.shape[1])

    def __getitem__(self, place: tuple[slice, slice]) -> NDArray[np.floating]:
        return np.asarray(self._values[:, place[1]][self._rows])


def effects_of(readings: NDArray[np.floating] | SomeRows, shuffles: Shuffles) -> Effects:
    """Slopes on a label, with p corrected for all readings by the largest |t| of every shuffle.

    Westfall and Young 1993 (Resampling-based multiple testing), single step; p = (1 + shuffles whose largest |t| is as large) /
    (shuffles + 1), never 0 (Phipson and Smyth 2010). Readings are taken BLOCK by BLOCK, so that they may lie on disk.

    Args:
        readings: [n, V]; a reading that does not vary has t 0.
        shuffles: of the label.
    """
    num = readings.shape[1]
    slope, sd, t = np.zeros(num), np.zeros(num), np.zeros(num)
    largest = np.zeros(len(shuffles.labels))
    if not shuffles.possible:
        return Effects(slope, sd, t, np.ones(num), largest, np.inf)
    for part in _blocks(num):
        values = np.asarray(readings[:, part], dtype=np.float64)
        values = values - values.mean(axis=0)
        size = np.linalg.norm(values, axis=0)
        left = values - shuffles.design @ (shuffles.design.T @ values)
        total = np.sum(left**2, axis=0)
        along = shuffles.labels @ left
        varies = total > 1e-14 * np.maximum(size**2, 1e-30)
        rest = np.maximum(total - along**2, 1e-12 * np.maximum(total, 1e-30))
        every = np.where(varies, along / np.sqrt(rest / shuffles.degrees), 0.0)
        largest = np.maximum(largest, np.abs(every).max(axis=1, initial=0.0))
        t[part] = every[0]
        slope[part] = np.where(varies, along[0] / shuffles.scale, 0.0)
        sd[part] = np.where(varies, np.sqrt(rest[0] / shuffles.degrees), 0.0)
    null = np.sort(largest[1:])
    # Ties up to rounding count as reached.
    reached = len(null) - np.searchsorted(null, np.abs(t) * (1 - 1e-9), side="left")
    p = (1.0 + reached) / (len(null) + 1.0)
    allowed = int(np.floor(ALPHA * (len(null) + 1))) - 1  # shuffles that may reach the critical value
    critical = float(null[len(null) - 1 - allowed]) if 0 <= allowed < len(null) else np.inf
    return Effects(slope, sd, t, np.asarray(p, dtype=np.float64), largest, critical)


def corrected_for_all(p: Floats, family: Sequence[Effects]) -> Floats:
    """p values that are corrected within their map, corrected for all maps of a family that the same shuffles were used for.

    The smallest p of all maps in every shuffle is what a small p is compared with (Westfall and Young 1993, min P), so that maps
    that go together cost little. p [V] -> [V].
    """
    largest = np.stack([effects.largest for effects in family])
    ordered = np.sort(largest, axis=1)
    num = largest.shape[1]
    reached = np.stack(
        [num - np.searchsorted(row, mine * (1 - 1e-9), side="left") for row, mine in zip(ordered, largest, strict=True)]
    )
    smallest = np.sort(reached.min(axis=0) / num)
    return np.asarray(np.searchsorted(smallest, np.asarray(p) * (1 + 1e-9), side="right") / num)


def _blocks(num: int) -> Iterator[slice]:
    for start in range(0, num, BLOCK):
        yield slice(start, min(num, start + BLOCK))
