"""How far one scan stands out from all others by its nearest neighbour: the sign of a copy, or of one person under two ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Index = NDArray[np.int64]


LARGEST_CORRELATION = 1.0 - 1e-6  # of an exact copy, so that its Fisher transform is finite


NUM_STANDING_OUT = 2


LEAST_ISOLATION = 3.0


def isolation(similarity: Float, num_train: int) -> tuple[Index, Float]:
    """How far the nearest training person, or the nearest two, stand out from all others.

    With w = artanh(correlation), w1 and w2 of the two nearest training people and SD over the people left: the larger of
    (w1 - w of the nearest other person) / SD and (w2 - w of the nearest person but these two) / SD. It is a
    nearest-neighbour ratio on Fisher's scale; the SD belongs to the query, so that scans which correlate with all others
    (blurred, or of an outlying kind) are not taken for copies. The second term finds mixtures of two people, and copies of
    a person who is in the training cohort twice.

    Args:
        similarity: [q, people] correlations, at least two training people first; NaN where the query is that person.
        num_train: how many are training people.

    Returns:
        the nearest training person [q] and the isolation [q].
    """
    rows = np.arange(len(similarity))
    scale = np.arctanh(np.clip(similarity, -LARGEST_CORRELATION, LARGEST_CORRELATION))
    nearest, largest = None, np.full(len(rows), -np.inf)
    for _ in range(min(NUM_STANDING_OUT, num_train - 1)):
        person = np.nanargmax(scale[:, :num_train], axis=1)
        nearest = person if nearest is None else nearest
        highest = scale[rows, person]
        scale[rows, person] = np.nan
        spread = np.maximum(np.nanstd(scale, axis=1, ddof=1), 1.0 - LARGEST_CORRELATION)
        np.maximum(largest, (highest - np.nanmax(scale, axis=1)) / spread, out=largest)
    assert nearest is not None, "a nearest training person among fewer than two"
    return nearest, largest


def strangers_isolation(similarity: Float) -> Float:
    """How far the nearest of somebody without a copy would stand out, estimated from the people behind the nearest, [q].

    Of independent values that fall off as normal ones do, the distances between the k-th and the next largest, each multiplied
    by k, have one distribution (Renyi, 1953, Acta Math. Hung. 4:191). So twice the distance of the second from the third, and 3/2
    of the distance of the third from the fourth, stand for the two terms of `isolation` in people who are in the data
    once, however many others are in them twice.

    Args:
        similarity: [q, people] correlations, at least five people; NaN where the query is that person.
    """
    scale = np.arctanh(np.clip(similarity, -LARGEST_CORRELATION, LARGEST_CORRELATION))
    ordered = -np.sort(-scale, axis=1)  # NaN last

    def spread(left_out: int) -> Float:
        return np.maximum(np.nanstd(ordered[:, left_out:], axis=1, ddof=1), 1.0 - LARGEST_CORRELATION)

    second = 2.0 * (ordered[:, 1] - ordered[:, 2]) / spread(2)
    third = 1.5 * (ordered[:, 2] - ordered[:, 3]) / spread(3)
    return np.maximum(second, third)


def extreme_threshold(values: Float, tail: float) -> tuple[float, int]:
    """The isolation that real people exceed with probability `tail`, far beyond what so few people show.

    A Gumbel distribution (that of largest values) fitted by moments, and never less than LEAST_ISOLATION: a fit to a few
    people who differ in kind can be far too narrow. Values beyond the threshold of a first fit by median and median
    deviation are left out, because one person scanned under two names would hide all copies.

    Returns:
        the threshold, and how many people exceed it among those left out.
    """

    def beyond(location: float, scale: float) -> float:
        return location - scale * float(np.log(-np.log1p(-tail)))

    median = float(np.median(values))
    scale = float(np.median(np.abs(values - median))) / 0.7674  # MAD of a standard Gumbel distribution
    kept = values[values <= beyond(median + scale * float(np.log(np.log(2.0))), scale)]
    scale = float(kept.std(ddof=1)) * np.sqrt(6.0) / np.pi
    threshold = max(LEAST_ISOLATION, beyond(float(kept.mean()) - np.euler_gamma * scale, scale))
    return threshold, int(np.sum(values > threshold))
