"""Repeated cross-validation of a classifier: trainings that differ in who is in which fold, and in nothing else.

How well a network does depends on which people were held out and on where its weights began. Each further training is one more
repeat: everybody is tested once more, by a network that never saw the person (Kim 2009, Comput. Stat. Data Anal. 53).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from gen3d.cohort.scores_folder import RunScores, ScoredMember
from gen3d.cohort.seen import SeenBy
from gen3d.core import words as spell
from gen3d.core.artefact import record_of
from gen3d.core.errors import UserError

MAY_DIFFER = {"seed", "folds", "cross_fit"}
"""What deals the folds: a seed and their number, or the run whose folds were taken."""
ABSENT = object()


def repeated(runs: Sequence[RunScores]) -> RunScores:
    """One run of all members: fold k of repeat r is the fold r x folds + k, and `folds` are those of each repeat.

    Permutations keep their numbers: one is made of the members of all repeats that have it.

    Raises:
        UserError: trainings that differ in more than seed and folds, or that held out the same people together.
    """
    first = runs[0]
    members: list[ScoredMember] = []
    tables = []
    for repeat, run in enumerate(runs):
        for earlier in runs[:repeat]:
            _require_another_deal(earlier, run)
        tables.append(run.table.assign(member=run.table["member"] + len(members)))
        members += [
            replace(member, index=len(members) + member.index, fold=repeat * first.folds + member.fold)
            for member in run.members
        ]
    seen = SeenBy(tuple(people for run in runs for people in run.seen.members))
    return replace(first, members=tuple(members), table=pd.concat(tables, ignore_index=True), seen=seen)


def _require_another_deal(first: RunScores, other: RunScores) -> None:
    """Refuse what is no repeat of a training.

    Raises:
        UserError: it was trained otherwise, on other scans, or in the same folds.
    """
    one, two = _how_trained(first), _how_trained(other)
    differ = sorted(name for name in {*one, *two} - MAY_DIFFER if one.get(name, ABSENT) != two.get(name, ABSENT))
    if differ:
        raise UserError(
            f"{other.folder}: differs from {first.folder} in {spell.listed(differ)}, so it is no repeat of it; train it with the "
            "same settings on the same scans, and another seed=."
        )
    if first.folds != other.folds or set(first.fold_of) != set(other.fold_of):
        raise UserError(
            f"{other.folder}: tests other people than {first.folder}, or in another number of folds, so it is no repeat of it; "
            "train it with the same settings on the same scans, and another seed=."
        )
    if len({(fold, other.fold_of[subject]) for subject, fold in first.fold_of.items()}) == first.folds:
        raise UserError(
            f"{other.folder}: holds out the same people together as {first.folder}, so it is no repeat of the cross-validation; "
            "train it with another seed=, or with the folds= of another repeat."
        )


def _how_trained(run: RunScores) -> dict[str, Any]:
    """Target, settings and inputs by name, as the record of the run has them."""
    identity = (record_of(run.folder) or {}).get("identity", {})
    return {**identity.get("inputs", {}), **identity.get("settings", {}), "target": run.target}
