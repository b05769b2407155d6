"""How well a map keeps neighbourhoods, some people at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

COMPARED_AT_ONCE = 256
MOST_JUDGED = 4000
"""People whose neighbours are judged, evenly over larger cohorts; their ranks are among everybody."""


def trustworthiness(values: ArrayLike, coordinates: ArrayLike, num_neighbours: int) -> float:
    """Trustworthiness of a map (Venna and Kaski 2001, equation 3): 1 where nobody is a neighbour in the map alone.

    1 - 2 / (n k (2n - 3k - 1)) times the sum over people, and over their k neighbours in the map, of how far beyond k the
    neighbour ranks in the space. The same as that of scikit-learn, which needs distances of everybody from everybody. Of more
    than MOST_JUDGED people the sum over as many, times their share, stands for the whole.

    Args:
        values: people in the space [n, d].
        coordinates: the same people in the map [n, m].
        num_neighbours: k, less than n / 2.
    """
    space = np.asarray(values, dtype=np.float64)
    num = len(space)
    finder = NearestNeighbors(n_neighbors=num_neighbours).fit(np.asarray(coordinates, dtype=np.float64))
    near: NDArray[np.int64] = finder.kneighbors(return_distance=False)
    judged = np.arange(num) if num <= MOST_JUDGED else np.linspace(0, num - 1, MOST_JUDGED).round().astype(np.int64)
    excess = 0
    for start in range(0, len(judged), COMPARED_AT_ONCE):
        rows = judged[start : start + COMPARED_AT_ONCE]
        distance = cdist(space[rows], space)
        distance[np.arange(len(rows)), rows] = np.inf
        ranks = np.empty(distance.shape, dtype=np.int64)
        np.put_along_axis(ranks, np.argsort(distance, axis=1), np.arange(1, num + 1)[None, :], axis=1)
        beyond = np.take_along_axis(ranks, near[rows], axis=1) - num_neighbours
        excess += int(beyond[beyond > 0].sum())
    share = num / len(judged)
    return 1.0 - share * excess * (2.0 / (num * num_neighbours * (2.0 * num - 3.0 * num_neighbours - 1.0)))
