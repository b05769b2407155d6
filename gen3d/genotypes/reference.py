"""Variants compared with a reference: other strands are turned, other alleles and other frequencies are found."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.user_table import read_user_table
from gen3d.genotypes.alleles import FLIPPED, FLIPPED_SWAPPED, SWAPPED, match
from gen3d.genotypes.builds import build_of
from gen3d.genotypes.variants import chromosome_name, complement

NEEDED = ("chromosome", "position", "allele", "other")
MOST_DIFFERENCE = 0.2
"""Of an allele's frequency between the cohort and a reference of the same ancestry."""
NOT_ITS_ALLELES, OTHER_FREQUENCY = "alleles not of the reference", "frequency not of the reference"
SWAPPED_CORRELATION = -0.5
"""Correlation of frequencies below which alleles are exchanged in the whole file."""


@dataclass(frozen=True)
class ComparedVariants:
    """What a reference says of a source's variants, [m]: reasons not to use one, the frequency of `counted` (NaN: unknown)."""

    variants: pd.DataFrame
    frequency: NDArray[np.float64]
    sentences: tuple[str, ...]


def compare_reference(path: Path, variants: pd.DataFrame, build: str, known: pd.DataFrame) -> ComparedVariants:
    """Compare by position and alleles, and turn variants of the other strand.

    Args:
        path: a table with chromosome, position, allele, other, and where known the frequency of `allele`.
        variants: of the source.
        build: of the source.
        known: see `builds.read_known`.

    Raises:
        UserError: no such table, a column that is missing, of another build, or no variant in common.
    """
    table = read_user_table(path)
    absent = [name for name in NEEDED if name not in table.columns]
    if absent:
        raise UserError(
            f"{path}: lacks the column {absent[0]}; a reference has {', '.join(NEEDED)} and, where known, frequency."
        )
    listed = pd.DataFrame({"variant": "", "chromosome": table["chromosome"].map(chromosome_name)})
    listed["position"] = pd.to_numeric(table["position"], errors="coerce").fillna(0).astype(np.int64)
    listed["allele"], listed["other"] = table["allele"].str.upper(), table["other"].str.upper()
    its_build = build_of(path, listed.rename(columns={"allele": "counted"}), "", (build,), known)
    if its_build != build:
        raise UserError(f"{path}: is in {its_build} and the genotypes in {build}; give the reference in {build}.")
    usable = (variants["reason"] == "").to_numpy()
    found = match(listed, variants.assign(frequency=np.nan), usable)
    # Alleles that look alike on both strands are compared as they stand: without frequencies nothing else can be said.
    alike = match(listed, variants.assign(frequency=0.0), usable)
    if not alike.found.any():
        raise UserError(f"{path}: has none of the variants of the genotypes at their places; is it in {build}?")
    changed, counts = _turned(variants, found.rows, found.how)
    changed.loc[_of_other_alleles(listed, variants, usable), "reason"] = NOT_ITS_ALLELES
    frequency = np.full(len(variants), np.nan)
    if "frequency" in table.columns:
        numbers = pd.to_numeric(table["frequency"], errors="coerce").to_numpy(dtype=float)
        own = np.where(alike.turned, 1 - numbers, numbers)
        frequency[alike.rows[alike.found]] = own[alike.found]
    return ComparedVariants(
        changed, _as_counted(frequency, variants, changed), _sentences(counts, changed, int(alike.found.sum()))
    )


def _turned(
    variants: pd.DataFrame, rows: NDArray[np.int64], how: NDArray[np.object_]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Variants with the alleles of the reference's strand, and how many were found how."""
    changed = variants.copy()
    counted, other, turned = (changed[name].to_numpy(copy=True) for name in ("counted", "other", "turned"))
    for row in rows[np.isin(how, (FLIPPED, FLIPPED_SWAPPED))].tolist():
        one, two = complement(counted[row]), complement(other[row])
        swap = (len(one), one) > (len(two), two)
        counted[row], other[row] = (two, one) if swap else (one, two)
        turned[row] ^= swap
    counts = {name: int((how == name).sum()) for name in (SWAPPED, FLIPPED, FLIPPED_SWAPPED)}
    return changed.assign(counted=counted, other=other, turned=turned), counts


def _of_other_alleles(listed: pd.DataFrame, variants: pd.DataFrame, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Usable variants at a place of the reference whose alleles are none of its pairs there, on neither strand; [m]."""
    pairs: dict[tuple[str, int], set[frozenset[str]]] = defaultdict(set)
    entries = (listed[name].tolist() for name in ("chromosome", "position", "allele", "other"))
    for chromosome, position, one, other in zip(*entries, strict=True):
        pairs[(chromosome, position)] |= {frozenset((one, other)), frozenset((complement(one), complement(other)))}
    own = (variants[name].tolist() for name in ("chromosome", "position", "counted", "other"))
    unlike = [
        (chromosome, position) in pairs and frozenset((one, other)) not in pairs[(chromosome, position)]
        for chromosome, position, one, other in zip(*own, strict=True)
    ]
    return np.array(unlike, dtype=bool) & usable


def _as_counted(frequency: NDArray[np.float64], before: pd.DataFrame, after: pd.DataFrame) -> NDArray[np.float64]:
    """Frequencies of the allele that is counted after other strands were turned."""
    exchanged = before["turned"].to_numpy(dtype=bool) != after["turned"].to_numpy(dtype=bool)
    return np.where(exchanged, 1 - frequency, frequency)


def _sentences(counts: dict[str, int], changed: pd.DataFrame, found: int) -> tuple[str, ...]:
    flips = counts[FLIPPED] + counts[FLIPPED_SWAPPED]
    wrong = int((changed["reason"] == NOT_ITS_ALLELES).sum())
    return (
        f"Of {spell.count(found, 'variant')} of the reference, {flips} were on the other strand and were turned; {wrong} "
        "further ones have alleles that match neither strand and were left out.",
    )


def unlike_reference(path: Path, own: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Variants whose allele is not as frequent as in the reference, [m]: alleles exchanged, or people of another ancestry.

    Raises:
        UserError: frequencies run against those of the reference, so alleles are exchanged in the whole file.
    """
    both = np.isfinite(own) & np.isfinite(reference)
    if both.sum() > 2 and np.std(own[both]) > 0 and np.std(reference[both]) > 0:
        r = float(np.corrcoef(own[both], reference[both])[0, 1])
        if r < SWAPPED_CORRELATION:
            raise UserError(
                f"{path}: the frequencies of alleles run against those of the genotypes (r = {spell.number(r)}): counted and other "
                "alleles are exchanged in one of the two files; exchange them there."
            )
    return both & (np.abs(own - reference) > MOST_DIFFERENCE)
