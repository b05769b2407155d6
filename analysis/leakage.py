"""Shared by all parts of 12_what_leakage_buys.py: heads, folds, permuted labels, and how a result becomes a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from gen3d.maths.cross_validated import auc_within_models
from gen3d.maths.stats import Interval, bootstrap_interval

Values = NDArray[np.float64]
Codes = NDArray[np.int64]
Row = dict[str, Any]
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]

NUM_FOLDS = 5

HEADS: dict[str, Callable[[], ClassifierMixin]] = {
    "logistic": lambda: LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000),
    "svm, radial": lambda: SVC(C=10.0, class_weight="balanced"),
    "nearest neighbour": lambda: KNeighborsClassifier(1),
}


def pipeline(name: str, num_components: int = 100) -> Pipeline:
    """Scaling, principal components and a head, all fitted on training rows."""
    return make_pipeline(StandardScaler(), PCA(num_components, random_state=0), HEADS[name]())


def folds(labels: Codes, people: Codes, by_people: bool, seed: int) -> list[Fold]:
    """Five stratified folds, of people or of rows."""
    if by_people:
        made = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=seed).split(labels, labels, people)
    else:
        made = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed).split(labels, labels)
    return list(made)


def predictions(values: Values, labels: Codes, split: list[Fold], make: Callable[[], Pipeline]) -> Codes:
    """Predicted class of every row, by the pipeline fitted without its fold."""
    found = np.zeros_like(labels)
    for train, test in split:
        found[test] = make().fit(values[train], labels[train]).predict(values[test])
    return found


def predicted(values: Values, labels: Codes, split: list[Fold], make: Callable[[], Pipeline]) -> Values:
    """Decision value, class and number of the fold of every row, [n, 3]."""
    found = np.zeros((len(labels), 3))
    for number, (train, test) in enumerate(split):
        fitted = make().fit(values[train], labels[train])
        found[test] = np.column_stack(
            [fitted.decision_function(values[test]), labels[test], np.full(len(test), number)]
        )
    return found


def area(found: Values) -> float:
    """AUC of rows of `predicted`; only rows predicted by the same model are compared."""
    return auc_within_models(found[:, 0], found[:, 1] > 0, found[:, 2].astype(np.int64))


def balanced(correct: NDArray[np.bool_], labels: Codes, people: Codes) -> Interval:
    """Balanced accuracy over rows with its interval over people; everybody must have equally many rows."""
    frame = pd.DataFrame({"correct": correct.astype(float), "label": labels, "person": people})
    by_person = frame.groupby("person").agg(correct=("correct", "mean"), label=("label", "first")).to_numpy()

    def statistic(sample: Values) -> float:
        return float(np.mean([sample[sample[:, 1] == label, 0].mean() for label in (0, 1)]))

    return bootstrap_interval(by_person, statistic, num_resamples=1000)


def over_permutations(values: list[float]) -> Interval:
    """Mean over permutations of the labels, and where 95 % of them lie."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high), len(values))


def permuted(labels: Codes, people: Codes, seed: int) -> Codes:
    """Labels shuffled over people: all rows of a person keep one label."""
    _, first, places = np.unique(people, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(labels[first])
    return shuffled[places.reshape(-1)]


def row(part: str, split: str, name: str, labels: str, measure: str, interval: Interval, num_people: int) -> Row:
    """A line of the table."""
    base = {"samples": part, "split": split, "head": name, "labels": labels, "measure": measure}
    return base | {"value": interval.value, "low": interval.low, "high": interval.high, "num_people": num_people}


def penalised() -> Pipeline:
    """A logistic head on scaled latents."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
