"""The null distribution of a classifier: labels are permuted, and a head is trained again; scores of a network stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gen3d.classify.study.crossvalidation import ClassifyStudy, Contestant, Index, Values, fit
from gen3d.classify.study.recipe import Recipe
from gen3d.cohort.target import Target
from gen3d.core.errors import UserError
from gen3d.core.pool import as_done, num_workers
from gen3d.maths.cross_validated import auc_within_models, permute_labels

Statistic = Literal["auc", "macro_auc", "mae"]
IN_ONE_GO = 20
"""Permutations that a process computes before it reports, so that the folds are sent to it less often."""
MOST_TRIES = 20
"""Permutations that are drawn until every training fold has all classes."""
LEAST_MOVABLE = 0.5
"""Share of people whose label can change below which labels are permuted across folds too."""


@dataclass(frozen=True)
class ReducedFold:
    """One fold after the label-free steps: values of the training and of the tested people, their rows and persons."""

    number: int
    learned_from: Values
    train: Index
    groups: Index
    synthetic_codes: Values
    tested: Values
    test: Index


@dataclass(frozen=True)
class PermutationJob:
    """What a worker needs to train a head on permuted labels."""

    recipe: Recipe
    target: Target
    folds: tuple[ReducedFold, ...]
    codes: Values
    groups: Index
    strata: Index
    seed: int

    def statistic(self, codes: Values) -> float:
        """The statistic of heads that learned these labels [n], on the folds of the first repeat."""
        outputs = np.full((len(codes), self.target.num_outputs), np.nan)
        fold_of = np.full(len(codes), -1, dtype=np.int64)
        for fold in self.folds:
            labels = np.concatenate([codes[fold.train], fold.synthetic_codes])
            learned = self.recipe.learn(fold.learned_from, labels, fold.groups, self.target, self.seed)
            outputs[fold.test], fold_of[fold.test] = learned.outputs(fold.tested), fold.number
        tested = fold_of >= 0
        return statistic(self.target, codes[tested], outputs[tested], fold_of[tested])


@dataclass(frozen=True)
class ScoredJob:
    """The same for a network, which would take days to train so often: its outputs of the tested scans stay as they are.

    So the null is narrower than one of networks that are trained anew: networks of overlapping training people err together.
    """

    target: Target
    outputs: Values
    models: Index
    codes: Values
    groups: Index
    strata: Index
    seed: int

    def statistic(self, codes: Values) -> float:
        """The statistic of the outputs with these labels [n]."""
        return statistic(self.target, codes, self.outputs, self.models)


Job = PermutationJob | ScoredJob


def statistic_name(target: Target) -> Statistic:
    """What is compared with its null distribution."""
    return "mae" if target.task == "number" else "auc" if target.is_binary else "macro_auc"


def prepare(model: Contestant, study: ClassifyStudy) -> PermutationJob:
    """Everything that labels do not change, of the folds of the first repeat.

    Labels are permuted within sites, and within folds so that every fold keeps its classes; within sites alone where that
    would change few labels. A target that is the same for everybody at a site is permuted across sites.
    """
    folds, place = [], np.full(len(study.codes), -1, dtype=np.int64)
    for fold in (fold for fold in study.folds if fold.repeat == 0):
        rows, codes, groups = study.training(model, fold.member, fold.train)
        reducer = model.recipe.reduce(rows)
        tested = reducer.apply(study.tested(model, fold.member, fold.test))
        synthetic = codes[len(fold.train) :]
        folds.append(ReducedFold(fold.number, reducer.apply(rows), fold.train, groups, synthetic, tested, fold.test))
        place[fold.test] = fold.number
    strata = _strata(study, place)
    return PermutationJob(model.recipe, study.target, tuple(folds), study.codes, study.persons, strata, study.seed)


def prepare_scores(model: Contestant, study: ClassifyStudy) -> ScoredJob:
    """The calibrated outputs of a network for the tested scans of the first repeat; labels are permuted as by `prepare`."""
    rows, outputs, place = [], [], np.full(len(study.codes), -1, dtype=np.int64)
    for fold in (fold for fold in study.folds if fold.repeat == 0):
        fitted = fit(model, study, fold.member, fold.train)
        rows.append(fold.test)
        outputs.append(fitted.outputs(study.tested(model, fold.member, fold.test)))
        place[fold.test] = fold.number
    tested = np.concatenate(rows)
    return ScoredJob(
        study.target,
        np.concatenate(outputs),
        place[tested],
        study.codes[tested],
        study.persons[tested],
        _strata(study, place)[tested],
        study.seed,
    )


def _strata(study: ClassifyStudy, place: Index) -> Index:
    """Who may exchange labels, [n]; `place`: the fold in which a scan is tested, -1 for none."""
    sites = np.unique(study.features.table["site"].astype(str).to_numpy(), return_inverse=True)[1].astype(np.int64)
    within = sites * (place.max() + 2) + place + 1
    movable = _movable(sites, study.codes)
    strata = within if _movable(within, study.codes) >= LEAST_MOVABLE * movable else sites
    if movable == 0:  # the target is the site or constant within it, so permuting within sites changes nothing
        strata = place - place.min() + 1 if _movable(place, study.codes) > 0 else np.zeros_like(sites)
    return strata


def _movable(strata: Index, codes: Values) -> float:
    """Share of scans in a stratum of more than one label."""
    _, inverse, counts = np.unique(strata, return_inverse=True, return_counts=True)
    mixed = np.array([np.ptp(codes[inverse == index]) > 0 for index in range(len(counts))])
    return float(mixed[inverse].mean())


def observed(job: Job) -> float:
    """The statistic with the true labels."""
    return job.statistic(job.codes)


def null_values(job: Job, num: int, workers: int) -> Iterator[Values]:
    """The statistic of `num` permutations, some at a time; number k of a seed is the same in any number of processes."""
    parts = [range(start, min(start + IN_ONE_GO, num)) for start in range(0, num, IN_ONE_GO)]
    count = num_workers(workers, max(1, len(parts) // 2))
    return as_done(_some, job, parts, count)


def _some(job: Job, part: range) -> Values:
    with threadpool_limits(1):  # a process per core: more threads would wait for each other
        return np.array([_one(job, number) for number in part])


def _one(job: Job, number: int) -> float:
    generator = np.random.default_rng([job.seed, 7919, number])
    for _ in range(MOST_TRIES):
        codes = permute_labels(job.codes, job.groups, job.strata, generator)
        try:
            return job.statistic(codes)
        except UserError:  # a training fold without one of the classes: draw again
            continue
    return float("nan")


def statistic(target: Target, codes: Values, outputs: Values, models: NDArray[np.int64]) -> float:
    """AUC of two classes, mean AUC of each class against the rest, or the mean absolute error of a number.

    Areas compare scans that one fitted model predicted, see `maths.cross_validated`.
    """
    if target.task == "number":
        return float(np.mean(np.abs(outputs[:, 0] - codes)))
    if target.is_binary:
        return auc_within_models(outputs[:, 1], codes == 1, models)
    areas = [auc_within_models(outputs[:, k], codes == k, models) for k in range(len(target.classes))]
    return float(np.nanmean(areas)) if np.isfinite(areas).any() else float("nan")
