"""Measures of predicted classes, grades and numbers, with intervals over people.

Every measure is a function of sums over people, so that thousands of resamples are one matrix product. Rows may be repeats
of the same scans: `share` weighs them (1 / repeats), so that a scan counts once, by the mean over its repeats. Ranks and
correlations compare only rows that one fitted model predicted (see `cross_validated`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gen3d.maths.cross_validated import (
    Bootstrap,
    Codes,
    Values,
    WithinModels,
    influence_variance,
    percentiles,
    two_sided_p,
)
from gen3d.maths.probability import ratio
from gen3d.maths.stats import Interval, delong_interval, wilson_interval, wilson_of_share

Statistic = Literal["pearson", "spearman"]


def share_of_rows(scans: Codes) -> Values:
    """1 / the number of rows (repeats) of the scan of each row, [n]."""
    return np.asarray(1.0 / np.bincount(scans)[scans])


def hit_rate(bootstrap: Bootstrap, right: ArrayLike, among: ArrayLike, share: Values) -> Interval:
    """The share of scans that are `right` [n] `among` some [n, boolean]: sensitivity, specificity, accuracy.

    Where all or none are right, resamples say nothing, and the interval is Wilson's for the number of people.
    """
    inside = np.asarray(among, dtype=bool)
    people = len(np.unique(bootstrap.people[inside]))
    weight = share * inside
    rate = bootstrap.interval(np.stack([weight * np.asarray(right), weight], axis=1), ratio)
    if rate.value in (0.0, 1.0):
        return wilson_interval(round(rate.value * people), people)
    return Interval(rate.value, rate.low, rate.high, people)


def balanced_accuracy(
    bootstrap: Bootstrap, truth: Codes, predicted: Codes, num_classes: int, share: Values
) -> Interval:
    """Mean over the classes of the share predicted correctly; truth and predicted are class numbers [n]. NaN if a class is empty.

    Where all (or none) are right in every class, the bounds are the means of the classes' Wilson bounds, which is cautious.
    """
    people = len(np.unique(bootstrap.people))
    member = (truth[:, None] == np.arange(num_classes)) * share[:, None]
    if not (member.sum(axis=0) > 0).all():
        return Interval(math.nan, math.nan, math.nan, people)

    def mean_rate(sums: Values) -> Values:
        return np.asarray((sums[..., :num_classes] / sums[..., num_classes:]).mean(axis=-1))

    mean = bootstrap.interval(np.hstack([member * (truth == predicted)[:, None], member]), mean_rate)
    if mean.value in (0.0, 1.0):
        rates = [hit_rate(bootstrap, truth == predicted, truth == code, share) for code in range(num_classes)]
        low, high = (float(np.mean([getattr(rate, side) for rate in rates])) for side in ("low", "high"))
        return Interval(mean.value, low, high, people)
    return mean


def macro_f1(bootstrap: Bootstrap, truth: Codes, predicted: Codes, num_classes: int, share: Values) -> Interval:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN); 0 for a class that is never predicted. NaN if a class is empty."""
    people = len(np.unique(bootstrap.people))
    classes = np.arange(num_classes)
    is_class, called = (codes[:, None] == classes for codes in (truth, predicted))
    if not is_class.any(axis=0).all():
        return Interval(math.nan, math.nan, math.nan, people)

    def mean_f1(sums: Values) -> Values:
        hits, both = sums[..., :num_classes], sums[..., num_classes:]
        return np.asarray((2 * hits / both).mean(axis=-1))

    columns = np.hstack([is_class & called, is_class.astype(np.int64) + called]) * share[:, None]
    return bootstrap.interval(columns, mean_f1)


def recall(people: Codes, truth: Codes, predicted: Codes, code: int, share: Values) -> Interval:
    """Share of a class that is predicted to be it, with Wilson's interval for the number of its people."""
    inside = truth == code
    weight = float(share[inside].sum())
    rate = float((share * (predicted == code))[inside].sum()) / weight if weight else math.nan
    return wilson_of_share(rate, len(np.unique(people[inside])))


def majority_share(people: Codes, truth: Codes, share: Values) -> Interval:
    """Share of the most frequent class: the accuracy of always saying it, with Wilson's interval."""
    return wilson_of_share(float(np.bincount(truth, weights=share).max() / share.sum()), len(np.unique(people)))


