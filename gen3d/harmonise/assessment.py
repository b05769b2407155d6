"""What harmonisation did: how well the site, and the kept columns, are predicted from the latents before and after.

All predictions are cross-validated: 5 folds of people (one scan each). Harmonisation, at most 20 principal components and a
logistic regression (linear for a number) are fitted on the training people of a fold. "After" therefore shows harmonisation of
people that it was not fitted on; on its own people it would look perfect by construction. Intervals are over the tested people
with the fitted models fixed, which makes them somewhat narrow in small cohorts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression

from gen3d.cohort.target import FEWEST_DISTINCT, Rows, Target, Values, as_label, make_target
from gen3d.core.errors import UserError
from gen3d.core.tables import Row
from gen3d.harmonise.recipe import Harmonisation, reference_rows
from gen3d.maths.cross_validated import Bootstrap, WithinModels, codes_of, percentiles, resampled_weights

NUM_FOLDS = 5
MOST_COMPONENTS = 20
PEOPLE_PER_COMPONENT = 5
NUM_RESAMPLES = 1000
BEFORE, AFTER, DIFFERENCE = "before", "after", "after minus before"
LINEAR, SQUARES = "linear", "with squares"
"""Inputs of the logistic regression: the components, or also their squares, which separate sites that differ in scatter only."""


@dataclass(frozen=True)
class AssessmentFold:
    """Components of the training and the test people of a fold, standardised on the training people, [n, k] each."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    before: tuple[Values, Values]
    after: tuple[Values, Values] | None
    hidden: dict[str, Values]
    """`after` of the test people with one kept column hidden: its value must not help to predict itself."""


@dataclass(frozen=True)
class Assessment:
    """People of the sites that can be assessed, in folds. `left_out` are sentences about the other sites."""

    rows: Rows
    sites: NDArray[np.str_]
    folds: tuple[AssessmentFold, ...]
    left_out: tuple[str, ...]

    @property
    def models(self) -> NDArray[np.int64]:
        """The fold that tests each person, [n]."""
        fold_of = np.empty(len(self.rows), dtype=np.int64)
        for number, fold in enumerate(self.folds):
            fold_of[fold.test] = number
        return fold_of


def assess(
    rows: Rows, harmonisation: Harmonisation, seed: int, allowed: NDArray[np.bool_] | None = None, after: bool = True
) -> Assessment:
    """Divide people into folds within sites, and reduce their latents to components before and after harmonising.

    Args:
        rows: all scans; the first real one of every person is used.
        harmonisation: what is to be assessed.
        seed: of the folds and of the components.
        allowed: which scans the harmonisation may be fitted on, [n]; None for all.
        after: whether to harmonise at all.

    Raises:
        UserError: fewer than two sites with 5 such people, or a harmonisation that cannot be fitted within the folds.
    """
    may = np.ones(len(rows), dtype=bool) if allowed is None else allowed
    sites = harmonisation.sites_of(rows.table)
    first = reference_rows(rows.table)
    names, counts = np.unique(sites[first & may], return_counts=True)
    large = names[counts >= NUM_FOLDS]
    if len(large) < 2:
        raise UserError(
            f"fewer than two values of {harmonisation.by} have {NUM_FOLDS} people, so its predictability from the latents "
            "cannot be measured."
        )
    small = sorted(set(sites[first].tolist()) - set(large.tolist()))
    left_out = (
        (f"not assessed, with fewer than {NUM_FOLDS} people to fit on: {harmonisation.by} {', '.join(small)}.",)
        if small
        else ()
    )
    chosen = np.flatnonzero(first & np.isin(sites, large))
    people, sites, may = rows.take(chosen), sites[chosen], may[chosen]
    fold = _deal([f"{site} {ok}" for site, ok in zip(sites, may, strict=True)], seed)
    folds = tuple(
        _reduced(
            people, np.flatnonzero(fold != number), np.flatnonzero(fold == number), may, harmonisation, seed, after
        )
        for number in range(NUM_FOLDS)
    )
    return Assessment(people, sites, folds, left_out)


