"""Predictive values of a positive or negative result at a prevalence, and the net benefit of acting on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    generator = np.random.default_rng(seed)
    sensitivity = generator.beta(1 + counts.true_positives, 1 + counts.false_negatives, NUM_DRAWS)
    specificity = generator.beta(1 + counts.true_negatives, 1 + counts.false_positives, NUM_DRAWS)
    hit, false_alarm = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    miss, cleared = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
    tails = [50.0, 50 * (1 - level), 50 * (1 + level)]
    intervals = []
    for values in (hit / (hit + false_alarm), cleared / (cleared + miss)):
        median, low, high = np.percentile(values, tails)
        intervals.append(Interval(float(median), float(low), float(high), num))
    return intervals[0], intervals[1]


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
