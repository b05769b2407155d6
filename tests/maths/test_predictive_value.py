"""Predictive values against Bayes' theorem, and net benefit by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta

from gen3d.maths.predictive_value import Counts, count_people, net_benefit, net_benefit_of_all, predictive_values


@pytest.mark.parametrize(("prevalence", "expected"), [(0.03, 0.094), (0.10, 0.271), (0.25, 0.527), (0.50, 0.770)])
def test_predictive_value_of_a_test_with_three_quarters_sensitivity_and_specificity(
    prevalence: float, expected: float
) -> None:
    positive, negative = predictive_values(Counts(77_000, 23_000, 77_000, 23_000), prevalence)
    assert positive.value == pytest.approx(expected, abs=0.001)
    right = 0.77 * (1 - prevalence) / (0.77 * (1 - prevalence) + 0.23 * prevalence)
    assert negative.value == pytest.approx(right, abs=0.001)
    assert positive.high - positive.low < 0.012


def test_intervals_are_those_of_the_posterior() -> None:
    """With a perfect specificity in very many controls PPV is 1, and NPV follows the sensitivity's Beta exactly."""
    _, negative = predictive_values(Counts(7, 3, 1e9, 0), 0.2)
    quantiles = beta(8, 4).ppf([0.025, 0.5, 0.975])
    exact = 0.8 / (0.8 + (1 - quantiles) * 0.2)
    assert (negative.low, negative.value, negative.high) == pytest.approx(exact, abs=0.003)


def test_fewer_people_make_wider_intervals_and_one_class_none() -> None:
    few, many = (predictive_values(Counts(8 * k, 2 * k, 8 * k, 2 * k), 0.1)[0] for k in (1, 100))
    assert few.high - few.low > 3 * (many.high - many.low)
    positive, negative = predictive_values(Counts(10, 2, 0, 0), 0.1)
    assert math.isnan(positive.value)
    assert math.isnan(negative.low)


def test_people_count_once_whatever_their_repeats_and_scans() -> None:
    people = np.array([0, 0, 0, 0, 1, 2, 2, 3])
    positive = np.array([1, 1, 1, 1, 1, 0, 0, 0], dtype=bool)
    answer = np.array([1, 1, 1, 0, 0, 1, 0, 0])
    counts = count_people(people, positive, answer)
    assert counts == Counts(0.75, 1.25, 1.5, 0.5)
    again = count_people(np.tile(people, 7), np.tile(positive, 7), np.tile(answer, 7))
    assert again == counts


def test_somebody_who_was_both_counts_in_both_classes() -> None:
    counts = count_people(np.array([0, 0]), np.array([True, False]), np.array([1, 1]))
    assert counts == Counts(1.0, 0.0, 0.0, 1.0)


def test_net_benefit_by_hand() -> None:
    chance = np.array([0.9, 0.6, 0.4, 0.1])
    ill = np.array([True, False, True, False])
    found = net_benefit(chance, ill, [0.3, 0.5], np.ones(4))
    assert found == pytest.approx([2 / 4 - 1 / 4 * 0.3 / 0.7, 1 / 4 - 1 / 4 * 1.0])
    assert net_benefit_of_all(ill, [0.2, 0.5], np.ones(4)) == pytest.approx([0.5 - 0.5 * 0.25, 0.0])
    doubled = net_benefit(np.tile(chance, 2), np.tile(ill, 2), [0.3, 0.5], np.full(8, 0.5))
    assert doubled == pytest.approx(found)