def _deal(strata: Sequence[str], seed: int) -> NDArray[np.int64]:
    """AssessmentFold of each person [n]: shuffled within strata and dealt in turn, so that each fold has its share of each."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(strata))
    order = order[np.argsort(np.array(strata)[order], kind="stable")]
    fold = np.empty(len(strata), dtype=np.int64)
    fold[order] = np.arange(len(strata)) % NUM_FOLDS
    return fold


def _reduced(
    people: Rows,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    may: NDArray[np.bool_],
    harmonisation: Harmonisation,
    seed: int,
    after: bool,
) -> AssessmentFold:
    learning, tested = people.take(train), people.take(test)
    before = _components(learning.values, seed)
    pair = (before(learning.values), before(tested.values))
    if not after:
        return AssessmentFold(train, test, pair, None, {})
    fitted = harmonisation.fit(learning.take(may[train]))
    values = fitted.apply(learning)
    reduce = _components(values, seed)
    hidden = {}
    for name in harmonisation.keep:
        blank = tested.table.assign(**{name: None})
        hidden[name] = reduce(fitted.apply(Rows(tested.values, blank)))
    return AssessmentFold(train, test, pair, (reduce(values), reduce(fitted.apply(tested))), hidden)


def _components(values: NDArray[np.floating], seed: int) -> Callable[[NDArray[np.floating]], Values]:
    """Projection on principal components of these people, each with their SD as unit."""
    num = max(1, min(MOST_COMPONENTS, len(values) // PEOPLE_PER_COMPONENT, values.shape[1]))
    centre = np.asarray(values, dtype=np.float64).mean(axis=0)
    model = PCA(num, random_state=seed).fit(np.asarray(values, dtype=np.float64) - centre)
    scale = np.sqrt(np.maximum(model.explained_variance_, 1e-12 * max(float(model.explained_variance_[0]), 1e-300)))
    loadings = (model.components_ / scale[:, None]).T
    return lambda rows: np.asarray((np.asarray(rows, dtype=np.float64) - centre) @ loadings)


def site_predictability(assessment: Assessment, by: str, seed: int) -> list[Row]:
    """How well the site is predicted: stage, classifier, measure, value, low, high, chance, num_people, num_sites.

    Balanced accuracy and macro AUC (one against the rest) with percentile intervals over people. After harmonisation they may
    lie below chance: the fit also removes accidents of the training people, which adds their opposite to the tested people.
    """
    names = tuple(str(name) for name in np.unique(assessment.sites))
    target = Target(by, "categories", names)
    codes = target.codes(pd.Series(assessment.sites))
    rows = []
    for classifier in (LINEAR, SQUARES):
        for label, value in _scores(assessment, target, codes, seed, classifier, None):
            rows.append({"stage": label.pop("stage"), "classifier": classifier, **label, **value})
    return [row | {"num_sites": len(names)} for row in rows]


def kept_effects(assessment: Assessment, columns: Sequence[str], seed: int) -> tuple[list[Row], list[str]]:
    """How well columns of the table are predicted, before and after: stage, column, task, measure, value, low, high, chance.

    Numbers are scored by R2 and Pearson's correlation, categories by balanced accuracy and macro AUC. Sentences name the columns
    that could not be scored. A kept column is hidden in the tested people.
    """
    rows: list[Row] = []
    sentences = []
    for name in columns:
        if name not in assessment.rows.table.columns:
            sentences.append(f"{name} is not a column of the table, so its effect could not be scored.")
            continue
        column = assessment.rows.table[name]
        frequent = _frequent(column)
        if frequent is not None and len(frequent) < 2:
            sentences.append(
                f"the effect of {name} could not be scored: fewer than two values of it have {NUM_FOLDS} people."
            )
            continue
        target = make_target(column, name, frequent, None if frequent is None else "categories")
        codes = target.codes(column)
        known = int(np.isfinite(codes).sum())
        if known < 2 * NUM_FOLDS:
            sentences.append(f"the effect of {name} could not be scored: only {known} people have a value.")
            continue
        for label, value in _scores(assessment, target, codes, seed, LINEAR, name):
            rows.append({"stage": label.pop("stage"), "column": name, "task": target.task, **label, **value})
    return rows, sentences


def _frequent(column: pd.Series) -> list[str] | None:
    """Categories of at least 5 people, the usual names of controls first; None for a column of numbers."""
    labels = pd.Series([label for label in map(as_label, column) if label], dtype=object)
    if labels.nunique() >= FEWEST_DISTINCT and pd.to_numeric(labels, errors="coerce").notna().all():
        return None
    counts = labels.value_counts()
    kept = labels[labels.map(counts) >= NUM_FOLDS]
    return list(make_target(kept, "", None, "categories").classes) if kept.nunique() > 1 else []


def _scores(
    assessment: Assessment, target: Target, codes: Values, seed: int, classifier: str, hide: str | None
) -> list[tuple[Row, Row]]:
    """Labels and values of every stage and measure of one target."""
    kept = np.isfinite(codes)
    truth, models = codes[kept], assessment.models[kept]
    people = np.arange(len(truth))
    strata = np.zeros(len(truth), dtype=np.int64) if target.task == "number" else codes_of(truth)
    bootstrap = Bootstrap(people, resampled_weights(strata, NUM_RESAMPLES, seed))
    stages = [BEFORE, AFTER] if all(fold.after is not None for fold in assessment.folds) else [BEFORE]
    outputs = {stage: _out_of_fold(assessment, target, codes, classifier, stage, hide)[kept] for stage in stages}
    scores: list[tuple[Row, Row]] = []
    for name, chance in _chances(target).items():
        values = {stage: _measured(name, bootstrap, truth, predicted, models) for stage, predicted in outputs.items()}
        if AFTER in values:
            (first, drawn_first), (second, drawn_second) = values[BEFORE], values[AFTER]
            values[DIFFERENCE] = (second - first, drawn_second - drawn_first)
        for stage, (value, drawn) in values.items():
            low, high = percentiles(drawn)
            level = 0.0 if stage == DIFFERENCE else chance
            numbers = {"value": value, "low": low, "high": high, "chance": level, "num_people": len(truth)}
            scores.append(({"stage": stage, "measure": name}, numbers))
    return scores


def _chances(target: Target) -> dict[str, float]:
    """The measures of a target, and the value of each at chance."""
    if target.task == "number":
        return {"r2": 0.0, "pearson": 0.0}
    return {"balanced_accuracy": 1.0 / target.num_outputs, "macro_auc": 0.5}


def _measured(
    name: str, bootstrap: Bootstrap, truth: Values, outputs: Values, models: NDArray[np.int64]
) -> tuple[float, Values]:
    """A measure, and its value in every resample of people. AUCs and correlations compare only people of the same fold."""
    if name == "macro_auc":
        areas = [
            WithinModels(outputs[:, code], truth == code, models, bootstrap.people, bootstrap.num_people)
            for code in range(outputs.shape[1])
        ]
        resampled = np.mean([area.resampled(bootstrap.weights) for area in areas], axis=0)
        return float(np.mean([area.value for area in areas])), resampled
    if name == "balanced_accuracy":
        member = (truth[:, None] == np.arange(outputs.shape[1])).astype(np.float64)
        right = member * (outputs.argmax(axis=1) == truth)[:, None]
        num = member.shape[1]
        return bootstrap.resample(np.hstack([right, member]), lambda sums: (sums[:, :num] / sums[:, num:]).mean(axis=1))
    predicted = outputs[:, 0]
    one = np.ones_like(truth)
    if name == "r2":
        x = truth - truth.mean()
        return bootstrap.resample(
            np.stack([(predicted - truth) ** 2, x**2, x, one], axis=1),
            lambda sums: 1.0 - sums[:, 0] / (sums[:, 1] - sums[:, 2] ** 2 / sums[:, 3]),
        )
    x, y = _centred(truth, models), _centred(predicted, models)
    return bootstrap.resample(np.stack([x * y, x**2, y**2, x, y, one], axis=1), _correlation)


def _centred(values: Values, models: NDArray[np.int64]) -> Values:
    means = np.bincount(models, weights=values) / np.maximum(np.bincount(models), 1)
    return np.asarray(values - means[models])


def _correlation(sums: Values) -> Values:
    both, first, second, x, y, num = sums.T
    return np.asarray((both - x * y / num) / np.sqrt((first - x**2 / num) * (second - y**2 / num)))


def _out_of_fold(
    assessment: Assessment, target: Target, codes: Values, classifier: str, stage: str, hide: str | None
) -> Values:
    """Predictions of each person by the models of the fold that tests them, [n, outputs]."""
    outputs = np.full((len(codes), target.num_outputs), np.nan)
    for fold in assessment.folds:
        train, test = fold.before if stage == BEFORE or fold.after is None else fold.after
        if stage == AFTER and hide in fold.hidden:
            test = fold.hidden[hide]
        if classifier == SQUARES:
            train, test = np.hstack([train, train**2]), np.hstack([test, test**2])
        known = np.isfinite(codes[fold.train])
        outputs[fold.test] = _predicted(train[known], codes[fold.train][known], test, target)
    return outputs


def _predicted(train: Values, codes: Values, test: Values, target: Target) -> Values:
    if target.task == "number":
        return np.asarray(LinearRegression().fit(train, codes).predict(test))[:, None]
    outputs = np.zeros((len(test), target.num_outputs))
    classes = np.unique(codes).astype(np.int64)
    if len(classes) < 2:
        outputs[:, classes] = 1.0
        return outputs
    model = LogisticRegression(class_weight="balanced", max_iter=2000).fit(train, codes)
    outputs[:, classes] = model.predict_proba(test)
    return outputs
