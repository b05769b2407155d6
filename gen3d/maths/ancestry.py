"""Components of ancestry: principal components of genotypes, fitted on some people and applied to others.

Patterson, Price and Reich 2006 (PLoS Genet 2:e190): columns are centred at twice the allele's frequency and divided by
sqrt(2p(1-p)); a missing call is the mean. Frequencies and axes are those of the people fitted on alone, so that nobody who is
tested shapes them. The scores of people fitted on are slightly wider than those of others, as of all principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

BLOCK = 4096
"""Variants at a time."""


@dataclass(frozen=True)
class AncestryComponents:
    """Fitted axes.

    Attributes:
        means: twice the frequency of the counted allele, [m]; NaN where it did not vary.
        scales: sqrt(2p(1-p)), [m].
        axes: [m, k], with unit length.
        shares: of the variance of the people fitted on, [k].
    """

    means: NDArray[np.float64]
    scales: NDArray[np.float64]
    axes: NDArray[np.float64]
    shares: NDArray[np.float64]

    @property
    def num(self) -> int:
        """Components."""
        return self.axes.shape[1]

    def project(self, copies: NDArray[np.generic]) -> NDArray[np.float64]:
        """Scores of people, [n, k].

        Args:
            copies: [n, m] of the same variants, NaN or negative where missing.
        """
        scores = np.zeros((len(copies), self.num))
        for start in range(0, copies.shape[1], BLOCK):
            part = slice(start, start + BLOCK)
            scores += _scaled(copies[:, part], self.means[part], self.scales[part]) @ self.axes[part]
        return scores


def fit_ancestry(copies: NDArray[np.generic], num: int) -> AncestryComponents:
    """Fit components on people.

    Args:
        copies: [n, m], copies of the counted allele of variants in low linkage disequilibrium, NaN or negative where missing.
        num: components wanted; fewer where there are too few people or variants.

    Returns:
        Components in the order of their variance, the largest weight of each axis positive.
    """
    n, m = copies.shape
    means, scales = np.full(m, np.nan), np.zeros(m)
    products = np.zeros((n, n))
    for start in range(0, m, BLOCK):
        part = slice(start, start + BLOCK)
        block = np.asarray(copies[:, part], dtype=np.float64)
        known = block >= 0  # false for NaN
        counts = known.sum(axis=0)
        mean = np.divide(
            np.where(known, block, 0).sum(axis=0), counts, out=np.full(len(counts), np.nan), where=counts > 0
        )
        scale = np.sqrt(np.clip(mean * (1 - mean / 2), 0, None))
        means[part], scales[part] = mean, np.where(np.isfinite(scale), scale, 0)
        scaled = _scaled(block, means[part], scales[part])
        products += scaled @ scaled.T
    # Rows are centred by the columns' means up to missing calls, so the products are the covariances between people.
    wanted = max(0, min(num, n - 1, m))
    first = [n - wanted, n - 1]
    values, vectors = eigh(products, subset_by_index=first) if wanted else (np.empty(0), np.empty((n, 0)))
    order = np.argsort(values)[::-1]
    order = order[values[order] > 1e-9 * float(np.trace(products))]
    axes = np.zeros((m, len(order)))
    for start in range(0, m, BLOCK):
        part = slice(start, start + BLOCK)
        axes[part] = _scaled(copies[:, part], means[part], scales[part]).T @ (
            vectors[:, order] / np.sqrt(values[order])
        )
    if len(order):
        axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(order))])
    total = float(np.trace(products))
    return AncestryComponents(means, scales, axes, values[order] / total if total else values[order])


def _scaled(
    copies: NDArray[np.generic], means: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    block = np.asarray(copies, dtype=np.float64)
    usable = (block >= 0) & (scales > 0)
    return np.where(usable, (block - means) / np.where(scales > 0, scales, 1), 0.0)