def quadratic_kappa(bootstrap: Bootstrap, truth: Codes, predicted: Codes, share: Values) -> Interval:
    """Cohen's kappa with quadratic weights (Cohen 1968), for grades as numbers [n]; NaN where nothing varies.

    1 - mean squared disagreement / that of independent grades with the same margins, which for quadratic weights is the sum
    of both variances and of the squared difference of the means.
    """
    t, p = truth.astype(np.float64), predicted.astype(np.float64)
    columns = np.stack([np.ones_like(t), t, p, t**2, p**2, (t - p) ** 2], axis=1) * share[:, None]

    def kappa(sums: Values) -> Values:
        means = sums[..., 1:] / sums[..., :1]
        chance = means[..., 2] + means[..., 3] - 2 * means[..., 0] * means[..., 1]
        return np.where(chance > 1e-12, 1 - means[..., 4] / np.where(chance > 1e-12, chance, 1.0), np.nan)

    return bootstrap.interval(columns, kappa)


def average_precision(area: WithinModels, weights: Values) -> Interval:
    """Area under the precision-recall curve within models: the mean over positives of the precision at their score.

    Precision is among the scans of the same fitted model; with one model this is the usual average precision. Its value for
    random scores is about the prevalence (above it where folds are small). weights [resamples, people].
    """
    num = len(np.unique(area.people))
    observed = _average_precision(area, np.ones((1, area.num_people)))[0]
    if not math.isfinite(observed) or min(area.num_by_class) < 2:
        return Interval(float(observed), math.nan, math.nan, num)
    return Interval(float(observed), *percentiles(_average_precision(area, weights)), num)


def _average_precision(area: WithinModels, weights: Values) -> Values:
    precision, positives = np.zeros(len(weights)), np.zeros(len(weights))
    for group in area.groups:
        rows = np.concatenate([group.positives, group.negatives])
        rows = rows[np.argsort(-area.scores[rows], kind="stable")]
        last = np.append(np.flatnonzero(np.diff(area.scores[rows])), len(rows) - 1)  # of equal scores
        drawn = weights[:, area.people[rows]]
        selected = np.cumsum(drawn, axis=1)[:, last]
        hits = np.cumsum(drawn * area.positive[rows], axis=1)[:, last]
        steps = np.diff(hits, axis=1, prepend=0.0)
        precision += np.einsum("bt,bt->b", steps, hits / np.maximum(selected, 1e-12))
        positives += hits[:, -1]
    return np.where(positives > 0, precision / np.maximum(positives, 1e-12), np.nan)


@dataclass(frozen=True)
class Areas:
    """The area of one class against the rest, for one or several classes, and its mean in every resample of people.

    Attributes:
        areas: of each class, over the same rows.
        draws: the mean over the classes in each resample, [resamples].
    """

    areas: tuple[WithinModels, ...]
    draws: Values

    @property
    def value(self) -> float:
        """The mean over the classes (macro area); NaN if a class cannot be compared."""
        return float(np.mean([area.value for area in self.areas]))

    @property
    def influence(self) -> Values:
        """How the mean changes with the weight of each person, [people]."""
        return np.asarray(np.mean([area.influence for area in self.areas], axis=0))

    @property
    def num_people(self) -> int:
        """People with a row."""
        return len(np.unique(self.areas[0].people))

    @property
    def has_interval(self) -> bool:
        """Whether every class was compared, with two people or more on either side."""
        return all(min(area.num_by_class) > 1 for area in self.areas)

    def interval(self, level: float = 0.95) -> Interval:
        """The mean with its percentile interval.

        Where two classes separate completely (or all scores are equal) every resample gives the same value and says nothing;
        the score interval of Newcombe 2006 for as many people is given instead.
        """
        if not self.has_interval:
            return Interval(self.value, math.nan, math.nan, self.num_people)
        low, high = percentiles(self.draws, level)
        if high - low < 1e-12 and self.value in (0.0, 0.5, 1.0):
            ill, well = self.areas[0].num_by_class
            same = delong_interval(np.full(ill, self.value), np.full(well, 1.0 - self.value), level)
            low, high = same.low, same.high
        return Interval(self.value, low, high, self.num_people)

    def variance(self) -> float:
        """Of the mean, from the influence of people; for one class and one model that of DeLong et al. 1988."""
        return influence_variance(self.influence, self.areas[0].strata) if self.has_interval else math.nan


