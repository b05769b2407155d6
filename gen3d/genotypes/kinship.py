"""Kinship between all pairs of people: KING-robust (Manichaikul et al. 2010, Bioinformatics 26:2867, equation 11)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DUPLICATE, FIRST, SECOND, THIRD = 2**-1.5, 2**-2.5, 2**-3.5, 2**-4.5
"""Lower limits of kinship: one person twice or identical twins (.354), first (.177), second (.0884), third degree (.0442)."""
ROWS, VARIANTS = 512, 4096
"""At a time."""
SAMPLE = 1000
"""People whose pairs show how far kinship of people who are not related strays."""
MOST = 10_000
"""Variants, evenly spaced, with which chance reaches a kinship of 0.05."""
CHANCE_SD = 5.5
"""Standard deviations: among the 12 million pairs of 5,000 people, 0.2 are expected to stray further."""
NORMAL_MAD = 0.6745


@dataclass(frozen=True)
class Related:
    """Pairs above a limit: rows of people, kinship; and the limit, which is higher than asked for where chance reaches further."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    kinship: NDArray[np.float64]
    limit: float


def relation(kinship: float) -> str:
    """What two people are by their kinship coefficient."""
    limits = ((DUPLICATE, "duplicate or identical twin"), (FIRST, "first degree"), (SECOND, "second degree"))
    return next((name for limit, name in limits if kinship > limit), "third degree or further")


def related_pairs(calls: NDArray[np.int8], threshold: float) -> Related:
    """Pairs of people with a kinship above a threshold, and above what chance gives with so many variants.

    Args:
        calls: [people, variants], copies 0, 1 or 2, negative where missing; variants of autosomes in low linkage disequilibrium.
        threshold: kinship coefficient.
    """
    if calls.shape[1] > MOST:
        calls = calls[:, np.linspace(0, calls.shape[1] - 1, MOST).astype(int)]
    everybody = np.arange(len(calls))
    sample = everybody if len(calls) <= SAMPLE else np.linspace(0, len(calls) - 1, SAMPLE).astype(int)
    limit = max(threshold, CHANCE_SD * chance_sd(calls[sample]))
    first, second, kinship = [], [], []
    for start, block, above in _blocks(calls):
        rows, columns = np.nonzero(above & (block > limit))
        first.append(rows + start)
        second.append(columns + start)
        kinship.append(block[rows, columns])
    if not first:
        return Related(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0), limit)
    return Related(np.concatenate(first), np.concatenate(second), np.concatenate(kinship), limit)


def chance_sd(calls: NDArray[np.int8]) -> float:
    """SD of the kinship of a pair over variants that might have been chosen instead.

    From the differences between two halves of the variants, which chance alone makes: people of several ancestries differ in
    kinship too, but alike in both halves. 0 with too few people or variants to tell.
    """
    halves = [
        np.concatenate([block[above] for _, block, above in _blocks(calls[:, first::2])] or [np.empty(0)])
        for first in (0, 1)
    ]
    difference = halves[0] - halves[1]
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return 0.0
    # A half has twice the variance of the whole, and a difference of two halves four times.
    return float(np.median(np.abs(difference - np.median(difference)))) / NORMAL_MAD / 2


def _blocks(calls: NDArray[np.int8]) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.bool_]]]:
    """The matrix of kinship in rows: where they begin, the rows from their own column on, and what is above the diagonal."""
    num = len(calls)
    for start in range(0, num, ROWS):
        rows = slice(0, min(ROWS, num - start))
        size = (rows.stop, num - start)
        both_het, opposite, one, other = (np.zeros(size) for _ in range(4))
        for place in range(0, calls.shape[1], VARIANTS):
            part = calls[start:, place : place + VARIANTS]
            # Counts of variants that people share are whole numbers below 2^24, which single precision holds exactly.
            het, none, two = ((part == copies).astype(np.float32) for copies in (1, 0, 2))
            known = (part >= 0).astype(np.float32)
            both_het += het[rows] @ het.T
            opposite += none[rows] @ two.T + two[rows] @ none.T
            if known.all():
                one += het[rows].sum(axis=1)[:, None]
                other += het.sum(axis=1)[None]
            else:
                one += het[rows] @ known.T
                other += known[rows] @ het.T
        fewer = np.minimum(one, other)
        with np.errstate(divide="ignore", invalid="ignore"):
            kinship = (both_het - 2 * opposite) / (2 * fewer) + 0.5 - (one + other) / (4 * fewer)
        above = np.arange(size[1])[None] > np.arange(size[0])[:, None]
        yield start, np.where(fewer > 0, kinship, np.nan), above


def groups_of(num: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the group of relatives of each person, from 1 in the order of their first members; 0 for none. [num]."""
    root = np.arange(num)

    def top(person: int) -> int:
        while root[person] != person:
            root[person] = root[root[person]]
            person = int(root[person])
        return person

    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((top(one), top(other)))
        root[high] = low
    tops = np.array([top(person) for person in range(num)], dtype=np.int64)
    members = np.bincount(tops, minlength=num)
    number = {int(person): place for place, person in enumerate(np.flatnonzero(members > 1), start=1)}
    return np.array([number.get(int(person), 0) for person in tops], dtype=np.int64)


def to_leave_out(
    num: int, first: NDArray[np.int64], second: NDArray[np.int64], missing: NDArray[np.float64]
) -> list[int]:
    """People without whom nobody left is related: again and again the one with most relatives, then with most missing calls."""
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    gone: list[int] = []
    while pairs:
        counts = np.bincount([person for pair in pairs for person in pair], minlength=num)
        person = max(range(num), key=lambda one: (counts[one], missing[one], -one))
        gone.append(person)
        pairs = {pair for pair in pairs if person not in pair}
    return gone
