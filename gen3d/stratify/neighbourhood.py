"""How well a map in few dimensions keeps the neighbourhoods of many (Venna and Kaski 2001)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class NeighbourhoodQuality:
    """Both between 0 and 1, and 1 for a perfect map.

    Trustworthiness falls where the map shows neighbours that are none; continuity where it tears neighbours apart.
    """

    trustworthiness: float
    continuity: float


def neighbourhood_quality(original: ArrayLike, mapped: ArrayLike, num_neighbours: int) -> NeighbourhoodQuality:
    """Trustworthiness and continuity of a map, by Euclidean distance (Venna and Kaski 2001, equations 1 and 2).

    Args:
        original: [n, d].
        mapped: [n, m], the same people in the same order.
        num_neighbours: k, size of the neighbourhood; below n / 2, where the measures are defined.

    Raises:
        ValueError: k is not between 1 and n / 2, or the numbers of people differ.
    """
    first, second = np.asarray(original, dtype=np.float64), np.asarray(mapped, dtype=np.float64)
    num = len(first)
    if len(second) != num or not 1 <= num_neighbours < num / 2:
        raise ValueError(f"{num_neighbours} neighbours of {num} and {len(second)} people: k must be below n / 2")
    before, after = neighbour_ranks(first), neighbour_ranks(second)
    scale = 2.0 / (num * num_neighbours * (2.0 * num - 3.0 * num_neighbours - 1.0))
    intruders = (after <= num_neighbours) & (before > num_neighbours)
    lost = (before <= num_neighbours) & (after > num_neighbours)
    return NeighbourhoodQuality(
        trustworthiness=1.0 - scale * float((before - num_neighbours)[intruders].sum()),
        continuity=1.0 - scale * float((after - num_neighbours)[lost].sum()),
    )


def neighbour_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rank of person j among the others by distance from person i, [n, n]: 1 is the nearest, 0 the person itself."""
    squared = squared_distances(values)
    np.fill_diagonal(squared, -1.0)
    order = np.argsort(squared, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(values))[None, :], axis=1)
    return ranks


def squared_distances(values: NDArray[np.float64], others: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Squared Euclidean distances [n, m] between rows, never negative."""
    second = values if others is None else others
    products = values @ second.T
    squared = (values**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2.0 * products
    return np.maximum(squared, 0.0)
