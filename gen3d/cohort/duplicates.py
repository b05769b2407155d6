"""People who are in a cohort under two ids, found by their scans: equal ones exactly, others by how they stand out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.scan_hash import one_scan_of_two
from gen3d.cohort.seen import MOST_NAMED
from gen3d.core.errors import UserError
from gen3d.core.memory import WITH_SCANS, WITH_SQUARE, announce_memory
from gen3d.maths.isolation import (
    LARGEST_CORRELATION,
    LEAST_ISOLATION,
    extreme_threshold,
    isolation,
    strangers_isolation,
)
from gen3d.maths.sketch import SKETCHED, Sketch

REMEDY = "give fewer people"
Duplicates = Literal["refuse", "merge", "waive"]
CHANCE_OF_A_PAIR = 1e-5
"""How rarely real people may stand out so far from everybody else."""

FEWEST_EQUAL = 3
COMPARED_AT_ONCE = 1024
MOST_WHOLE = 2000
"""People whose features are compared whole; longer features of more people are sketched (`maths.sketch`)."""
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
    """Pairs of subjects with equal features, or as near to each other and as far from all others as two scans of one person are.

    Nearness is the correlation of the first n / 2 principal components, made equally large: left as they are, age and size
    make strangers alike (of pairs with a correlation of 0.9 about a strong common factor, half were found without and all
    with it, no stranger in 100 simulated cohorts either way). How far the nearest stands out is measured on Fisher's scale in
    SD over everybody else (`maths.isolation.isolation`), against the distribution of that number in people without a copy, which
    is estimated behind everybody's nearest: so the share of people who are there twice does not matter.

    Args:
        vectors: [n, d] features, or an isometric image of voxels; where none are equal, the first scan of each subject counts.
        subjects: whose they are [n].

    Returns:
        pairs, the most alike first; only equal ones where fewer than 20 people or 20 dimensions say too little.
    """
    equal = equal_rows(np.asarray(vectors), subjects)
    names, first = np.unique(np.asarray(subjects, dtype=str), return_index=True)
    pairs = {(pair.first, pair.second): pair for pair in (*_standing_out(vectors[first], names), *equal)}
    return sorted(pairs.values(), key=lambda pair: (-pair.similarity, pair.first, pair.second))


def equal_rows(vectors: NDArray[np.generic], subjects: Sequence[str]) -> list[Pair]:
    """Pairs of subjects of whom some rows are the same to the last bit: each subject with the first of its kind.

    Rows of one value throughout, and fewer than three numbers, say nothing about a person.
    """
    names = np.asarray(subjects, dtype=str)
    if vectors.shape[1] < FEWEST_EQUAL:
        return []
    first: dict[bytes, str] = {}
    found: dict[tuple[str, str], Pair] = {}
    for name, row in zip(names, vectors, strict=True):
        if (row == row[0]).all():
            continue
        earlier = first.setdefault(hashlib.sha256(row.tobytes()).digest(), str(name))
        if earlier != name:
            low, high = sorted((earlier, str(name)))
            found[low, high] = Pair(low, high, 1.0, float("inf"))
    return list(found.values())


def equal_scans(table: pd.DataFrame) -> list[Pair]:
    """Pairs of subjects of a cohort table with one scan, by its content."""
    rows = [tuple(sorted(table["subject"].astype(str).iloc[list(pair)])) for pair in one_scan_of_two(table)]
    return [Pair(first, second, 1.0, float("inf")) for first, second in dict.fromkeys(rows) if first != second]


def _standing_out(vectors: NDArray[np.floating], names: NDArray[np.str_]) -> list[Pair]:
    """Pairs of subjects [n] who are as near to each other, and as far from all others, as two scans of one person."""
    if len(names) < FEWEST_PEOPLE or vectors.shape[1] < FEWEST_DIMENSIONS:
        return []
    many = len(names) > MOST_WHOLE
    if many and vectors.shape[1] > SKETCHED:
        vectors = Sketch.of(vectors.shape[1]).rows(vectors)
    values = np.asarray(vectors, dtype=np.float64)
    # The components that are compared: up to n / 2 of n people, or as many as there are features.
    num_bytes = 8 * len(names) * (4 * min(values.shape) + COMPARED_AT_ONCE)
    what = f"the components of {len(names)} people, in which ids of one person are searched,"
    announce_memory(what, num_bytes, REMEDY, WITH_SCANS if many else WITH_SQUARE)
    centred = values - values.mean(axis=0)
    whitened = _components_of_many(centred) if many else _components(centred)
    kept = whitened.shape[1]
    length = np.linalg.norm(whitened, axis=1)
    if kept < FEWEST_DIMENSIONS // 2 or not (length > 0).all():
        return []
    nearest, likeness, alone, strangers = _nearest_of_each(whitened, length)
    threshold = max(extreme_threshold(strangers, CHANCE_OF_A_PAIR)[0], LEAST_ISOLATION)
    likely = {
        (min(i, int(j)), max(i, int(j))): (likeness[i], min(alone[i], alone[j]))
        for i, j in enumerate(nearest)
        if min(alone[i], alone[j]) > threshold
    }
    return [Pair(str(names[i]), str(names[j]), float(alike), float(apart)) for (i, j), (alike, apart) in likely.items()]


def _components(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first n / 2 principal components of centred rows [n, d], all of one length."""
    vectors, powers, _ = np.linalg.svd(centred, full_matrices=False)
    return vectors[:, : min(len(centred) // 2, int((powers > 1e-6 * powers[0]).sum()))]


def _components_of_many(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same of many more rows than columns, from the inner products of columns: quicker, and half as precise."""
    powers, axes = np.linalg.eigh(centred.T @ centred)
    kept = np.flatnonzero(powers > 1e-10 * powers[-1])[::-1]
    return np.asarray(centred @ (axes[:, kept] / np.sqrt(powers[kept])))[:, : len(centred) // 2]


def _nearest_of_each(
    whitened: NDArray[np.float64], length: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each person [n]: the nearest other person, their correlation, how far that one stands out, and a stranger would.

    A few people are compared with everybody at a time, so that memory grows with people and not with their square.
    """
    num = len(whitened)
    nearest = np.empty(num, dtype=np.int64)
    likeness, alone, strangers = np.empty(num), np.empty(num), np.empty(num)
    for start in range(0, num, COMPARED_AT_ONCE):
        rows = np.arange(start, min(start + COMPARED_AT_ONCE, num))
        similarity = (whitened[rows] @ whitened.T) / np.outer(length[rows], length)
        np.clip(similarity, -1.0, LARGEST_CORRELATION, out=similarity)
        similarity[rows - start, rows] = np.nan
        nearest[rows], alone[rows] = isolation(similarity, num)
        likeness[rows] = similarity[rows - start, nearest[rows]]
        strangers[rows] = strangers_isolation(similarity)
    return nearest, likeness, alone, strangers


def groups_of(subjects: Sequence[str], pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Number of the person of each scan [n]; ids that are one person have one number."""
    names = list(dict.fromkeys(map(str, subjects)))
    person = list(range(len(names)))

    def first_of(index: int) -> int:
        while person[index] != index:
            person[index] = person[person[index]]
            index = person[index]
        return index

    number = {name: index for index, name in enumerate(names)}
    for pair in pairs:
        low, high = sorted((first_of(number[pair.first]), first_of(number[pair.second])))
        person[high] = low
    return np.array([first_of(number[str(subject)]) for subject in subjects], dtype=np.int64)


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
