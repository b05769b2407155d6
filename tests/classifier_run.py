"""Runs of classifiers written by hand, as `gen3d train` leaves them: scores and people are known to the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.scores_folder import (
    MAIN,
    PERMUTED,
    SUBJECTS,
    TEST,
    TWIN,
    VALIDATION,
    ScoredMember,
    score_columns,
    write_description,
    write_scores,
)
from gen3d.cohort.seen import SeenBy, recorded
from gen3d.cohort.target import Target
from gen3d.core.artefact import digest, write_json
from gen3d.core.config import Verb
from gen3d.core.output_folder import begin

Scores = NDArray[np.floating]


class Trained(Verb):
    """Stands for the verb that trains: only its record matters here."""


def deal(table: pd.DataFrame, num_folds: int, by: str | None = None) -> NDArray[np.int64]:
    """Fold of every row, person by person in turn within each value of a column."""
    labels = table[by].astype(str) if by else pd.Series("", index=table.index)
    return np.array(table.groupby(labels).cumcount() % num_folds, dtype=np.int64)


def write_run(
    folder: Path,
    table: pd.DataFrame,
    target: Target,
    scores: Scores,
    fold_of: NDArray[np.int64],
    twin: Scores | None = None,
    permuted: Sequence[Scores] = (),
    validation: int = 3,
    also_saw: Sequence[Sequence[int]] = (),
    labels: pd.Series | None = None,
) -> Path:
    """Write a finished run.

    Args:
        folder: where.
        table: the people, one row per scan.
        target: what the networks predict.
        scores: raw scores of every scan by the networks that are blind to it, [n, scores].
        fold_of: fold of every row, from 0 [n]; -1 for people who are in no fold: all networks learn from them.
        twin: the same of networks with random weights.
        permuted: the same of networks that were trained with permuted labels, one array per permutation.
        validation: every so-manieth person of a training share is a validation person; 0: none.
        also_saw: per fold, rows of further people that its network was trained on: a leak if they are tested there.
        labels: what the networks were trained for, if not the table's column.

    Returns:
        The folder.
    """
    num_folds = int(fold_of.max()) + 1
    sets: list[tuple[str, int | None, Scores]] = [(MAIN, None, scores)]
    sets += [(TWIN, None, twin)] if twin is not None else []
    sets += [(PERMUTED, number, values) for number, values in enumerate(permuted)]
    answers = table[target.name] if labels is None else labels
    members, people, frames = [], [], []
    for variant, permutation, values in sets:
        for fold in range(num_folds):
            index, test = len(members), np.flatnonzero(fold_of == fold)
            learned = np.flatnonzero(fold_of != fold)
            watched = learned[::validation] if validation else learned[:0]
            members.append(ScoredMember(index, variant, fold, permutation))
            extra = list(also_saw[fold]) if also_saw else []
            people.append(recorded(table.iloc[[*learned.tolist(), *extra]].reset_index(drop=True), "train"))
            for part, rows in ((VALIDATION, watched), (TEST, test)):
                frame = table.iloc[rows][["key", "subject", "session"]].assign(member=index, part=part)
                frame["label"] = answers.iloc[rows].to_numpy()
                for name, column in zip(score_columns(values.shape[1]), values[rows].T, strict=True):
                    frame[name] = column
                frames.append(frame)
    identity: dict[str, Any] = {
        "scores": digest(np.asarray(scores).tolist()),
        "table": table.to_csv(),
        "saw": list(map(list, also_saw)),
    }
    work = begin(Trained(out=folder), "train", {}, identity)
    write_description(folder, target, "r3d_18", "trained by hand", ("t1w",), 0.3, num_folds, members)
    write_scores(folder, pd.concat(frames, ignore_index=True))
    write_json(folder / SUBJECTS, SeenBy(tuple(people)).record())
    work.finish({"num_members": len(members)})
    return folder
