"""How far two groupings of the same people agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]


def contingency(first: Labels, second: Labels) -> NDArray[np.int64]:
    """How many people are in group i of one and group j of the other, [groups, groups]; labels [n] count from 0."""
    columns = int(second.max()) + 1
    counts = np.bincount(first * columns + second, minlength=(int(first.max()) + 1) * columns)
    return counts.reshape(-1, columns)


def adjusted_rand_index(first: Labels, second: Labels) -> float:
    """Agreement of two groupings beyond chance (Hubert and Arabie 1985): 1 if equal, 0 on average by chance.

    first, second [n], counting from 0. Two groupings that put everybody together, or everybody apart, agree. The value of
    scikit-learn's `adjusted_rand_score` in a thirtieth of the time, which would double that of the whole search for
    groups (2.3 to 4.8 s for 120 people): every bootstrap of every null cohort is compared.
    """
    table = contingency(first, second).astype(np.float64)
    together = _pairs(table).sum()
    rows, columns, everybody = _pairs(table.sum(axis=1)).sum(), _pairs(table.sum(axis=0)).sum(), _pairs(table.sum())
    expected = rows * columns / everybody if everybody > 0 else 0.0
    most = (rows + columns) / 2.0
    return 1.0 if most == expected else float((together - expected) / (most - expected))


def jaccard(first: Labels, second: Labels) -> NDArray[np.float64]:
    """Of every group of the first grouping, the best Jaccard similarity with a group of the second (Hennig 2007), [k].

    NaN for a group without people.
    """
    table = contingency(first, second).astype(np.float64)
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0, keepdims=True) - table
    best = np.max(np.divide(table, union, out=np.zeros_like(table), where=union > 0), axis=1)
    return np.asarray(np.where(table.sum(axis=1) > 0, best, np.nan))


def _pairs(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(counts * (counts - 1) / 2.0)
