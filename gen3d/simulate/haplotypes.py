"""Chromosomes of simulated people: frequencies by ancestry, blocks of linkage, APOE, siblings, and X by sex.

A haplotype is a row of 0 and 1: whether it carries the first allele of a variant. Within a block, neighbours are cut from one
Gaussian walk, so that their correlation falls with distance; blocks are independent of each other. People of one group of ancestry
mate at random, so that every variant is in Hardy-Weinberg equilibrium within the group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from gen3d.core.memory import announce_memory
from gen3d.simulate.genetics import Genetics, variant_name

Copies = NDArray[np.int8]
Index = NDArray[np.int64]

APOE = ("rs429358", "rs7412")
APOE_POSITIONS = (44908684, 44908822)
"""On chromosome 19 of GRCh38."""
ALLELES_OF_APOE = {"e2": (0, 0), "e3": (0, 1), "e4": (1, 1)}
"""Copies of C at both sites."""
APOE_FREQUENCIES = ((0.08, 0.78, 0.14), (0.10, 0.70, 0.20), (0.08, 0.83, 0.09))
"""Of e2, e3 and e4 in groups of ancestry (European, African, East Asian, rounded), taken in turn."""
NUM_X = 200
FREQUENCIES = (0.1, 0.9)
"""Range from which ancestral frequencies are drawn."""
RAREST = 0.02
FIRST_POSITION, LAST_POSITION = 3_000_000, 40_000_000
"""On every chromosome: all are longer, and on chromosome 19 APOE lies beyond."""
PAIRS = (("A", "G"), ("C", "T"), ("G", "A"), ("T", "C"), ("A", "C"), ("T", "G"))
"""First and second allele; none reads the same on both strands."""


@dataclass(frozen=True)
class Drawn:
    """Genotypes of people in no particular order.

    Attributes:
        variants: variant, chromosome, position, allele_1, allele_2, in the order of columns; autosomal, APOE among them.
        copies: of allele_1, [people, variants].
        ancestry: number of the group of each person, [people].
        sibling_of: the other one of a pair of siblings, -1 for none, [people].
    """

    variants: pd.DataFrame
    copies: Copies
    ancestry: Index
    sibling_of: Index

    def of(self, name: str) -> NDArray[np.float64]:
        """Copies of allele_1 of a variant, or of apoe_e4 or apoe_e2, [people]."""
        if name.startswith("apoe_"):
            first, second = (self.of(site) for site in APOE)
            return first if name.endswith("4") else 2 - second
        return np.asarray(self.copies[:, int(np.flatnonzero(self.variants["variant"] == name)[0])], dtype=np.float64)


def draw_people(num: int, settings: Genetics, rng: np.random.Generator) -> Drawn:
    """Genotypes of so many people; siblings come first, in pairs.

    Raises:
        UserError: too little memory.
    """
    announce_memory(
        f"genotypes of {num} people", 5 * num * settings.variants, "lower genotypes.variants or the number of people"
    )
    ancestry = np.arange(num) * settings.ancestries // max(num, 1)
    ancestry = rng.permutation(ancestry)
    pairs = 2 * min(settings.siblings, num // 2)
    ancestry[1:pairs:2] = ancestry[0:pairs:2]
    frequencies = _frequencies(settings.variants, settings, rng)
    haplotypes = np.empty((num, 2, settings.variants + 2), dtype=np.int8)
    for start in range(0, settings.variants, settings.block):
        part = slice(start, min(start + settings.block, settings.variants))
        haplotypes[:, :, part] = _siblings(_block(frequencies[:, part][ancestry], settings.linkage, rng), pairs, rng)
    haplotypes[:, :, -2:] = _siblings(_apoe(ancestry, rng), pairs, rng)
    variants = _variant_table(settings.variants, settings.block, rng)
    order = variants.sort_values(["number", "position"], kind="stable").index.to_numpy()
    sibling_of = np.full(num, -1, dtype=np.int64)
    sibling_of[:pairs] = np.arange(pairs) ^ 1
    table = variants.loc[order].drop(columns="number").reset_index(drop=True)
    return Drawn(table, haplotypes.sum(axis=1, dtype=np.int8)[:, order], ancestry.astype(np.int64), sibling_of)


def draw_x(
    men: NDArray[np.bool_], ancestry: Index, settings: Genetics, rng: np.random.Generator
) -> tuple[pd.DataFrame, Copies]:
    """Variants of X and copies, [people, NUM_X]; men have one chromosome, of which files say two copies or none."""
    frequencies = _frequencies(NUM_X, settings, rng)[ancestry]
    haplotypes = (rng.random((2, *frequencies.shape)) < frequencies).astype(np.int8)
    copies = np.where(men[:, None], 2 * haplotypes[0], haplotypes.sum(axis=0))
    table = _placed(NUM_X, ["X"] * NUM_X, rng).assign(variant=[f"snpX{place + 1:03d}" for place in range(NUM_X)])
    return table, copies.astype(np.int8)


def _frequencies(num: int, settings: Genetics, rng: np.random.Generator) -> NDArray[np.float64]:
    """Of the first allele in every group, [groups, variants]."""
    ancestral = rng.uniform(*FREQUENCIES, num)
    if settings.ancestries == 1:
        return ancestral[None]
    spread = (1 - settings.ancestry_distance) / settings.ancestry_distance
    groups = rng.beta(ancestral * spread, (1 - ancestral) * spread, (settings.ancestries, num))
    return np.clip(groups, RAREST, 1 - RAREST)


def _block(frequencies: NDArray[np.float64], linkage: float, rng: np.random.Generator) -> Copies:
    """Both haplotypes of every person in one block, [people, 2, variants]; frequencies [people, variants]."""
    num, width = frequencies.shape
    walk = rng.standard_normal((num, 2, width))
    for place in range(1, width):
        walk[:, :, place] = linkage * walk[:, :, place - 1] + np.sqrt(1 - linkage**2) * walk[:, :, place]
    return (walk < ndtri(frequencies)[:, None]).astype(np.int8)


def _apoe(ancestry: Index, rng: np.random.Generator) -> Copies:
    """Copies of C at both sites of APOE on both haplotypes, [people, 2, 2]."""
    calls = np.array(list(ALLELES_OF_APOE.values()), dtype=np.int8)
    shares = np.array([np.cumsum(APOE_FREQUENCIES[group % len(APOE_FREQUENCIES)]) for group in ancestry])
    chosen = (rng.random((len(ancestry), 2, 1)) > shares[:, None, :-1]).sum(axis=2)
    return calls[chosen]


def _siblings(haplotypes: Copies, pairs: int, rng: np.random.Generator) -> Copies:
    """The first `pairs` people become siblings, two by two: of four haplotypes two are the mother's and two the father's."""
    if not pairs:
        return haplotypes
    families = haplotypes[:pairs].reshape(pairs // 2, 2, 2, -1)  # [families, haplotype of the parent, parent, variants]
    passed = rng.integers(2, size=(pairs // 2, 2, 2))  # [families, child, parent]
    family, parent = np.arange(pairs // 2)[:, None, None], np.arange(2)[None, None]
    children = families[family, passed, parent]
    return np.concatenate([children.reshape(pairs, 2, -1), haplotypes[pairs:]])


def _variant_table(num: int, block: int, rng: np.random.Generator) -> pd.DataFrame:
    """Autosomal variants block by block, each block on one chromosome, then APOE; `number` of the chromosome, to sort by."""
    blocks = np.arange(num) // block
    chromosomes = blocks * 22 // (blocks[-1] + 1) + 1
    table = _placed(num, chromosomes.astype(str).tolist(), rng)
    table = table.assign(variant=[variant_name(place + 1) for place in range(num)], number=chromosomes)
    apoe = {
        "variant": APOE,
        "chromosome": "19",
        "position": APOE_POSITIONS,
        "allele_1": "C",
        "allele_2": "T",
        "number": 19,
    }
    return pd.concat([table, pd.DataFrame(apoe)], ignore_index=True)


def _placed(num: int, chromosomes: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """Evenly spaced on each chromosome, with two alleles each."""
    table = pd.DataFrame({"chromosome": chromosomes})
    place = table.groupby("chromosome").cumcount()
    many = table.groupby("chromosome")["chromosome"].transform("size")
    pairs = np.array(PAIRS)[rng.integers(len(PAIRS), size=num)]
    return table.assign(
        position=FIRST_POSITION + place * ((LAST_POSITION - FIRST_POSITION) // many),
        allele_1=pairs[:, 0],
        allele_2=pairs[:, 1],
    )
