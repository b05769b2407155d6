"""Inner folds of the training people, for choosing the settings, calibration and threshold of a head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.target import Target
from gen3d.core.errors import UserError

MOST_FOLDS = 5
"""Each fit then has 80 % of the people, and each held-out fold still has enough of them for an AUC."""

PEOPLE_PER_CLASS = 2
"""In each inner fold, so that a fold says something about every class."""


def inner_folds(codes: NDArray[np.float64], groups: NDArray[np.int64], target: Target, seed: int) -> NDArray[np.int64]:
    """Number of the fold of every scan, [n]: 5 folds, or fewer where a class is small.

    People are dealt out in random order within the set of classes they have (a person may convert), or along their mean
    number, so that every fold has about the same shares of classes, or the same distribution.

    Raises:
        UserError: too few people, of a class or altogether.
    """
    people, rows = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng(seed)
    tie = generator.permutation(len(people))
    if target.task == "number":
        num_folds = min(MOST_FOLDS, len(people) // PEOPLE_PER_CLASS)
        if num_folds < 2:
            raise UserError(_too_few(f"{target.name} is known for {len(people)} people"))
        mean = np.bincount(rows, weights=codes) / np.bincount(rows)
        return _dealt_in_blocks(np.lexsort((tie, mean)), num_folds, generator)[rows]
    has = np.zeros((len(people), len(target.classes)), dtype=np.int64)
    has[rows, codes.astype(np.int64)] = 1
    num_folds = min(MOST_FOLDS, int(has.sum(axis=0).min()) // PEOPLE_PER_CLASS)
    if num_folds < 2:
        rarest = int(has.sum(axis=0).argmin())
        raise UserError(
            _too_few(f"{int(has[:, rarest].sum())} people have {target.name} {target.classes[rarest]}", "of a class ")
        )
    sets = has @ (2 ** np.arange(has.shape[1]))
    order = np.lexsort((tie, sets))
    dealt = np.empty(len(people), dtype=np.int64)
    dealt[order] = np.arange(len(people)) % num_folds
    folds = dealt[rows]
    for fold in range(num_folds):
        left = np.bincount(codes[folds != fold].astype(np.int64), minlength=len(target.classes))
        if not left.all():
            name = target.classes[int(left.argmin())]
            raise UserError(_too_few(f"people with {target.name} {name} have other classes as well", "of a class "))
    return folds


def _too_few(shortage: str, of_class: str = "") -> str:
    needed = 2 * PEOPLE_PER_CLASS
    return (
        f"{shortage} in a training fold, and settings and calibration need at least {needed} people {of_class}there; "
        "add people, merge classes or use fewer folds."
    )


def _dealt_in_blocks(order: NDArray[np.int64], num_folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Every run of `num_folds` people along the order goes to different folds."""
    dealt = np.empty(len(order), dtype=np.int64)
    for start in range(0, len(order), num_folds):
        block = order[start : start + num_folds]
        dealt[block] = generator.permutation(num_folds)[: len(block)]
    return dealt
