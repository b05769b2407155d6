"""Which variant of a cohort an entry of another list is, and which allele it means: positions, alleles and strands compared."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.genotypes.variants import complement, is_palindromic

SAME, SWAPPED, FLIPPED, FLIPPED_SWAPPED = FOUND = ("same", "swapped", "flipped", "flipped and swapped")
"""The entry's allele is the counted one or the other one, on the cohort's strand or the other strand."""
PALINDROMIC, NO_MATCH, ABSENT = "palindromic", "no match", "absent"
MOST_FREQUENT_RARER = 0.4
"""Of A/T and C/G: above it, frequencies cannot say which strand is meant either."""
FLIPS = 0.05
"""Share of flipped entries above which the list is on other strands, so that A/T and C/G mean nothing."""


@dataclass(frozen=True)
class Matches:
    """Per entry of a list [n]: the row of the cohort's variants, -1 for none, and how it was found or why not."""

    rows: NDArray[np.int64]
    how: NDArray[np.object_]

    @property
    def found(self) -> NDArray[np.bool_]:
        """Entries that are a variant of the cohort."""
        return self.rows >= 0

    @property
    def turned(self) -> NDArray[np.bool_]:
        """Entries whose allele is the cohort's `other`, so that its copies are 2 minus the dosage."""
        return np.isin(self.how, (SWAPPED, FLIPPED_SWAPPED))

    def count(self, *how: str) -> int:
        """How many entries were found so."""
        return int(np.isin(self.how, how).sum())


def match(listed: pd.DataFrame, variants: pd.DataFrame, usable: NDArray[np.bool_], by_position: bool = True) -> Matches:
    """Find the entries of a list among a cohort's variants.

    An entry is looked up by chromosome and position, and by its id where it has no position there. The alleles decide which of
    several variants at a place it is. An entry whose alleles fit neither strand is no match. A/T and C/G look alike on both
    strands: they are taken as they stand where the rarer allele is rarer than `MOST_FREQUENT_RARER` in the cohort and the list is
    not on other strands.

    Args:
        listed: variant ("" for none), chromosome, position (0 for none), allele, other ("" where not given).
        variants: of the cohort, with `frequency` of the counted allele.
        usable: variants that may be found, [variants].
        by_position: whether positions of the list are in the cohort's build.
    """
    looked_up = _look_up(listed, variants, usable, by_position)
    counted, other = (variants[name].astype(str).tolist() for name in ("counted", "other"))
    frequency = variants["frequency"].to_numpy(dtype=np.float64)
    rows, how = np.full(len(listed), -1, dtype=np.int64), np.full(len(listed), ABSENT, dtype=object)
    alleles = zip(listed["allele"].astype(str), listed["other"].astype(str), strict=True)
    for place, ((allele, partner), candidates) in enumerate(zip(alleles, looked_up, strict=True)):
        for row in candidates:
            found = _compare(allele, partner, counted[row], other[row], float(frequency[row]))
            if found != NO_MATCH or how[place] == ABSENT:
                rows[place], how[place] = row, found
            if found in FOUND:
                break
    palindromic = np.array([row >= 0 and is_palindromic(counted[row], other[row]) for row in rows.tolist()], dtype=bool)
    plain = ~palindromic & np.isin(how, FOUND)
    flips = np.isin(how[plain], (FLIPPED, FLIPPED_SWAPPED)).mean() if plain.any() else 0.0
    if flips > FLIPS:
        how[palindromic & np.isin(how, FOUND)] = PALINDROMIC
    rows[~np.isin(how, FOUND)] = -1
    return Matches(rows, how)


def mentioned(listed: pd.DataFrame, variants: pd.DataFrame, by_position: bool = True) -> NDArray[np.int64]:
    """The entry of a list that names a variant by its place or id, -1 for none, whatever the alleles; [variants]."""
    entries = np.full(len(variants), -1, dtype=np.int64)
    for number, rows in enumerate(_look_up(listed, variants, np.ones(len(variants), dtype=bool), by_position)):
        entries[rows] = number
    return entries


def _look_up(
    listed: pd.DataFrame, variants: pd.DataFrame, usable: NDArray[np.bool_], by_position: bool
) -> list[list[int]]:
    """Per entry of a list, the rows of usable variants at its place, else those of its id."""
    wanted = list(zip(listed["chromosome"].astype(str), listed["position"].astype(int), strict=True))
    ids = listed["variant"].astype(str).tolist()
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    names: dict[str, list[int]] = defaultdict(list)
    chromosomes, positions = variants["chromosome"].tolist(), variants["position"].tolist()
    if by_position:
        near = variants["position"].isin({position for _, position in wanted} - {0}).to_numpy() & usable
        for row in np.flatnonzero(near).tolist():
            places[(chromosomes[row], int(positions[row]))].append(row)
    own_ids = variants["variant"].tolist()
    for row in np.flatnonzero(variants["variant"].isin(set(ids) - {""}).to_numpy() & usable).tolist():
        names[own_ids[row]].append(row)
    return [places.get(place) or names.get(name, []) for place, name in zip(wanted, ids, strict=True)]


def _compare(allele: str, partner: str, counted: str, other: str, frequency: float) -> str:
    pair = (allele, partner or (other if allele == counted else counted))
    rarer = min(frequency, 1 - frequency)
    if is_palindromic(counted, other) and set(pair) == {counted, other} and not rarer <= MOST_FREQUENT_RARER:
        return PALINDROMIC
    turned = (complement(allele), complement(partner) if partner else "")
    flipped = (turned[0], turned[1] or (other if turned[0] == counted else counted))
    straight = {(counted, other): SAME, (other, counted): SWAPPED}.get(pair)
    return straight or {(counted, other): FLIPPED, (other, counted): FLIPPED_SWAPPED}.get(flipped, NO_MATCH)