def draw_areas(areas: Sequence[WithinModels], weights: Values) -> Areas:
    """The areas of one or several classes in every resample; weights [resamples, people]."""
    return Areas(tuple(areas), np.asarray(np.mean([area.resampled(weights) for area in areas], axis=0)))


@dataclass(frozen=True)
class Difference:
    """A difference between two models of the same people, with its interval and two-sided p; NaN where there is none."""

    value: float
    low: float
    high: float
    p: float
    num: int


def auc_difference(first: Areas, second: Areas, level: float = 0.95) -> Difference:
    """Area (or mean area) of the first minus the second, of the same rows in the same order and the same resamples.

    The interval is that of the paired bootstrap, p that of DeLong's test generalised to several models and classes (1 for
    equal rankings, NaN where both are without variance). Both take the fitted models as given: between two heads of the same
    merit, fitted anew in each of 300 simulated cohorts of 150 people and five folds, p was below .05 in about a tenth; the
    corrected resampled t (`cross_validated`), which is about fitting anew, in 2 to 4 %.
    """
    value, num = first.value - second.value, first.num_people
    if not (first.has_interval and second.has_interval):
        return Difference(value, math.nan, math.nan, math.nan, num)
    variance = influence_variance(first.influence - second.influence, first.areas[0].strata)
    low, high = percentiles(first.draws - second.draws, level)
    return Difference(value, low, high, two_sided_p(value, variance), num)


def roc_within_models(area: WithinModels, grid: ArrayLike) -> tuple[Values, Values]:
    """True-positive rate and threshold at false-positive rates `grid` [g]: means over the models, weighted by their pairs.

    The area under this curve is that of `WithinModels` but for the steps of the grid. Empty without a comparison.
    """
    rates = np.asarray(grid, dtype=np.float64)
    if not area.num_pairs:
        return np.empty(0), np.empty(0)
    hits, cuts = np.zeros(len(rates)), np.zeros(len(rates))
    for group in area.groups:
        scores = area.scores[np.concatenate([group.positives, group.negatives])]
        levels = np.unique(scores)[::-1]
        ill, well = np.sort(area.scores[group.positives]), np.sort(area.scores[group.negatives])
        true_rate = 1 - np.searchsorted(ill, levels, side="left") / len(ill)
        false_rate = 1 - np.searchsorted(well, levels, side="left") / len(well)
        share = group.num_pairs / area.num_pairs
        hits += share * _upper(rates, np.append(0.0, false_rate), np.append(0.0, true_rate))
        cuts += share * levels[np.maximum(np.searchsorted(false_rate, rates + 1e-12, side="right") - 1, 0)]
    return hits, cuts


def _upper(at: Values, x: Values, y: Values) -> Values:
    """y at x = `at`, linear between points and the highest at a vertical step; x and y never fall."""
    right = np.searchsorted(x, at + 1e-12, side="right")
    left = right - 1
    after = np.minimum(right, len(x) - 1)
    width = x[after] - x[left]
    part = np.where(width > 1e-12, (at - x[left]) / np.where(width > 1e-12, width, 1.0), 0.0)
    return np.asarray(y[left] + np.clip(part, 0.0, 1.0) * (y[after] - y[left]))


def mean_absolute_error(bootstrap: Bootstrap, truth: Values, predicted: Values, share: Values) -> Interval:
    """Mean of |prediction - truth|, in the units of the target; all [n]."""
    return bootstrap.interval(np.stack([share * np.abs(predicted - truth), share], axis=1), ratio)


def root_mean_squared_error(bootstrap: Bootstrap, truth: Values, predicted: Values, share: Values) -> Interval:
    """Root of the mean squared error, in the units of the target; all [n]."""
    columns = np.stack([share * (predicted - truth) ** 2, share], axis=1)
    return bootstrap.interval(columns, lambda sums: np.sqrt(ratio(sums)))


def r_squared(bootstrap: Bootstrap, truth: Values, predicted: Values, share: Values) -> Interval:
    """1 - squared error / squared distance from the mean of the tested people; below 0 where that mean would do better.

    The mean of the training people, against which it should be, is not in a table of predictions.
    """
    centred = truth - np.average(truth, weights=share)
    columns = np.stack([share * (predicted - truth) ** 2, share * centred**2, share * centred, share], axis=1)

    def explained(sums: Values) -> Values:
        spread = sums[..., 1] - sums[..., 2] ** 2 / sums[..., 3]
        return np.where(spread > 1e-12, 1 - sums[..., 0] / np.where(spread > 1e-12, spread, 1.0), np.nan)

    return bootstrap.interval(columns, explained)


