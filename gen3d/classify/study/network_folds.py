"""The folds of a study with trained classifiers: those in which the classifiers were trained, for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.classify.study.features import Features
from gen3d.classify.study.folds import Layout, StudyFold, require_all_classes
from gen3d.classify.study.networks import Network
from gen3d.cohort.seen import named
from gen3d.cohort.target import Target
from gen3d.core import words as spell
from gen3d.core.errors import UserError

Index = NDArray[np.int64]


@dataclass(frozen=True)
class NetworkFolds:
    """One fold per member, and who could not be in them."""

    folds: tuple[StudyFold, ...]
    notes: tuple[str, ...]


def network_folds(networks: Sequence[Network], features: Features, layout: Layout, target: Target) -> NetworkFolds:
    """Fold k tests the people whom member k of every network never saw, with models of the people whom it learned from.

    Networks that were trained several times (`again`) have such folds in every repeat.

    `layout.blind` has a row per space of the latents: of a cross-fitted family, member k of the latents must not have seen
    the tested people of fold k either; those whom it saw are not tested.

    Raises:
        UserError: networks with different folds, a family of latents with another number of members, a class that is left
            without training people, or nobody to test.
    """
    tested = _shared_folds(networks, features)
    each = networks[0].folds_each
    learned = np.asarray(np.stack([network.learned(features.table) for network in networks]).all(axis=0))
    blind = _blind(layout, networks[0])
    notes = _who_is_missing(networks, features, tested[0], learned)
    split = np.any([_in_two_folds(places, layout.groups) for places in tested], axis=0)
    fine = (tested[0] >= 0) & layout.testable & ~split
    scans = np.arange(tested.shape[1])
    seen = fine & ~blind[np.maximum(tested, 0), scans].all(axis=0)
    notes += _left_out(features, split, "are one person with somebody of another fold")
    notes += _left_out(
        features, seen, "were seen by the model behind the latents in the fold in which they would be tested"
    )
    notes += _left_out(
        features, (tested[0] >= 0) & ~layout.testable & ~split, "may be trained on only, and are not tested"
    )
    folds = []
    for member in range(networks[0].num_folds):
        repeat, number = divmod(member, each)
        test = np.flatnonzero(fine & ~seen & (tested[repeat] == member))
        held = np.isin(layout.groups, layout.groups[(tested[repeat] == member)])
        train = np.flatnonzero(learned[member] & ~held & layout.usable)
        folds.append(StudyFold(repeat, number, member, train, test))
        require_all_classes(layout, folds[-1], target, f"fold {number + 1} of {networks[0].folder}")
    _some_of_every_class(folds, layout, target, networks[0])
    return NetworkFolds(tuple(folds), tuple(notes))


def _shared_folds(networks: Sequence[Network], features: Features) -> Index:
    """The fold of every scan in every repeat, [repeats, n]; -1 where a network did not test it."""
    first = networks[0]
    tested = first.fold_of(features.table)
    for other in networks[1:]:
        if other.repeats != first.repeats:
            raise UserError(
                f"{other.folder}: is one of {spell.count(other.repeats, 'training')}, and {first.folder} of {first.repeats}, so "
                "the two cannot be compared; give both as many runs in again=, in the same order and trained with the same folds=."
            )
        theirs = other.fold_of(features.table)
        both = (tested >= 0) & (theirs >= 0)
        if other.num_folds != first.num_folds or (tested[both] != theirs[both]).any():
            raise UserError(
                f"{other.folder}: was not trained in the folds of {first.folder}, so the two cannot be compared on the same "
                f"people; train it with folds={first.folder}."
            )
        tested = np.where(both, tested, -1)
    return np.where((tested >= 0).all(axis=0), tested, -1)


def _blind(layout: Layout, network: Network) -> NDArray[np.bool_]:
    """Whether the latents' model of each fold never saw a person, [folds, n]."""
    count, members = network.num_folds, len(layout.blind)
    if members > 1 and network.repeats > 1:
        raise UserError(
            f"{network.folder}: again= deals folds anew, but the latents are of a family of {members} whose folds are fixed; give "
            "latents of a run with cross_fit=1 that never saw these people, or none."
        )
    if members not in (1, count):
        raise UserError(
            f"{network.folder}: has {count} folds, but the latents are of a family of {members}; train both with the same folds "
            f"(folds={network.folder}), or give latents of a run with cross_fit=1 that never saw these people."
        )
    return np.broadcast_to(layout.blind, (count, layout.blind.shape[1]))


def _in_two_folds(tested: Index, groups: Index) -> NDArray[np.bool_]:
    """Scans of people who are tested in several folds, as two ids that were merged may be, [n]."""
    known = tested >= 0
    low, high = np.full(groups.max() + 1, np.iinfo(np.int64).max), np.full(groups.max() + 1, -1)
    np.minimum.at(low, groups[known], tested[known])
    np.maximum.at(high, groups[known], tested[known])
    return np.asarray(known & (low[groups] != high[groups]))


def _who_is_missing(
    networks: Sequence[Network], features: Features, tested: Index, learned: NDArray[np.bool_]
) -> list[str]:
    names = spell.listed([network.name for network in networks])
    unknown = (tested < 0) & ~learned.any(axis=0)
    notes = _left_out(features, unknown, f"have no score of {names}, and are excluded")
    only_trained = (tested < 0) & learned.any(axis=0)
    notes += _left_out(features, only_trained, f"were not held out by {names}, and are used for training only")
    for network in networks:
        others = network.num_others(features.table)
        if others:
            notes.append(
                f"{network.name} also learned from {spell.people(others)} who are not in this study, which heads and baselines "
                "cannot"
            )
    return notes


def _left_out(features: Features, chosen: NDArray[np.bool_], what: str) -> list[str]:
    people = features.table.loc[chosen, "subject"].astype(str).drop_duplicates().tolist()
    return [f"{spell.people(len(people))} ({named(people)}) {what}"] if people else []


def _some_of_every_class(folds: Sequence[StudyFold], layout: Layout, target: Target, network: Network) -> None:
    if target.task == "number":
        return
    rows = np.concatenate([fold.test for fold in folds])
    for code, label in enumerate(target.classes):
        if not (layout.codes[rows] == code).any():
            raise UserError(
                f"{target.name}: nobody of the class {label} is tested by {network.folder}; add people of that class to its "
                "training, or leave the class out of classes=."
            )
