"""Cross-validation of heads and baselines: everything is fitted on the training people of a fold, and tested on the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.study.features import Features
from gen3d.classify.study.folds import StudyFold
from gen3d.classify.study.recipe import Learned, Recipe, Reducer
from gen3d.cohort.target import Rows, Target

Values = NDArray[np.float64]
Index = NDArray[np.int64]
Kind = Literal["head", "baseline"]

IDENTITY = ("key", "subject", "session", "site", "age_years", "sex")
DIAGNOSIS = "diagnosis"


@dataclass(frozen=True)
class Contestant:
    """A head or a baseline: its recipe, and its features of some scans: `rows(features, member, chosen)`."""

    name: str
    kind: Kind
    recipe: Recipe
    rows: Callable[[Features, int, Index], Rows]
    description: str
    synthetic_rows: Rows | None = None
    synthetic_codes: Values = field(default_factory=lambda: np.empty(0))
    """Synthetic scans that are added to the training people of every fold, and their codes; never tested."""


@dataclass(frozen=True)
class ClassifyStudy:
    """What all models share: scans, their codes and people, and the folds."""

    features: Features
    codes: Values
    groups: Index
    target: Target
    folds: tuple[StudyFold, ...]
    seed: int
    tested_controls_known: bool = False
    """Whether recipes see which tested people are controls, to estimate a site that training did not know."""
    people: Index | None = None
    """Number of the person of each scan where `groups` are families; None where they are people."""

    @property
    def persons(self) -> Index:
        """Number of the person of each scan, [n]."""
        return self.groups if self.people is None else self.people

    def training(self, model: Contestant, member: int, chosen: Index) -> tuple[Rows, Values, Index]:
        """Training rows, codes and people; every synthetic scan counts as one more person."""
        rows, codes, groups = model.rows(self.features, member, chosen), self.codes[chosen], self.groups[chosen]
        if model.synthetic_rows is None or not len(model.synthetic_rows):
            return rows, codes, groups
        table = pd.concat([rows.table, model.synthetic_rows.table], ignore_index=True)
        values = np.concatenate([rows.values, model.synthetic_rows.values])
        synthetic_groups = self.groups.max() + 1 + np.arange(len(model.synthetic_rows))
        return (
            Rows(values, table, rows.blocks, rows.shape),
            np.concatenate([codes, model.synthetic_codes]),
            np.concatenate([groups, synthetic_groups]),
        )

    def tested(self, model: Contestant, member: int, chosen: Index) -> Rows:
        """Rows to predict, without the target."""
        rows = model.rows(self.features, member, chosen)
        table = rows.table.drop(columns=[self.target.name], errors="ignore")
        if self.tested_controls_known:
            table = table.assign(diagnosis=rows.table[DIAGNOSIS])
        elif DIAGNOSIS in table.columns:
            table = table.assign(diagnosis="")
        return Rows(rows.values, table, rows.blocks, rows.shape)


@dataclass(frozen=True)
class FittedContestant:
    """A model fitted on the training people of a fold."""

    reducer: Reducer
    learned: Learned

    def outputs(self, rows: Rows) -> Values:
        """[n, outputs]."""
        return self.learned.outputs(self.reducer.apply(rows))


def fit(model: Contestant, study: ClassifyStudy, member: int, train: Index) -> FittedContestant:
    """Fit a model on some of the people."""
    rows, codes, groups = study.training(model, member, train)
    reducer = model.recipe.reduce(rows)
    learned = model.recipe.learn(reducer.apply(rows), codes, groups, study.target, study.seed)
    return FittedContestant(reducer, learned)


def cross_validated(model: Contestant, study: ClassifyStudy) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Per fold: its rows of the prediction table, and what the inner cross-validation chose."""
    for fold in study.folds:
        fitted = fit(model, study, fold.member, fold.train)
        outputs = fitted.outputs(study.tested(model, fold.member, fold.test))
        where = {"repeat": fold.repeat, "fold": fold.number, "split": "cross-validation"}
        table = study.features.table.iloc[fold.test].reset_index(drop=True)
        yield (
            prediction_rows(
                model.name,
                model.kind,
                study.target,
                table,
                study.codes[fold.test],
                outputs,
                fitted.learned.threshold,
                where,
            ),
            dict(fitted.learned.settings),
        )


def prediction_rows(
    name: str,
    kind: Kind,
    target: Target,
    table: pd.DataFrame,
    codes: Values,
    outputs: Values,
    threshold: float,
    where: dict[str, Any],
) -> pd.DataFrame:
    """Rows of the prediction table: identity, model, fold, truth, score and call."""
    present = [name for name in IDENTITY if name in table.columns]
    frame = table[present].assign(model=name, kind=kind, **where)
    score, call, threshold = score_and_call(target, outputs, threshold)
    if target.task == "number":
        frame["y_true"] = codes
    else:
        frame["y_true"] = ["" if not np.isfinite(code) else target.classes[int(code)] for code in codes]
    if target.task != "number":  # nothing is said of a scan that a rule or a network does not know
        call = np.where(np.isfinite(outputs).all(axis=1), call, "")
    frame["y_score"], frame["y_pred"], frame["threshold"] = score, call, threshold
    for column, values in zip(target.output_columns, outputs.T, strict=True):
        frame[column] = values
    return frame


def score_and_call(target: Target, outputs: Values, threshold: float) -> tuple[Values, NDArray[Any], float]:
    """One score and one predicted class (or number) per scan.

    Two classes: the probability of the last one, which is predicted where it reaches the threshold. Ordered grades: the
    expected grade, and the median grade. Further categories: the probability of the most probable class. A number: itself.
    """
    if target.task == "number":
        return outputs[:, 0], outputs[:, 0], float("nan")
    names = np.asarray(target.classes, dtype=object)
    if target.is_binary:
        return outputs[:, -1], names[(outputs[:, -1] >= threshold).astype(int)], threshold
    if target.task == "ordered":
        median = (outputs.cumsum(axis=1) < 0.5).sum(axis=1).clip(0, len(names) - 1)
        return outputs @ np.arange(len(names)), names[median], float("nan")
    return outputs.max(axis=1), names[outputs.argmax(axis=1)], float("nan")


def chosen_settings(chosen: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often each combination was chosen over folds, the most frequent first."""
    counts: dict[str, dict[str, Any]] = {}
    for settings in chosen:
        text = ", ".join(f"{name}={value}" for name, value in settings.items())
        counts.setdefault(text, {"settings": text, "folds": 0})["folds"] += 1
    return sorted(counts.values(), key=lambda row: -int(row["folds"]))