def correlation_within_models(
    bootstrap: Bootstrap, truth: Values, predicted: Values, models: Codes, method: Statistic = "pearson"
) -> Interval:
    """Correlation of predictions with the truth, both centred within each fitted model; NaN where predictions do not vary.

    For the reason that areas are compared within models: the mean that a model learned is low where its test people are high.
    Spearman's takes ranks among the rows of the same model, over their number. With one model it is the usual correlation.
    """
    num = len(np.unique(bootstrap.people))
    value = float(
        _correlation(truth, predicted, models, bootstrap.people, np.ones((1, bootstrap.num_people)), method)[0]
    )
    if not math.isfinite(value) or num < 3:
        return Interval(value, math.nan, math.nan, num)
    resampled = _correlation(truth, predicted, models, bootstrap.people, bootstrap.weights, method)
    return Interval(value, *percentiles(resampled), num)


def rows_by_model(models: Codes) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each fitted model in turn."""
    order = np.argsort(models, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(models[order])) + 1)


def _correlation(
    truth: Values, predicted: Values, models: Codes, people: Codes, weights: Values, method: Statistic
) -> Values:
    both, of_truth, of_predicted = (np.zeros(len(weights)) for _ in range(3))
    for rows in rows_by_model(models):
        drawn = weights[:, people[rows]]
        if method == "spearman":
            x, y = _weighted_ranks(truth[rows], drawn), _weighted_ranks(predicted[rows], drawn)
        else:
            x, y = np.broadcast_arrays(
                truth[rows] - truth[rows].mean(), predicted[rows] - predicted[rows].mean(), drawn
            )[:2]
        total = np.maximum(drawn.sum(axis=1), 1e-12)
        mean_x = np.einsum("bi,bi->b", drawn, x)
        mean_y = np.einsum("bi,bi->b", drawn, y)
        both += np.einsum("bi,bi,bi->b", drawn, x, y) - mean_x * mean_y / total
        of_truth += np.einsum("bi,bi,bi->b", drawn, x, x) - mean_x**2 / total
        of_predicted += np.einsum("bi,bi,bi->b", drawn, y, y) - mean_y**2 / total
    product = of_truth * of_predicted
    fine = (of_truth > 1e-12) & (of_predicted > 1e-12)
    return np.where(fine, both / np.sqrt(np.where(fine, product, 1.0)), np.nan)


def _weighted_ranks(values: Values, drawn: Values) -> Values:
    """Mid-ranks over the number drawn, in every resample, [resamples, n]; drawn: times that each row is drawn."""
    levels, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    last = np.searchsorted(place[order], np.arange(len(levels)), side="right") - 1
    up_to = np.cumsum(drawn[:, order], axis=1)[:, last]
    below = np.concatenate([np.zeros((len(drawn), 1)), up_to[:, :-1]], axis=1)
    return np.asarray(((below + up_to) / 2 / np.maximum(up_to[:, -1:], 1e-12))[:, place])


def slope_of_truth(bootstrap: Bootstrap, truth: Values, predicted: Values, models: Codes, share: Values) -> Interval:
    """Slope of the regression of the truth on the prediction: 1 is right, below 1 too bold.

    NaN where no model's predictions vary, for what is left is a difference between folds.
    """
    num = len(np.unique(bootstrap.people))
    if all(np.ptp(predicted[rows]) < 1e-9 for rows in rows_by_model(models)):
        return Interval(math.nan, math.nan, math.nan, num)
    x, y = predicted - predicted.mean(), truth - truth.mean()
    columns = np.stack([np.ones_like(x), x, y, x * y, x**2], axis=1) * share[:, None]

    def slope(sums: Values) -> Values:
        both = sums[..., 3] - sums[..., 1] * sums[..., 2] / sums[..., 0]
        spread = sums[..., 4] - sums[..., 1] ** 2 / sums[..., 0]
        return np.where(spread > 1e-12, both / np.where(spread > 1e-12, spread, 1.0), np.nan)

    return bootstrap.interval(columns, slope)


def mean_error(bootstrap: Bootstrap, truth: Values, predicted: Values, share: Values) -> Interval:
    """Mean of truth - prediction (calibration in the large): 0 is right, above 0 the predictions are too low."""
    return bootstrap.interval(np.stack([share * (truth - predicted), share], axis=1), ratio)
