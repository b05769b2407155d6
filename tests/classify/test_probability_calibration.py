"""Calibration against probabilities that are known."""

from __future__ import annotations

import numpy as np

from gen3d.classify.heads.probability_calibration import LEAST_SLOPE, fit_scaling, two_columns


def test_a_planted_slope_and_offset_come_back() -> None:
    generator = np.random.default_rng(0)
    scores = 3 * generator.standard_normal(40_000)
    codes = (generator.logistic(size=40_000) < 0.7 * scores - 1.5).astype(np.int64)
    found = fit_scaling(two_columns(scores), codes)
    assert abs(found.slope - 0.7) < 0.02
    assert abs(found.biases[1] + 1.5) < 0.05
    predicted = found.probabilities(two_columns(scores))
    np.testing.assert_allclose(predicted.mean(axis=0), np.bincount(codes) / 40_000, atol=1e-4)


def test_several_classes_share_a_temperature_and_have_a_bias_each() -> None:
    generator = np.random.default_rng(1)
    scores = generator.standard_normal((30_000, 3)) * 2
    logits = 0.5 * scores + np.array([0.0, 1.0, -1.0])
    codes = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    found = fit_scaling(scores, codes)
    np.testing.assert_allclose([found.slope, *found.biases], [0.5, 0.0, 1.0, -1.0], atol=0.06)


def test_scores_that_separate_a_small_sample_are_no_certainty() -> None:
    scores = np.concatenate([np.linspace(-3, -1, 10), np.linspace(1, 3, 10)])
    found = fit_scaling(two_columns(scores), (scores > 0).astype(np.int64)).probabilities(two_columns(scores))[:, 1]
    # Platt's targets are 1/12 and 11/12.
    assert 0.002 < found.min() < 1 / 12
    assert 11 / 12 < found.max() < 0.998


def test_scores_that_point_the_wrong_way_keep_their_order_and_say_next_to_nothing() -> None:
    generator = np.random.default_rng(2)
    codes = np.repeat([0, 1], [60, 20])
    scores = generator.standard_normal(80) - codes
    found = fit_scaling(two_columns(scores), codes)
    assert np.isclose(found.slope * scores.std(), LEAST_SLOPE, rtol=1.0)
    predicted = found.probabilities(two_columns(scores))[:, 1]
    assert (np.diff(predicted[np.argsort(scores)]) > 0).all()
    assert abs(predicted.mean() - 0.25) < 0.02
    assert np.ptp(predicted) < 0.1


def test_scores_that_say_nothing_give_the_shares() -> None:
    codes = np.repeat([0, 1, 2], [50, 30, 20])
    for scores in (np.zeros((100, 3)), 1e-9 * np.random.default_rng(0).standard_normal((100, 3))):
        predicted = fit_scaling(scores, codes).probabilities(scores)
        np.testing.assert_allclose(predicted, np.tile([0.5, 0.3, 0.2], (100, 1)), atol=0.02)
