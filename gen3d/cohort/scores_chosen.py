"""Which of several classifiers is used in each fold, chosen by people who only watched: never by those it is tested on.

An orientation of the volume, a rate, a depth of freezing is a hyper-parameter. Trained once each in the same folds, the
candidates are compared in every fold on the validation people of its training share (nested selection: Varma and Simon 2006,
BMC Bioinformatics 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, log_softmax

from gen3d.cohort.scores_folder import MAIN, TWIN, VALIDATION, RunScores, ScoredMember
from gen3d.cohort.seen import SeenBy
from gen3d.core.errors import UserError

Scores = NDArray[np.float64]


def chosen_in_each_fold(runs: Sequence[RunScores]) -> tuple[RunScores, tuple[int, ...]]:
    """One run made of the best member of every fold, and the place among `runs` that each fold took.

    The member of a fold counts as having seen everybody that any candidate of the fold saw. Twins with random weights follow the
    choice where every candidate has them; members with permuted labels are left out, since nothing was chosen for them.

    Raises:
        UserError: other folds or another target, or nobody watched.
    """
    first = runs[0]
    for other in runs[1:]:
        if other.target != first.target or other.folds != first.folds or _moved(first, other):
            raise UserError(
                f"{other.folder}: was not trained for the same target in the folds of {first.folder}, so neither can be chosen "
                f"fold by fold; train it with folds={first.folder}."
            )
    losses = np.array([[_loss(run, member.index) for member in run.of()] for run in runs])
    choice = tuple(int(place) for place in losses.argmin(axis=0))
    variants = [MAIN, TWIN] if all(len(run.of(TWIN)) == first.folds for run in runs) else [MAIN]
    members: list[ScoredMember] = []
    people, tables = [], []
    for variant in variants:
        for fold, place in enumerate(choice):
            member = runs[place].of(variant)[fold]
            rows = runs[place].table
            tables.append(rows[rows["member"] == member.index].assign(member=len(members)))
            people.append(_seen_by_any(runs, variant, fold))
            members.append(replace(member, index=len(members)))
    chosen = replace(
        first,
        network=_joined([runs[place].network for place in choice]),
        form=_joined([runs[place].form for place in choice]),
        members=tuple(members),
        table=pd.concat(tables, ignore_index=True),
        seen=SeenBy(tuple(people)),
    )
    return chosen, choice


def _moved(first: RunScores, other: RunScores) -> bool:
    """Whether somebody is tested in another fold."""
    return any(other.fold_of.get(subject, fold) != fold for subject, fold in first.fold_of.items())


def _seen_by_any(runs: Sequence[RunScores], variant: str, fold: int) -> dict[str, str]:
    seen: dict[str, str] = {}
    for run in runs:
        seen |= run.seen.members[run.of(variant)[fold].index]
    return seen


def _loss(run: RunScores, member: int) -> float:
    """Loss of a member's validation people: cross-entropy in which classes weigh alike, or squared error.

    Raises:
        UserError: there are none.
    """
    rows = run.rows(member, VALIDATION)
    if rows.empty:
        raise UserError(
            f"{run.folder}: nobody only watched its training, so it cannot be chosen in a fold without looking at those who are "
            "tested; train it with model.validation=0.15."
        )
    scores, codes = run.scores(rows), run.target.codes(rows["label"])
    if run.target.task == "number":
        return float(np.square(scores[:, 0] - codes).mean())
    each = _ordered_loss(scores, codes) if run.target.task == "ordered" else _class_loss(scores, codes)
    return float(np.mean([each[codes == code].mean() for code in np.unique(codes)]))


def _class_loss(scores: Scores, codes: Scores) -> Scores:
    found: Scores = -log_softmax(scores, axis=1)[np.arange(len(codes)), codes.astype(np.int64)]
    return found


def _ordered_loss(scores: Scores, codes: Scores) -> Scores:
    above = codes[:, None] > np.arange(scores.shape[1])
    found: Scores = -np.log(np.clip(np.where(above, expit(scores), expit(-scores)), 1e-12, 1)).sum(axis=1)
    return found


def _joined(names: Sequence[str]) -> str:
    """Distinct names in the order of the folds that took them."""
    return " or ".join(dict.fromkeys(names))
