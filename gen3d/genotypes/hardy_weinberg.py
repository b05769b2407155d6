"""The exact test of Hardy-Weinberg equilibrium (Wigginton, Cutler and Abecasis 2005, Am J Hum Genet 76:887)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gen3d.imaging.compiled import Compiled

Counts = NDArray[np.int64]


def _exact(het: Counts, hom_1: Counts, hom_2: Counts, p: NDArray[np.float64]) -> None:
    """The sum of probabilities, given the alleles, of numbers of heterozygotes that are no likelier than the one observed."""
    for i in range(len(het)):
        rare = 2 * min(hom_1[i], hom_2[i]) + het[i]
        num = het[i] + hom_1[i] + hom_2[i]
        if num == 0 or rare == 0:
            p[i] = 1.0
            continue
        probability = np.zeros(rare + 1)
        middle = rare * (2 * num - rare) // (2 * num)
        if middle % 2 != rare % 2:
            middle += 1
        probability[middle] = 1.0
        total = 1.0
        hets, rares = middle, (rare - middle) // 2
        commons = num - hets - rares
        while hets > 1:
            probability[hets - 2] = probability[hets] * hets * (hets - 1.0) / (4.0 * (rares + 1.0) * (commons + 1.0))
            total += probability[hets - 2]
            hets, rares, commons = hets - 2, rares + 1, commons + 1
        hets, rares = middle, (rare - middle) // 2
        commons = num - hets - rares
        while hets <= rare - 2:
            probability[hets + 2] = probability[hets] * 4.0 * rares * commons / ((hets + 2.0) * (hets + 1.0))
            total += probability[hets + 2]
            hets, rares, commons = hets + 2, rares - 1, commons - 1
        limit = probability[het[i]] * (1 + 1e-12)
        tail = 0.0
        for k in range(rare + 1):
            if probability[k] <= limit:
                tail += probability[k]
        p[i] = min(1.0, tail / total)


_compiled = Compiled(_exact)


def exact_p(het: Counts, hom_1: Counts, hom_2: Counts) -> NDArray[np.float64]:
    """p of every variant.

    Args:
        het, hom_1, hom_2: people with one copy, none and two of an allele; [variants].
    """
    p = np.empty(len(het), dtype=np.float64)
    _compiled(*(np.ascontiguousarray(counts, dtype=np.int64) for counts in (het, hom_1, hom_2)), p)
    return p
