"""What a positive or negative result means: predictive values, likelihood ratios, and the net benefit of acting on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from gen3d.maths.stats import Interval

NUM_DRAWS = 40_000
"""Draws from the posterior; the medians are right to about 0.1 %."""


@dataclass(frozen=True)
class Counts:
    """People by truth and answer. Fractions are allowed: a person with half of the repeats right counts half."""

    true_positives: float
    false_negatives: float
    true_negatives: float
    false_positives: float


def count_people(people: NDArray[np.int64], positive: ArrayLike, answer: ArrayLike) -> Counts:
    """Counts from rows of scans and repeats [n]: within a class each person counts once, by the mean of the own rows."""
    ill, called = np.asarray(positive, dtype=bool), np.asarray(answer, dtype=np.float64)

    def sums(of_class: NDArray[np.bool_]) -> tuple[float, float]:
        numbers = np.unique(people[of_class], return_inverse=True)[1].ravel()
        if not numbers.size:
            return 0.0, 0.0
        called_share = np.bincount(numbers, weights=called[of_class]) / np.bincount(numbers)
        return float(called_share.sum()), float((1 - called_share).sum())

    true_positives, false_negatives = sums(ill)
    false_positives, true_negatives = sums(~ill)
    return Counts(true_positives, false_negatives, true_negatives, false_positives)


def predictive_values(
    counts: Counts, prevalence: float, seed: int = 0, level: float = 0.95
) -> tuple[Interval, Interval]:
    """Positive and negative predictive value at a prevalence: posterior medians with central intervals.

    Sensitivity ~ Beta(1 + TP, 1 + FN) and specificity ~ Beta(1 + TN, 1 + FP), independent, by Monte Carlo; then by Bayes
    PPV = se x prevalence / (se x prevalence + (1 - sp)(1 - prevalence)). NaN where one of the classes is empty.
    """
    ill = counts.true_positives + counts.false_negatives
    well = counts.true_negatives + counts.false_positives
    num = round(ill + well)
    if ill <= 0 or well <= 0:
        nothing = Interval(math.nan, math.nan, math.nan, num)
        return nothing, nothing
    sensitivity, specificity = _posterior(counts, seed)
    hit, false_alarm = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    miss, cleared = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
    tails = [50.0, 50 * (1 - level), 50 * (1 + level)]
    intervals = []
    for values in (hit / (hit + false_alarm), cleared / (cleared + miss)):
        median, low, high = np.percentile(values, tails)
        intervals.append(Interval(float(median), float(low), float(high), num))
    return intervals[0], intervals[1]


def even_prevalence(counts: Counts, seed: int = 0, level: float = 0.95) -> Interval:
    """The prevalence at which half of the positive results are right: (1 - sp) / (1 - sp + se) = 1 / (1 + LR+).

    Where the illness is rarer, a positive result is wrong more often than not. Posterior median and interval as of
    `predictive_values`; NaN where one of the classes is empty.
    """
    ill = counts.true_positives + counts.false_negatives
    well = counts.true_negatives + counts.false_positives
    if ill <= 0 or well <= 0:
        return Interval(math.nan, math.nan, math.nan, round(ill + well))
    sensitivity, specificity = _posterior(counts, seed)
    draws = (1 - specificity) / (1 - specificity + sensitivity)
    median, low, high = np.percentile(draws, [50.0, 50 * (1 - level), 50 * (1 + level)])
    return Interval(float(median), float(low), float(high), round(ill + well))


def _posterior(counts: Counts, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draws of sensitivity and specificity, [NUM_DRAWS] each."""
    generator = np.random.default_rng(seed)
    return (
        generator.beta(1 + counts.true_positives, 1 + counts.false_negatives, NUM_DRAWS),
        generator.beta(1 + counts.true_negatives, 1 + counts.false_positives, NUM_DRAWS),
    )


def likelihood_ratios(counts: Counts, level: float = 0.95) -> tuple[Interval, Interval]:
    """LR+ = se / (1 - sp) and LR- = (1 - se) / sp: what a result multiplies the odds of the illness by.

    Intervals are those of the logarithm (Simel, Samsa and Matchar 1991): log LR+ has the variance
    1/TP - 1/(TP + FN) + 1/FP - 1/(FP + TN). Where a cell is empty, 0.5 is added to all four. NaN where a class is empty.
    """
    cells = np.array(
        [counts.true_positives, counts.false_negatives, counts.false_positives, counts.true_negatives], dtype=np.float64
    )
    num = round(float(cells.sum()))
    if cells[:2].sum() <= 0 or cells[2:].sum() <= 0:
        nothing = Interval(math.nan, math.nan, math.nan, num)
        return nothing, nothing
    hits, misses, alarms, cleared = cells + (0.5 if (cells <= 0).any() else 0.0)
    ill, well, z = hits + misses, alarms + cleared, float(ndtri((1 + level) / 2))
    ratios = []
    for among_ill, among_well in ((hits, alarms), (misses, cleared)):
        log = math.log((among_ill / ill) / (among_well / well))
        half = z * math.sqrt(max(0.0, 1 / among_ill - 1 / ill + 1 / among_well - 1 / well))
        ratios.append(Interval(math.exp(log), math.exp(log - half), math.exp(log + half), num))
    return ratios[0], ratios[1]


def net_benefit(
    probability: ArrayLike, positive: ArrayLike, thresholds: ArrayLike, share: ArrayLike
) -> NDArray[np.float64]:
    """Net benefit of acting from a probability on, TP / n - FP / n x pt / (1 - pt) (Vickers and Elkin 2006), [thresholds].

    At the prevalence of the people given. probability, positive, share (weight of the row) [n]; thresholds within (0, 1).
    """
    chances, weight = np.asarray(probability, dtype=np.float64), np.asarray(share, dtype=np.float64)
    ill, cuts = np.asarray(positive, dtype=bool), np.asarray(thresholds, dtype=np.float64)
    acted = chances[None, :] >= cuts[:, None]
    benefit = (acted * (weight * ill)).sum(axis=1) - (acted * (weight * ~ill)).sum(axis=1) * cuts / (1 - cuts)
    return np.asarray(benefit / weight.sum())


def net_benefit_of_all(positive: ArrayLike, thresholds: ArrayLike, share: ArrayLike) -> NDArray[np.float64]:
    """Net benefit of acting on all people, [thresholds]; that of acting on none is 0."""
    return net_benefit(np.ones(len(np.asarray(share))), positive, thresholds, share)
