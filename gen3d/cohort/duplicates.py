"""People who are in a cohort under two ids, found by the similarity of their scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.seen import MOST_NAMED
from gen3d.core.errors import UserError
from gen3d.core.memory import announce_memory
from gen3d.maths.isolation import LARGEST_CORRELATION, LEAST_ISOLATION, extreme_threshold, isolation

REMEDY = "give fewer people"
Duplicates = Literal["refuse", "merge", "waive"]
CHANCE_OF_A_PAIR = 1e-5
"""How rarely real people may stand out so far from everybody else."""

COMPARED_AT_ONCE = 1024
FEWEST_PEOPLE = 20
FEWEST_DIMENSIONS = 20
"""Below, correlations of unrelated people are high by chance."""


@dataclass(frozen=True)
class Pair:
    """Two ids whose scans are as alike as two scans of one person."""

    first: str
    second: str
    similarity: float
    isolation: float


def find_duplicates(vectors: NDArray[np.floating], subjects: Sequence[str]) -> list[Pair]:
    """Pairs of subjects that are each other's nearest, and as far from all others as two scans of one person are.

    Nearness is the correlation of the first n / 2 principal components, made equally large: left as they are, age and size
    make strangers alike (of pairs with a correlation of 0.9 about a strong common factor, half were found without and all
    with it, no stranger in 100 simulated cohorts either way). How far the nearest stands out is measured on Fisher's scale in
    SD over everybody else (`maths.isolation.isolation`), against the distribution of that number in the cohort.

    Args:
        vectors: [n, d] features, or an isometric image of voxels; the first scan of each subject counts.
        subjects: whose they are [n].

    Returns:
        pairs, the most alike first; none where fewer than 20 people or 20 dimensions say too little.
    """
    names, first = np.unique(np.asarray(subjects, dtype=str), return_index=True)
    values = np.asarray(vectors[first], dtype=np.float64)
    if len(names) < FEWEST_PEOPLE or values.shape[1] < FEWEST_DIMENSIONS:
        return []
    # The components that are compared: up to n / 2 of n people, the one thing here that grows with their square.
    num_bytes = 8 * len(names) * (4 * min(values.shape) + COMPARED_AT_ONCE)
    announce_memory(
        f"the components of {len(names)} people, in which ids of one person are searched,", num_bytes, REMEDY
    )
    vectors_left, powers, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    kept = min(len(names) // 2, int((powers > 1e-6 * powers[0]).sum()))
    whitened = vectors_left[:, :kept]
    length = np.linalg.norm(whitened, axis=1)
    if kept < FEWEST_DIMENSIONS // 2 or not (length > 0).all():
        return []
    nearest, likeness, alone = _nearest_of_each(whitened, length)
    threshold = max(extreme_threshold(alone, CHANCE_OF_A_PAIR)[0], LEAST_ISOLATION)
    pairs = [
        Pair(str(names[i]), str(names[j]), float(likeness[i]), float(min(alone[i], alone[j])))
        for i, j in enumerate(nearest)
        if i < j and nearest[j] == i and min(alone[i], alone[j]) > threshold
    ]
    return sorted(pairs, key=lambda pair: -pair.similarity)


def _nearest_of_each(
    whitened: NDArray[np.float64], length: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each person [n]: the nearest other person, their correlation, and how far that one stands out.

    A few people are compared with everybody at a time, so that memory grows with people and not with their square.
    """
    num = len(whitened)
    nearest, likeness, alone = np.empty(num, dtype=np.int64), np.empty(num), np.empty(num)
    for start in range(0, num, COMPARED_AT_ONCE):
        rows = np.arange(start, min(start + COMPARED_AT_ONCE, num))
        similarity = (whitened[rows] @ whitened.T) / np.outer(length[rows], length)
        np.clip(similarity, -1.0, LARGEST_CORRELATION, out=similarity)
        similarity[rows - start, rows] = np.nan
        nearest[rows], alone[rows] = isolation(similarity, num)
        likeness[rows] = similarity[rows - start, nearest[rows]]
    return nearest, likeness, alone


def groups_of(subjects: Sequence[str], pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Number of the person of each scan [n]; ids that are one person have one number."""
    names = list(dict.fromkeys(map(str, subjects)))
    number = {name: index for index, name in enumerate(names)}
    for pair in pairs:
        low, high = sorted((number[pair.first], number[pair.second]))
        number = {name: low if index == high else index for name, index in number.items()}
    return np.array([number[str(subject)] for subject in subjects], dtype=np.int64)


def judge_duplicates(pairs: Sequence[Pair], policy: Duplicates) -> tuple[str, ...]:
    """The sentence about the pairs, for the report; none without pairs.

    Raises:
        UserError: with refuse, naming the pairs.
    """
    if not pairs:
        return ()
    listing = "; ".join(f"{pair.first} and {pair.second} (r {pair.similarity:.3f})" for pair in pairs[:MOST_NAMED])
    what = f"{len(pairs)} pair(s) of ids look like one person each: {listing}"
    if policy == "refuse":
        raise UserError(
            f"{what}; one of them in training would give away the other in a test: give both one id, set duplicates=merge to "
            "keep them together, or duplicates=waive if they are different people."
        )
    return (f"{what}; " + ("kept together in every split" if policy == "merge" else "taken for different people"),)
