"""Ranking metrics against scikit-learn; intervals against published values and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from gen3d.maths.stats import (
    auprc,
    auroc,
    bootstrap_auroc,
    bootstrap_interval,
    correlation,
    delong_interval,
    dice,
    oracle_dice,
    wilson_interval,
)


@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranking_metrics_equal_sklearn(decimals: int, dtype: type) -> None:
    rng = np.random.default_rng(decimals)
    labels = rng.uniform(size=5000) < 0.03
    scores = np.round(rng.standard_normal(5000) + labels, decimals).astype(dtype)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auprc(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    coarse = np.round(scores, 1)
    best = max(f1_score(labels, coarse >= threshold) for threshold in np.unique(coarse))
    assert oracle_dice(coarse, labels) == pytest.approx(best, abs=1e-12)


def test_random_scores_give_half_and_the_prevalence() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.uniform(size=200_000) < 0.1, rng.uniform(size=200_000).astype(np.float32)
    assert auroc(scores, labels) == pytest.approx(0.5, abs=0.01)
    assert auprc(scores, labels) == pytest.approx(0.1, abs=0.005)


def test_one_class_has_no_ranking() -> None:
    assert math.isnan(auroc([1.0, 2.0], [False, False]))
    assert math.isnan(auprc([1.0, 2.0], [False, False]))
    assert math.isnan(oracle_dice([1.0, 2.0], [False, False]))


def test_dice() -> None:
    assert dice([1, 1, 0, 0], [1, 0, 1, 0]) == pytest.approx(0.5)
    assert math.isnan(dice([0, 0], [0, 0]))


def test_bootstrap_of_the_mean_is_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(1).standard_normal(400)
    interval = bootstrap_interval(np.append(values, np.nan), seed=3)
    half = 1.96 * values.std() / 20
    assert interval.num == 400
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.015)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.015)
    assert interval == bootstrap_interval(values, seed=3)


def test_bootstrap_of_a_statistic_over_rows() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(300)
    rows = np.column_stack([x, x + rng.standard_normal(300)])
    interval = bootstrap_interval(rows, lambda sample: float(np.corrcoef(sample.T)[0, 1]), num_resamples=400)
    assert interval.low < math.sqrt(0.5) < interval.high
    assert interval.high - interval.low < 0.2


def test_bootstrap_of_nothing_and_of_one() -> None:
    assert math.isnan(bootstrap_interval([]).value)
    one = bootstrap_interval([2.0])
    assert one.value == 2.0
    assert math.isnan(one.low)
    assert one.num == 1


def test_auc_intervals_cover_the_truth() -> None:
    """Normal scores one SD apart: AUC = Phi(1 / sqrt 2) = 0.760; 95 % intervals cover it about 95 times in 100."""
    rng = np.random.default_rng(3)
    truth = float(scipy_stats.norm.cdf(1 / math.sqrt(2)))
    covered = np.zeros(2)
    for trial in range(150):
        ill, well = rng.standard_normal(30) + 1, rng.standard_normal(40)
        intervals = delong_interval(ill, well), bootstrap_auroc(ill, well, num_resamples=300, seed=trial)
        assert intervals[0].value == pytest.approx(intervals[1].value)
        covered += [interval.low <= truth <= interval.high for interval in intervals]
    assert ((covered / 150 > 0.88) & (covered / 150 <= 0.99)).all()


def test_complete_separation_still_has_an_uncertain_side() -> None:
    """The lower limit solves Newcombe's equation with Hanley and McNeil's variance in its Q1, Q2 form."""
    interval = delong_interval([3.0, 4, 5, 6], [0.0, 1, 2, 2.5, 2.7])
    assert interval.value == 1.0
    assert interval.high == 1.0
    assert 0.4 < interval.low < 0.8
    theta, mean_num = interval.low, 4.5
    q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
    variance = (theta * (1 - theta) + (mean_num - 1) * (q1 + q2 - 2 * theta**2)) / 20
    assert 1 - theta == pytest.approx(1.959964 * math.sqrt(variance), abs=1e-6)
    worst = delong_interval([0.0, 1, 2, 2.5, 2.7], [3.0, 4, 5, 6])
    assert worst.low == 0.0
    assert worst.high == pytest.approx(1 - interval.low, abs=1e-6)
    assert math.isnan(bootstrap_auroc([], [1.0]).value)
    assert math.isnan(delong_interval([1.0], [0.0, 2.0]).low)


def test_delong_variance_against_the_published_formula() -> None:
    """Placement values by hand: patients 1, 3, 4; controls 0, 2, 3."""
    interval = delong_interval([1.0, 3, 4], [0.0, 2, 3])
    by_patient, by_control = np.array([1 / 3, 2.5 / 3, 1.0]), np.array([1.0, 2 / 3, 0.5])
    assert interval.value == pytest.approx(by_patient.mean())
    sd = math.sqrt(by_patient.var(ddof=1) / 3 + by_control.var(ddof=1) / 3)
    assert interval.low == pytest.approx(by_patient.mean() - 1.959964 * sd, abs=1e-6)
    assert interval.high == 1.0


def test_wilson_against_a_published_example() -> None:
    """108 correct of 131: 75.0 to 88.0 %."""
    interval = wilson_interval(108, 131)
    assert (round(interval.low, 3), round(interval.high, 3)) == (0.750, 0.880)
    assert wilson_interval(0, 14).high == pytest.approx(0.2153, abs=1e-4)
    assert math.isnan(wilson_interval(0, 0).value)


def test_correlation_with_interval() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal(50)
    y = np.append(x[:-1] + rng.standard_normal(49), np.nan)
    interval = correlation(x, y)
    reference = scipy_stats.pearsonr(x[:-1], y[:-1])
    low, high = reference.confidence_interval()
    assert (interval.value, interval.low, interval.high) == pytest.approx((reference.statistic, low, high))
    rank = correlation(x, y, method="spearman")
    assert rank.value == pytest.approx(scipy_stats.spearmanr(x[:-1], y[:-1]).statistic)
    assert rank.low < rank.value < rank.high
    assert math.isnan(correlation([1, 2, 3], [5, 5, 5]).value)
    assert correlation([1, 2, 3, 4], [2, 4, 6, 8]).value == 1.0
