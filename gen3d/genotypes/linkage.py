"""Pruning of variants in linkage disequilibrium: a variant stays if its r2 with those that stayed close before it is small."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MOST_PEOPLE = 2000
"""People whose calls r2 is computed from: its standard error is then about 0.02."""

LEAST_TOGETHER = 64


class Pruning:
    """Goes through variants in their order, block by block, and says which stay.

    A variant stays if its squared correlation with every variant that stayed among the `window` before it, on the same
    chromosome, is at most `most_r2`. PLINK's --indep-pairwise chooses by frequency which of two goes; here the first stays, so that
    the choice depends on who is in the cohort no more than it must.
    """

    def __init__(self, window: int, most_r2: float) -> None:
        self._window, self._most_r2 = window, most_r2
        self._kept: list[tuple[str, int, NDArray[np.float32]]] = []
        self._num = 0

    def __call__(self, chromosomes: Iterable[str], dosages: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which variants of the next block stay.

        Args:
            chromosomes: of each variant, [b].
            dosages: [people, b], NaN where missing.
        """
        names, num_together = list(chromosomes), max(self._window, LEAST_TOGETHER)
        parts = [slice(start, start + num_together) for start in range(0, len(names), num_together)]
        return np.concatenate([np.empty(0, dtype=bool), *(self._next(names[part], dosages[:, part]) for part in parts)])

    def _next(self, names: list[str], dosages: NDArray[np.float32]) -> NDArray[np.bool_]:
        values, num = standardised(thinned(dosages)), len(names)
        stays = np.zeros(num, dtype=bool)
        blocked = np.asarray(~np.isfinite(values).all(axis=0), dtype=bool)
        values[:, blocked] = 0
        before = [item for item in self._kept if self._num - item[1] <= self._window]
        if before:
            near = np.stack([item[2] for item in before], axis=1)
            r2 = np.square(values.T @ near)
            place = np.array([item[1] for item in before])
            same = np.array([item[0] for item in before])[None] == np.array(names)[:, None]
            close = (self._num + np.arange(num))[:, None] - place[None] <= self._window
            blocked |= (same & close & (r2 > self._most_r2)).any(axis=1)
        within = np.square(values.T @ values) > self._most_r2
        same_within = np.array(names)[:, None] == np.array(names)[None]
        for j in range(num):
            if blocked[j]:
                continue
            stays[j] = True
            end = min(num, j + self._window + 1)
            blocked[j + 1 : end] |= (within[j] & same_within[j])[j + 1 : end]
        self._kept = before + [(names[j], self._num + int(j), values[:, j]) for j in np.flatnonzero(stays)]
        self._num += num
        return stays


def thinned(dosages: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most `MOST_PEOPLE` evenly spaced rows."""
    num = len(dosages)
    if num <= MOST_PEOPLE:
        return dosages
    return dosages[np.linspace(0, num - 1, MOST_PEOPLE).astype(int)]


def standardised(dosages: NDArray[np.float32]) -> NDArray[np.float32]:
    """Columns with mean 0 and length 1, missing calls 0; a column without variation is NaN. [people, b]."""
    missing = np.isnan(dosages)
    counts = np.maximum((~missing).sum(axis=0), 1)
    means = np.where(missing, 0, dosages).sum(axis=0, dtype=np.float64) / counts
    centred = np.where(missing, 0, dosages - means.astype(np.float32))
    length = np.sqrt(np.square(centred, dtype=np.float64).sum(axis=0))
    return np.divide(centred, length.astype(np.float32), out=np.full_like(centred, np.nan), where=(length > 0)[None, :])
