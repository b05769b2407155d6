"""Intervals and tests for predictions of several fitted models, each of people that it was not fitted on.

Scores of different models are not on one scale: a model fitted on more patients gives everyone higher scores,
and leaves fewer patients for its own test fold. Scores pooled over folds therefore rank worse than chance where there is
no effect. Here only scans that one fitted model predicted are compared with each other, as in LeDell, Petersen and
van der Laan 2015 (Electron J Statist 9:1583), generalised to repeated cross-validation.

People, not scans, are the unit of every interval: all scans of a person, and all repeats, move together. An interval treats
the fitted models as fixed. Without an effect, models of overlapping training sets err together, and 95 % intervals
covered 0.5 in only about 86 % of simulated cohorts. The test against chance is therefore the permutation of labels, with
the models fitted anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from scipy.stats import t as student_t

from gen3d.maths.stats import Interval, auroc

Values = NDArray[np.float64]
Codes = NDArray[np.int64]

MERGED = -1
"""Stratum of people who are alone in theirs: a resample could not replace them by another person."""


def codes_of(*columns: ArrayLike) -> Codes:
    """Number every distinct combination of the columns' values, 0, 1, ... in sorted order, [n]."""
    numbers = [np.unique(np.asarray(column), return_inverse=True)[1].ravel() for column in columns]
    return np.unique(np.stack(numbers, axis=1), axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def strata_of(people: Codes, labels: ArrayLike, num_people: int) -> Codes:
    """The class of every person [num_people]; people whose scans are of several classes are a stratum of their own kind.

    People alone in a stratum form one stratum together. people: number of the person of each row [n].
    """
    classes = codes_of(labels)
    held = np.zeros((num_people, int(classes.max(initial=0)) + 1), dtype=np.int64)
    held[people, classes] = 1
    kinds = np.unique(held, axis=0, return_inverse=True)[1].ravel().astype(np.int64)
    alone = np.bincount(kinds)[kinds] == 1
    kinds[alone] = MERGED
    return kinds


def resampled_weights(strata: Codes, num_resamples: int, seed: int) -> Values:
    """How often each person is drawn in each resample, with replacement within the strata, [num_resamples, people]."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((num_resamples, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = generator.multinomial(
            len(members), np.full(len(members), 1 / len(members)), size=num_resamples
        )
    return weights


def percentiles(resampled: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of resampled values, those that are not finite left out; NaN where fewer than half are finite."""
    values = np.asarray(resampled, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if finite.size == 0 or 2 * finite.size < values.size:
        return math.nan, math.nan
    low, high = np.percentile(finite, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


@dataclass(frozen=True)
class Bootstrap:
    """Rows of predictions and resamples of the people that they belong to.

    Attributes:
        people: number of the person of each row [n].
        weights: times that each person is drawn [resamples, people].
    """

    people: Codes
    weights: Values

    @property
    def num_people(self) -> int:
        """People who can be drawn."""
        return self.weights.shape[1]

    def per_person(self, columns: ArrayLike) -> Values:
        """Sums of columns [n, k] over the rows of each person, [people, k]."""
        values = np.asarray(columns, dtype=np.float64).reshape(len(self.people), -1)
        sums = [np.bincount(self.people, weights=column, minlength=self.num_people) for column in values.T]
        return np.stack(sums, axis=1)

    def resample(self, columns: ArrayLike, statistic: Callable[[Values], Values]) -> tuple[float, Values]:
        """A statistic of column sums, as it is and in every resample.

        columns [n, k]; statistic: sums [..., k] to values [...]. Returns the value and the resampled values.
        """
        sums = self.per_person(columns)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(np.asarray(statistic(sums.sum(axis=0)[None]))[0])
            return value, np.asarray(statistic(self.weights @ sums), dtype=np.float64)

    def interval(self, columns: ArrayLike, statistic: Callable[[Values], Values], level: float = 0.95) -> Interval:
        """A statistic of column sums with its percentile interval; no interval for fewer than two people."""
        num = len(np.unique(self.people))
        value, resampled = self.resample(columns, statistic)
        low, high = percentiles(resampled, level) if num > 1 and math.isfinite(value) else (math.nan, math.nan)
        return Interval(value, low, high, num)


@dataclass(frozen=True)
class ComparedGroup:
    """The scans of one fitted model: rows of the positives [p] and negatives [q], and their scores."""

    positives: Codes
    negatives: Codes
    high: Values
    low: Values

    @property
    def num_pairs(self) -> int:
        """Pairs of a positive and a negative."""
        return self.high.size * self.low.size

    @cached_property
    def _order(self) -> tuple[Codes, Codes, Codes]:
        """Order of the negatives [q], and of each positive [p] how many of them score lower, and how many no higher."""
        order = np.argsort(self.low, kind="stable")
        low = self.low[order]
        return order, np.searchsorted(low, self.high, side="left"), np.searchsorted(low, self.high, side="right")

    @property
    def won(self) -> tuple[Values, Values]:
        """Pairs that each positive [p] wins, and that each negative [q] loses, ties half."""
        _, below, not_above = self._order
        high = np.sort(self.high)
        lost = (
            2 * len(high) - np.searchsorted(high, self.low, side="left") - np.searchsorted(high, self.low, side="right")
        )
        return np.asarray((below + not_above) / 2.0), np.asarray(lost / 2.0)

    def won_in(self, positives: Values, negatives: Values) -> Values:
        """Weighted pairs that positives win in every resample [b]; weights [b, p] and [b, q].

        Of sorted negatives, those that a positive beats are the first ones, so that a sum over pairs is one over positives.
        """
        order, below, not_above = self._order
        beaten = np.zeros((len(negatives), len(order) + 1))
        np.cumsum(negatives[:, order], axis=1, out=beaten[:, 1:])
        return np.asarray(np.einsum("bi,bi->b", positives, beaten[:, below] + beaten[:, not_above]) / 2.0)


@dataclass(frozen=True)
class WithinModels:
    """Area under the ROC curve from pairs of scans that the same fitted model predicted.

    value = N / D, with N the pairs in which the positive scores higher (ties half), and D all pairs of a positive and a
    negative in one fold of one repeat. With one model this is the usual area.

    Attributes:
        scores: higher for the class looked for [n]; positive: boolean [n].
        models: number of the fitted model (repeat and fold) of each row [n]; people: of the person [n].
        num_people: all people, including those without a row.
    """

    scores: Values
    positive: NDArray[np.bool_]
    models: Codes
    people: Codes
    num_people: int

    @cached_property
    def groups(self) -> tuple[ComparedGroup, ...]:
        """The comparisons model by model; a model whose test people are of one class has none."""
        groups = []
        order = np.argsort(self.models, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(self.models[order])) + 1):
            ill, well = rows[self.positive[rows]], rows[~self.positive[rows]]
            if ill.size and well.size:
                groups.append(ComparedGroup(ill, well, self.scores[ill], self.scores[well]))
        return tuple(groups)

    @cached_property
    def num_pairs(self) -> int:
        """D, the pairs that could be compared."""
        return sum(group.num_pairs for group in self.groups)

    @cached_property
    def value(self) -> float:
        """The area; NaN where no model tested both classes."""
        if not self.num_pairs:
            return math.nan
        return float(sum(group.won[0].sum() for group in self.groups)) / self.num_pairs

    def resampled(self, weights: Values) -> Values:
        """The area in every resample of people, [resamples]; weights [resamples, people]."""
        won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for group in self.groups:
            ill, well = weights[:, self.people[group.positives]], weights[:, self.people[group.negatives]]
            won += group.won_in(ill, well)
            pairs += ill.sum(axis=1) * well.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, won / pairs, np.nan)

    @cached_property
    def influence(self) -> Values:
        """How the area changes with the weight of each person, d(N/D)/dw, [people].

        With one model: (V - area) / number of the person's class, V the placement of DeLong et al. 1988.
        """
        total = np.zeros(self.num_people)
        if not self.num_pairs:
            return total
        for group in self.groups:
            wins, losses = group.won
            for rows, sums, others in ((group.positives, wins, group.low), (group.negatives, losses, group.high)):
                change = (sums - self.value * others.size) / self.num_pairs
                total += np.bincount(self.people[rows], weights=change, minlength=self.num_people)
        return total

    @cached_property
    def num_by_class(self) -> tuple[int, int]:
        """People with a positive and with a negative scan that took part in a comparison."""
        if not self.groups:
            return 0, 0
        ill = np.concatenate([group.positives for group in self.groups])
        well = np.concatenate([group.negatives for group in self.groups])
        return len(np.unique(self.people[ill])), len(np.unique(self.people[well]))

    @cached_property
    def strata(self) -> Codes:
        """The class of every person, those without a row in a stratum of their own."""
        strata = np.full(self.num_people, MERGED - 1, dtype=np.int64)
        present, numbers = np.unique(self.people, return_inverse=True)
        strata[present] = strata_of(numbers.astype(np.int64), self.positive, len(present))
        return strata

    @property
    def variance(self) -> float:
        """Of the area; NaN with fewer than two people of either class."""
        return influence_variance(self.influence, self.strata) if min(self.num_by_class) > 1 else math.nan


def auc_within_models(scores: ArrayLike, positive: ArrayLike, models: Codes) -> float:
    """The value of `WithinModels` alone, without the pairs in memory: for permutations. All [n]; NaN without pairs."""
    values, ill = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    order = np.argsort(models, kind="stable")
    won, pairs = 0.0, 0
    for rows in np.split(order, np.flatnonzero(np.diff(models[order])) + 1):
        num = int(ill[rows].sum())
        if 0 < num < len(rows):
            won += auroc(values[rows], ill[rows]) * num * (len(rows) - num)
            pairs += num * (len(rows) - num)
    return won / pairs if pairs else math.nan


def influence_variance(influence: Values, strata: Codes) -> float:
    """Variance of a statistic from the influence of independent people drawn within strata.

    Sum over strata of m / (m - 1) x squares about the stratum's mean; who is alone counts with the square itself. Reduces to
    the variance of DeLong et al. 1988 for the area of one model.
    """
    total = 0.0
    for stratum in np.unique(strata):
        members = influence[strata == stratum]
        if len(members) > 1:
            total += float(np.sum((members - members.mean()) ** 2)) * len(members) / (len(members) - 1)
        else:
            total += float(members[0] ** 2)
    return total


def two_sided_p(value: float, variance: float) -> float:
    """p of a normal statistic being 0; 1 where value and variance are 0, NaN where only the variance is."""
    if variance < 1e-20:
        return 1.0 if abs(value) < 1e-12 else math.nan
    return float(2 * ndtr(-abs(value) / math.sqrt(variance)))


def corrected_resampled_t(differences: ArrayLike, test_to_train: float) -> tuple[float, float]:
    """t and two-sided p for differences of a measure per fold [J], whose training sets overlap (Nadeau and Bengio 2003).

    The variance of the mean is (1 / J + num_test / num_train) x the sample variance, with J - 1 degrees of freedom.
    Folds without a measure (NaN) are left out; NaN with fewer than two. test_to_train: num_test / num_train.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size < 2:
        return math.nan, math.nan
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    if variance < 1e-20:
        return (0.0, 1.0) if abs(mean) < 1e-12 else (math.nan, math.nan)
    t = mean / math.sqrt((1 / values.size + test_to_train) * variance)
    return t, float(2 * student_t.sf(abs(t), values.size - 1))


def permutation_p(observed: float, null_values: ArrayLike) -> float:
    """(1 + number of null values at least as large) / (number + 1); never 0 (Phipson and Smyth 2010). NaN without any.

    Values that are equal but for rounding count as at least as large.
    """
    null = np.asarray(null_values, dtype=np.float64)
    null = null[np.isfinite(null)]
    if not null.size or not math.isfinite(observed):
        return math.nan
    return float((1 + np.sum(null >= observed - 1e-12)) / (null.size + 1))


def permute_labels(labels: ArrayLike, people: Codes, strata: ArrayLike, generator: np.random.Generator) -> Values:
    """Labels permuted among the people of each stratum (site), [n].

    A person's labels are kept together. Where no person's labels differ between scans, people exchange them whatever their
    number of scans; otherwise a person's sequence of labels goes to a person of the stratum with as many scans.
    labels [n]; people: number of the person of each row [n]; strata [n], constant within a person (the first row's counts).
    """
    values = np.asarray(labels, dtype=np.float64)
    order = np.argsort(people, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(people[order])) + 1)
    constant = all(np.ptp(values[places]) == 0 for places in rows)
    site = codes_of(strata)
    kinds = codes_of(
        np.array([site[places[0]] for places in rows]),
        np.zeros(len(rows)) if constant else np.array([len(places) for places in rows]),
    )
    permuted = np.empty_like(values)
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        for person, donor in zip(members, generator.permutation(members), strict=True):
            permuted[rows[person]] = values[rows[donor][0]] if constant else values[rows[donor]]
    return permuted
