"""The quality of an imputed variant: what its file states, else estimated from the dosages."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

STATED = ("R2", "INFO", "DR2", "IMP_R2")
"""Keys of the INFO column in which minimac, IMPUTE, Beagle and others write it."""


def stated_info(texts: Iterable[str]) -> NDArray[np.float64]:
    """The quality that INFO columns of a .pvar file state, NaN where they state none or say that the variant was typed; [n]."""
    return np.array([_of_text(text) for text in texts])


def _of_text(text: str) -> float:
    keys = dict(part.partition("=")[::2] for part in str(text).split(";"))
    return number_of(keys) if "TYPED" not in keys else np.nan


def number_of(keys: object) -> float:
    """The first of `STATED` that a mapping has as a number, else NaN."""
    for name in STATED:
        value = keys.get(name)  # type: ignore[attr-defined]  # a dict, or an INFO of cyvcf2
        if value is not None:
            try:
                return float(value)
            except (TypeError, ValueError):
                continue
    return float("nan")


def estimated_info(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of dosages over that of genotypes of the same frequency, 2p(1-p): the r2 of MaCH.

    Li et al. 2010, Genet Epidemiol 34:816.

    Args:
        mean, variance: of the dosages of each variant; [n].
    """
    frequency = mean / 2
    expected = 2 * frequency * (1 - frequency)
    return np.divide(variance, expected, out=np.full(len(mean), np.nan), where=expected > 0)
