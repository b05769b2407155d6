"""Who has which genotype: diagnosis follows liability, volumes follow alleles, and both are written down as truth.

People, their ages, sexes, sites and conditions are drawn without genotypes (`people.design`) and stay as they are. Of as many
genotypes, those with the highest liability (log odds of their alleles plus a logistic deviate) belong to the people with AD, the
next ones to those with MCI, the others to everybody else by chance. So AD against everybody else is a logistic model with exactly
the log odds of the settings, at the share of AD that the conditions ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.simulate.conditions import Condition
from gen3d.simulate.genetics import E2, E4, Genetics, volume_shift
from gen3d.simulate.haplotypes import Copies, Drawn, Index, draw_people, draw_x
from gen3d.simulate.people import NONE

Values = NDArray[np.float64]
AFFECTED = ("ad", "mci")
"""Kinds of conditions that liability decides on, the one with the highest first."""
BUILD = "GRCh38"
MISSING = -1


@dataclass(frozen=True)
class CohortGenes:
    """Genotypes of the people of a cohort, in their order, and what they do.

    Attributes:
        settings: that they were drawn with.
        subjects: ids; sexes: F or M, [people].
        variants: variant, chromosome, position, allele_1, allele_2, one row per column of `copies`.
        copies: of allele_1, [people, variants]; complete.
        ancestry: number of the group, [people].
        sibling_of: row of the sibling, -1 for none, [people].
        weights: log odds per copy of allele_1 of the polygenic background: variant, weight.
        polygenic: the background, log odds with mean 0, [people].
        liability: log odds of all alleles and of ancestry, without the deviate, [people].
        shifts: change of log volume by label, of each person whose alleles change any.
    """

    settings: Genetics
    subjects: tuple[str, ...]
    sexes: tuple[str, ...]
    variants: pd.DataFrame
    copies: Copies
    ancestry: Index
    sibling_of: Index
    weights: pd.DataFrame
    polygenic: Values
    liability: Values
    e4: Values
    e2: Values
    shifts: dict[int, dict[int, float]]
    genotyped: NDArray[np.bool_]
    """Who is in the file."""
    called: Copies
    """As `copies`, with -1 where the file has no call."""


def genes_of(scans: pd.DataFrame, conditions: Mapping[str, Condition], settings: Genetics, seed: int) -> CohortGenes:
    """Draw the genotypes of a cohort.

    Args:
        scans: the cohort table before any image, see `people.design`; rows of a person share index, subject, sex, condition.
        conditions: by name.
        settings: of the genotypes.
        seed: of the cohort, where the settings have none.
    """
    people = scans.drop_duplicates("index").sort_values("index")
    rng = np.random.default_rng([seed if settings.seed is None else settings.seed, 17])
    drawn = draw_people(len(people), settings, rng)
    weights, background = _polygenic(drawn, settings, rng)
    liability = background + sum(
        (value * drawn.of(allele) for allele, value in settings.risks.items()), np.zeros(len(people))
    )
    liability += settings.ancestry_on_risk * drawn.ancestry / max(settings.ancestries - 1, 1)
    kinds = [conditions[name].kind if name != NONE else NONE for name in people["condition"]]
    row_of = _owners(liability + rng.logistic(size=len(people)), kinds, rng)
    place_of = np.empty_like(row_of)
    place_of[row_of] = np.arange(len(row_of))
    sibling = drawn.sibling_of[row_of]
    men = (people["sex"] == "M").to_numpy()
    x_table, x_copies = draw_x(men, drawn.ancestry[row_of], settings, rng)
    copies = np.concatenate([drawn.copies[row_of], x_copies], axis=1)
    changes = settings.volumes
    by_allele = {allele: drawn.of(allele)[row_of] for allele in changes}
    shifts = {
        int(index): shift
        for place, index in enumerate(people["index"])
        if (shift := volume_shift({allele: values[place] for allele, values in by_allele.items()}, changes))
    }
    genotyped = np.zeros(len(people), dtype=bool)
    genotyped[rng.permutation(len(people))[: max(1, round(settings.genotyped * len(people)))]] = True
    called = np.where(rng.random(copies.shape) < settings.missing, MISSING, copies) if settings.missing else copies
    return CohortGenes(
        settings,
        tuple(people["subject"].astype(str)),
        tuple(people["sex"].astype(str)),
        pd.concat([drawn.variants, x_table[drawn.variants.columns]], ignore_index=True),
        copies,
        drawn.ancestry[row_of],
        np.where(sibling >= 0, place_of[np.maximum(sibling, 0)], -1),
        weights,
        background[row_of],
        liability[row_of],
        drawn.of(E4)[row_of],
        drawn.of(E2)[row_of],
        shifts,
        genotyped,
        called.astype(np.int8),
    )


def _polygenic(drawn: Drawn, settings: Genetics, rng: np.random.Generator) -> tuple[pd.DataFrame, Values]:
    """Weights of the background, and its sum per person with mean 0 and the SD of the settings."""
    names = drawn.variants["variant"]
    usable = np.flatnonzero(names.str.startswith("snp").to_numpy())
    num = min(settings.polygenic_variants, len(usable))
    chosen = np.sort(rng.choice(usable, num, replace=False))
    copies = drawn.copies[:, chosen].astype(np.float64)
    frequency = np.clip(copies.mean(axis=0) / 2, 0.01, 0.99)
    weights = rng.standard_normal(num) / np.sqrt(2 * frequency * (1 - frequency))
    sums = copies @ weights
    spread = float(sums.std())
    factor = settings.polygenic_on_risk / spread if spread > 0 else 0.0
    table = pd.DataFrame({"variant": names.to_numpy()[chosen], "weight": factor * weights})
    return table, factor * (sums - sums.mean())


def _owners(liability: Values, kinds: list[str], rng: np.random.Generator) -> Index:
    """The genotype of each person, by its row: the most liable to AD, the next to MCI, the others by chance."""
    order = np.argsort(-liability, kind="stable")
    row_of = np.empty(len(kinds), dtype=np.int64)
    start = 0
    for kind in AFFECTED:
        members = np.flatnonzero(np.array(kinds) == kind)
        row_of[members] = rng.permutation(order[start : start + len(members)])
        start += len(members)
    others = np.flatnonzero(~np.isin(kinds, AFFECTED))
    row_of[others] = rng.permutation(order[start:])
    return row_of
