"""What the record of a study says of its networks, those among them that were trained with permuted labels."""

from __future__ import annotations

import math

import numpy as np

from gen3d.classify.study.contestants import permuted_contestants
from gen3d.classify.study.crossvalidation import ClassifyStudy, Contestant, fit
from gen3d.classify.study.permutation import statistic
from gen3d.classify.study.question import Question
from gen3d.cohort.scores_folder import ScoredMember
from gen3d.core.tables import Row


def network_records(question: Question, study: ClassifyStudy) -> list[Row]:
    """Per network: what it is, in which folds it was trained, and the statistic of each retraining with permuted labels."""
    return [
        {
            "name": network.name,
            "network": network.run.network,
            "form": network.run.form,
            "channels": list(network.run.channels),
            "folds": network.folds_each,
            "repeats": network.repeats,
            "chosen": list(network.choice),
            "validation": network.run.validation,
            "twin": network.twin_name if network.has_twin else None,
            "permuted": [
                {"permutation": number, **_tested(model, members, study), "folds": len(members)}
                for number, (model, members) in permuted_contestants(network).items()
            ],
        }
        for network in question.networks
    ]


def _tested(model: Contestant, members: tuple[ScoredMember, ...], study: ClassifyStudy) -> Row:
    """The statistic in the folds of these members, with the true labels of the tested people, and how many they are."""
    trained, outputs, rows, folds = {member.fold for member in members}, [], [], []
    for fold in (fold for fold in study.folds if fold.member in trained):
        fitted = fit(model, study, fold.member, fold.train)
        outputs.append(fitted.outputs(study.tested(model, fold.member, fold.test)))
        rows.append(fold.test)
        folds.append(np.full(len(fold.test), fold.member))
    if not rows:
        return {"value": None, "num_people": 0}
    values, codes = np.concatenate(outputs), study.codes[np.concatenate(rows)]
    known = np.isfinite(values).all(axis=1)
    found = statistic(study.target, codes[known], values[known], np.concatenate(folds)[known])
    people = len(np.unique(study.persons[np.concatenate(rows)[known]]))
    return {"value": found if math.isfinite(found) else None, "num_people": people}
