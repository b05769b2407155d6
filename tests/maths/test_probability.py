"""Calibration against scikit-learn, an independent logistic regression, and probabilities known to be right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from gen3d.maths.cross_validated import Bootstrap, resampled_weights
from gen3d.maths.probability import (
    brier,
    calibration_intercept,
    calibration_slope,
    equal_count_bins,
    expected_calibration_error,
    reliability,
)


def people_once(num: int, num_resamples: int = 300) -> Bootstrap:
    return Bootstrap(np.arange(num), resampled_weights(np.zeros(num, dtype=np.int64), num_resamples, 0))


def predictions(num: int, seed: int, stretch: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities whose logits are `stretch` times the right ones, and what came true."""
    rng = np.random.default_rng(seed)
    eta = rng.standard_normal(num)
    return expit(stretch * eta), (rng.uniform(size=num) < expit(eta)).astype(np.float64)


def test_brier_equals_sklearn() -> None:
    p, y = predictions(400, 0)
    found = brier(people_once(400), p, y, np.ones(400))
    assert found.value == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    assert found.low < found.value < found.high
    assert found.num == 400
    chances = np.random.default_rng(0).dirichlet(np.ones(3), 400)
    codes = np.arange(400) % 3
    several = brier(people_once(400), chances, np.eye(3)[codes], np.ones(400))
    assert several.value == pytest.approx(brier_score_loss(codes, chances, scale_by_half=False, labels=[0, 1, 2]))


def test_bins_are_of_equal_count_and_ties_stay_together() -> None:
    assert np.bincount(equal_count_bins(np.random.default_rng(0).uniform(size=1000), 10)).tolist() == [100] * 10
    tied = equal_count_bins(np.array([0.2] * 8 + [0.9, 0.95]), 5)
    assert len(set(tied[:8].tolist())) == 1
    assert equal_count_bins(np.full(7, 0.3), 4).tolist() == [0] * 7


def test_calibration_error_by_hand() -> None:
    p = np.array([0.1, 0.1, 0.9, 0.9])
    y = np.array([0.0, 1.0, 1.0, 1.0])
    found = expected_calibration_error(people_once(4), p, y, np.ones(4), 2)
    assert found.value == pytest.approx((0.4 * 2 + 0.1 * 2) / 4)


def test_calibration_error_of_right_probabilities_goes_to_zero_and_its_interval_reaches_down() -> None:
    p, y = predictions(20_000, 1)
    assert expected_calibration_error(people_once(20_000, 50), p, y, np.ones(20_000), 10).value < 0.015
    lows, values = [], []
    for seed in range(40):
        p, y = predictions(200, seed)
        found = expected_calibration_error(people_once(200), p, y, np.ones(200), 10)
        assert found.low <= found.value <= found.high
        lows.append(found.low)
        values.append(found.value)
    assert np.mean(values) > 0.06  # of 20 people per bin, though nothing is wrong
    assert np.mean(lows) < 0.02
    bold, y = predictions(200, 5, 4.0)
    assert expected_calibration_error(people_once(200), bold, y, np.ones(200), 10).low > 0.02


def test_slope_and_intercept_equal_an_unpenalised_regression() -> None:
    p, y = predictions(500, 2, 2.0)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(p)[:, None], y)
    slope = calibration_slope(np.arange(500), p, y, np.ones(500))
    assert slope.value == pytest.approx(fitted.coef_[0, 0], abs=1e-5)
    intercept = calibration_intercept(np.arange(500), p, y, np.ones(500))
    assert expit(logit(p) + intercept.value).mean() == pytest.approx(y.mean(), abs=1e-9)  # right on the whole


@pytest.mark.parametrize("stretch", [0.5, 1.0, 3.0])
def test_slope_covers_what_was_planted(stretch: float) -> None:
    covered, intercepts = 0, 0
    for seed in range(120):
        p, y = predictions(250, seed, stretch)
        slope = calibration_slope(np.arange(250), p, y, np.ones(250))
        covered += int(slope.low <= 1 / stretch <= slope.high)
        intercept = calibration_intercept(np.arange(250), p, y, np.ones(250))
        intercepts += int(intercept.low <= 0 <= intercept.high)
    assert covered / 120 > 0.89
    assert intercepts / 120 > 0.89


def test_repeats_and_scans_of_a_person_do_not_narrow_the_interval() -> None:
    p, y = predictions(200, 3)
    once = calibration_slope(np.arange(200), p, y, np.ones(200))
    often = calibration_slope(np.tile(np.arange(200), 10), np.tile(p, 10), np.tile(y, 10), np.full(2000, 0.1))
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high), abs=1e-6)
    assert often.num == 200


@pytest.mark.parametrize(
    ("p", "y"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0]),
        ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]),
        ([0.4, 0.4, 0.4, 0.4], [0, 1, 0, 1]),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 1, 1]),
    ],
)
def test_no_slope_where_it_would_be_infinite_or_undefined(p: list[float], y: list[int]) -> None:
    found = calibration_slope(np.arange(4), p, y, np.ones(4))
    assert math.isnan(found.value)
    assert math.isnan(found.low)


def test_probabilities_of_zero_and_one_are_allowed() -> None:
    p = np.array([0.0, 1.0, 0.0, 1.0, 0.3, 0.6] * 10)
    y = np.array([0, 1, 1, 0, 0, 1] * 10)
    assert math.isfinite(calibration_slope(np.arange(60), p, y, np.ones(60)).value)
    assert math.isfinite(calibration_intercept(np.arange(60), p, y, np.ones(60)).value)


def test_reliability_bins() -> None:
    p, y = predictions(300, 4)
    y[np.argsort(p)[:30]] = 0
    bins = reliability(people_once(300), p, y, np.ones(300), 10)
    assert [found.observed.num for found in bins] == [30] * 10
    assert bins[0].observed.value == 0
    assert bins[0].observed.low == 0
    assert 0.05 < bins[0].observed.high < 0.2  # Wilson's, where a bootstrap says 0
    assert np.diff([found.predicted for found in bins]).min() > 0
    assert sum(found.observed.value for found in bins) / 10 == pytest.approx(y.mean())
