"""Folds by person: every class in every fold, and whole sites where they are left out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.target import Target
from gen3d.core.errors import UserError

Index = NDArray[np.int64]
NUM_STRATA = 5
"""Quantiles of a number over which its people are dealt."""


@dataclass(frozen=True)
class StudyFold:
    """Training rows and tested rows; `member`: whose space of the latents, and whose scores of a trained network, are taken."""

    repeat: int
    number: int
    member: int
    train: Index
    test: Index


@dataclass(frozen=True)
class Layout:
    """What folds are made from, a row per scan.

    `groups` are people; `testable` and `usable`: who may be tested and who may be trained on; `blind` [members, n]: whether a
    member may test a person.
    """

    codes: NDArray[np.float64]
    groups: Index
    testable: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    blind: NDArray[np.bool_]
    sites: Sequence[str]


def make_folds(layout: Layout, target: Target, num_folds: int, repeats: int, seed: int) -> list[StudyFold]:
    """Repeated stratified folds by person; of a family of members, fold k is tested in the space of member k.

    Raises:
        UserError: a class with fewer people than folds, or fewer people than folds.
    """
    members = len(layout.blind)
    count = members if members > 1 else num_folds
    people, first = np.unique(layout.groups, return_index=True)
    strata = _strata(layout.codes[first], target)
    allowed = _allowed(layout, people, count, members)
    testable = np.array([layout.testable[layout.groups == person].all() for person in people]) & allowed.any(axis=1)
    _enough(strata[testable], count, target, members)
    folds = []
    for repeat in range(repeats):
        generator = np.random.default_rng([seed, repeat])
        dealt = _deal(strata, testable, allowed, generator)
        for number in range(count):
            test = np.flatnonzero(np.isin(layout.groups, people[dealt == number]))
            train = np.flatnonzero(~np.isin(layout.groups, layout.groups[test]) & layout.usable)
            folds.append(StudyFold(repeat, number, number if members > 1 else 0, train, test))
        if members > 1 and (allowed[testable].sum(axis=1) == 1).all():
            break  # one member per person may test them, so every repeat would be the same
    for fold in folds:
        require_all_classes(layout, fold, target, f"fold {fold.number + 1}")
    return folds


def leave_one_site_out(layout: Layout, target: Target) -> list[StudyFold]:
    """A fold per site: its people are tested with models trained on all other sites.

    Raises:
        UserError: one site only, a family of several members, or a class that exists at one site only.
    """
    if len(layout.blind) > 1:
        raise UserError(
            "split=sites needs one space for everybody, but these latents are of a cross-fitted family, whose folds are "
            "not the sites; use split=folds, or latents of a run with cross_fit=1 that never saw these people."
        )
    sites = np.asarray(layout.sites, dtype=str)
    names = sorted(set(sites) - {""})
    if len(names) < 2:
        raise UserError(f"split=sites needs two sites, but the table has {len(names)}; use split=folds.")
    folds = []
    for number, name in enumerate(names):
        test = np.flatnonzero((sites == name) & layout.testable)
        train = np.flatnonzero(~np.isin(layout.groups, layout.groups[sites == name]) & layout.usable)
        if len(test):
            folds.append(StudyFold(0, number, 0, train, test))
            require_all_classes(layout, folds[-1], target, f"leaving out the site {name}")
    return folds


def one_site_classes(codes: NDArray[np.float64], sites: Sequence[str], target: Target) -> list[tuple[str, str]]:
    """(class, site) of classes that exist at one site only, where there are several sites."""
    names = np.array([str(site) for site in sites])
    if target.task == "number" or len(set(names)) < 2:
        return []
    pairs = []
    for index, label in enumerate(target.classes):
        at = sorted(set(names[codes == index]))
        if len(at) == 1:
            pairs.append((label, at[0]))
    return pairs


def _strata(codes: NDArray[np.float64], target: Target) -> Index:
    if target.task != "number":
        return codes.astype(np.int64)
    cuts = np.quantile(codes, np.linspace(0, 1, NUM_STRATA + 1)[1:-1])
    return np.searchsorted(cuts, codes, side="right").astype(np.int64)


def _allowed(layout: Layout, people: Index, count: int, members: int) -> NDArray[np.bool_]:
    """Whether a person may be tested in a fold, [people, folds]."""
    if members == 1:
        return np.ones((len(people), count), dtype=bool)
    return np.array([layout.blind[:, layout.groups == person].all(axis=1) for person in people])


def _enough(strata: Index, count: int, target: Target, members: int) -> None:
    if target.task == "number":
        if len(strata) < 2 * count:
            raise UserError(f"{len(strata)} people are too few for {count} folds; at least {2 * count} are needed.")
        return
    for index, label in enumerate(target.classes):
        num = int((strata == index).sum())
        if num < count and members == 1:
            raise UserError(
                f"{target.name}: {num} people are {label}, fewer than the {count} folds; "
                + (f"set folds={num}." if num >= 2 else "add people, or leave the class out of classes=.")
            )
        if num == 0:
            raise UserError(f"{target.name}: nobody of the class {label} may be tested; see seen= and the notes above.")


def _deal(
    strata: Index, testable: NDArray[np.bool_], allowed: NDArray[np.bool_], generator: np.random.Generator
) -> Index:
    """Fold of every person, -1 where none: within a stratum in random order, each to the emptiest fold that may test them."""
    dealt = np.full(len(strata), -1, dtype=np.int64)
    total = np.zeros(allowed.shape[1])
    for stratum in np.unique(strata):
        inside = np.zeros(allowed.shape[1])
        rows = np.flatnonzero((strata == stratum) & testable)
        rows = generator.permutation(rows)
        # People that few members may test come first, while there is room in their folds.
        rows = rows[np.argsort(allowed[rows].sum(axis=1), kind="stable")]
        for row in rows:
            load = inside + 1e-3 * total + 1e-6 * generator.random(len(inside))
            dealt[row] = int(np.where(allowed[row], load, np.inf).argmin())
            inside[dealt[row]] += 1
            total[dealt[row]] += 1
    return dealt


def require_all_classes(layout: Layout, fold: StudyFold, target: Target, where: str) -> None:
    """Two training people of every class.

    Raises:
        UserError: nobody is left to train on, or too few of a class.
    """
    if not len(fold.train):
        raise UserError(f"{where}: no training people are left; use fewer folds or another split.")
    if target.task == "number":
        return
    for index, label in enumerate(target.classes):
        num = len(np.unique(layout.groups[fold.train][layout.codes[fold.train] == index]))
        if num < 2:
            at = sorted({str(s) for s, code in zip(layout.sites, layout.codes, strict=True) if code == index})
            only = f" ({label} exists at {at[0]} only)" if len(at) == 1 and "site" in where else ""
            raise UserError(
                f"{where}: {num} training people of class {label} are left{only}; use fewer folds, another split, or leave "
                "the class out of classes=."
            )
