"""Measures against scikit-learn, and their intervals against known coverage, closed forms and repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    r2_score,
    recall_score,
    roc_auc_score,
)
from sklearn.metrics import (
    mean_absolute_error as sklearn_mae,
)
from sklearn.metrics import (
    root_mean_squared_error as sklearn_rmse,
)

from gen3d.classify.scores.measures import (
    Areas,
    auc_difference,
    average_precision,
    balanced_accuracy,
    correlation_within_models,
    draw_areas,
    hit_rate,
    macro_f1,
    majority_share,
    mean_absolute_error,
    mean_error,
    quadratic_kappa,
    r_squared,
    recall,
    roc_within_models,
    root_mean_squared_error,
    share_of_rows,
    slope_of_truth,
)
from gen3d.maths.cross_validated import Bootstrap, WithinModels, resampled_weights
from gen3d.maths.stats import bootstrap_auroc, delong_interval, wilson_interval

NUM = 150


def everybody(num: int = NUM, num_resamples: int = 400) -> Bootstrap:
    return Bootstrap(np.arange(num), resampled_weights(np.zeros(num, dtype=np.int64), num_resamples, 0))


def one_model(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> WithinModels:
    num = len(scores)
    return WithinModels(scores, positive, np.zeros(num, dtype=np.int64), np.arange(num), num)


def with_draws(scores: NDArray[np.float64], positive: NDArray[np.bool_], num_resamples: int = 2000) -> Areas:
    return draw_areas([one_model(scores, positive)], resampled_weights(positive.astype(np.int64), num_resamples, 0))


def test_classes_equal_sklearn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, NUM)
    answer = np.where(rng.uniform(size=NUM) < 0.6, truth, rng.integers(0, 3, NUM))
    bootstrap, share = everybody(), np.ones(NUM)
    found = balanced_accuracy(bootstrap, truth, answer, 3, share)
    assert found.value == pytest.approx(balanced_accuracy_score(truth, answer))
    kappa = quadratic_kappa(bootstrap, truth, answer, share)
    assert kappa.value == pytest.approx(cohen_kappa_score(truth, answer, weights="quadratic"))
    hit = hit_rate(bootstrap, answer == truth, truth == 2, share)
    assert hit.value == pytest.approx(recall_score(truth, answer, labels=[2], average="macro"))
    assert hit.num == int((truth == 2).sum())
    for interval in (found, kappa, hit):
        assert interval.low < interval.value < interval.high


def test_numbers_equal_sklearn_and_scipy() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(40, 90, NUM)
    predicted = np.round(0.7 * truth + 20 + 5 * rng.standard_normal(NUM))  # with ties
    bootstrap, share, models = everybody(), np.ones(NUM), np.zeros(NUM, dtype=np.int64)
    expected = {
        mean_absolute_error(bootstrap, truth, predicted, share): sklearn_mae(truth, predicted),
        root_mean_squared_error(bootstrap, truth, predicted, share): sklearn_rmse(truth, predicted),
        r_squared(bootstrap, truth, predicted, share): r2_score(truth, predicted),
        correlation_within_models(bootstrap, truth, predicted, models): scipy_stats.pearsonr(truth, predicted)[0],
        correlation_within_models(bootstrap, truth, predicted, models, "spearman"): scipy_stats.spearmanr(
            truth, predicted
        )[0],
        slope_of_truth(bootstrap, truth, predicted, models, share): scipy_stats.linregress(predicted, truth).slope,
        mean_error(bootstrap, truth, predicted, share): float(np.mean(truth - predicted)),
    }
    for found, value in expected.items():
        assert found.value == pytest.approx(value, abs=1e-9)
        assert found.low < found.value < found.high


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_a_resampled_correlation_is_that_of_the_people_drawn(method: str) -> None:
    rng = np.random.default_rng(2)
    x, y = np.round(rng.standard_normal(30), 1), rng.standard_normal(30)
    drawn = rng.multinomial(30, np.full(30, 1 / 30), size=40).astype(np.float64)
    function = scipy_stats.pearsonr if method == "pearson" else scipy_stats.spearmanr
    by_hand = [function(np.repeat(x, row.astype(int)), np.repeat(y, row.astype(int)))[0] for row in drawn]
    found = correlation_within_models(Bootstrap(np.arange(30), drawn), x, y, np.zeros(30, dtype=np.int64), method)  # type: ignore[arg-type]
    assert (found.low, found.high) == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=1e-9)


def test_correlation_of_a_null_is_centred_on_zero_within_models_only() -> None:
    """The mean of the training people is low where the tested are high."""
    pooled, within = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        truth, models = rng.standard_normal(40), rng.permutation(np.arange(40) % 5)
        means = np.array([truth[models != fold].mean() for fold in range(5)])
        predicted = means[models] + 0.02 * rng.standard_normal(40)
        pooled.append(scipy_stats.pearsonr(truth, predicted)[0])
        within.append(correlation_within_models(everybody(40, 2), truth, predicted, models).value)
    assert np.mean(pooled) < -0.2
    assert abs(np.mean(within)) < 3 * np.std(within) / math.sqrt(150)


def test_repeats_count_by_their_mean() -> None:
    rng = np.random.default_rng(3)
    truth, answers = rng.integers(0, 2, NUM), rng.integers(0, 2, (4, NUM))
    weights = resampled_weights(truth, 300, 0)
    people, often = np.tile(np.arange(NUM), 4), np.tile(truth, 4)
    share = share_of_rows(people)
    assert (share == 0.25).all()
    found = balanced_accuracy(Bootstrap(people, weights), often, answers.ravel(), 2, share)
    assert found.value == pytest.approx(np.mean([balanced_accuracy_score(truth, answer) for answer in answers]))
    same = balanced_accuracy(Bootstrap(people, weights), often, np.tile(answers[0], 4), 2, share)
    once = balanced_accuracy(Bootstrap(np.arange(NUM), weights), truth, answers[0], 2, np.ones(NUM))
    assert (same.low, same.high, same.num) == pytest.approx((once.low, once.high, NUM))


def test_scans_of_a_person_move_together() -> None:
    """Four copies of every scan under the same person tell no more than one."""
    rng = np.random.default_rng(4)
    right = rng.uniform(size=60) < 0.7
    weights = resampled_weights(np.zeros(60, dtype=np.int64), 500, 0)
    once = hit_rate(Bootstrap(np.arange(60), weights), right, np.ones(60), np.ones(60))
    copies = hit_rate(Bootstrap(np.repeat(np.arange(60), 4), weights), np.repeat(right, 4), np.ones(240), np.ones(240))
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))


def test_nothing_wrong_has_an_interval() -> None:
    truth = np.arange(40) % 2
    found = hit_rate(everybody(40), np.ones(40), truth == 1, np.ones(40))
    expected = wilson_interval(20, 20)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, expected.low, expected.high))
    balanced = balanced_accuracy(everybody(40), truth, truth, 2, np.ones(40))
    assert (balanced.value, balanced.high) == (1.0, 1.0)
    assert balanced.low == pytest.approx(expected.low)
    assert math.isnan(balanced_accuracy(everybody(40), truth, truth, 3, np.ones(40)).value)


def test_average_precision_equals_sklearn() -> None:
    rng = np.random.default_rng(5)
    positive = rng.uniform(size=NUM) < 0.3
    scores = np.round(rng.standard_normal(NUM) + positive, 1)
    area = one_model(scores, positive)
    found = average_precision(area, resampled_weights(positive.astype(np.int64), 500, 0))
    assert found.value == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
    assert found.low < found.value < found.high
    drawn = rng.multinomial(NUM, np.full(NUM, 1 / NUM), size=3)
    for weight in drawn:
        rows = np.repeat(np.arange(NUM), weight)
        both = average_precision(area, np.tile(weight, (2, 1)).astype(np.float64))
        assert both.low == pytest.approx(average_precision_score(positive[rows], scores[rows]), abs=1e-12)


def test_one_model_agrees_with_the_intervals_of_stats() -> None:
    rng = np.random.default_rng(6)
    positive = rng.uniform(size=NUM) < 0.4
    scores = rng.standard_normal(NUM) + positive
    found = with_draws(scores, positive, 4000).interval()
    bootstrap = bootstrap_auroc(scores[positive], scores[~positive], 4000, 1)
    delong = delong_interval(scores[positive], scores[~positive])
    assert (found.value, found.num) == (pytest.approx(bootstrap.value), NUM)
    assert (found.low, found.high) == pytest.approx((bootstrap.low, bootstrap.high), abs=0.01)
    assert (found.low, found.high) == pytest.approx((delong.low, delong.high), abs=0.015)


def test_separated_classes_and_equal_scores_have_the_interval_of_newcombe() -> None:
    positive = np.arange(30) < 12
    apart = with_draws(positive.astype(np.float64), positive).interval()
    expected = delong_interval(np.ones(12), np.zeros(18))
    assert (apart.value, apart.low, apart.high) == pytest.approx((1.0, expected.low, 1.0))
    assert apart.low < 0.95
    same = with_draws(np.zeros(30), positive).interval()
    assert same.low < 0.4 < 0.5 == same.value < 0.6 < same.high


def test_one_person_in_a_class_has_no_interval() -> None:
    found = with_draws(np.arange(10.0), np.arange(10) == 4, 100).interval()
    assert found.value == pytest.approx(4 / 9)
    assert math.isnan(found.low)


def test_macro_area_equals_sklearn() -> None:
    rng = np.random.default_rng(7)
    codes = np.arange(NUM) % 3
    chances = rng.dirichlet(np.ones(3), NUM) + 0.3 * np.eye(3)[codes]
    chances /= chances.sum(axis=1, keepdims=True)
    areas = draw_areas(
        [one_model(chances[:, code], codes == code) for code in range(3)], resampled_weights(codes, 2000, 0)
    )
    assert areas.value == pytest.approx(roc_auc_score(codes, chances, multi_class="ovr", average="macro"))
    found = areas.interval()
    assert found.low < found.value < found.high
    assert np.std(areas.draws) == pytest.approx(math.sqrt(areas.variance()), rel=0.15)


def test_curve_has_the_area_of_the_pairs() -> None:
    rng = np.random.default_rng(8)
    positive = rng.uniform(size=200) < 0.5
    models = rng.permutation(np.arange(200) % 4)
    scores = np.round(rng.standard_normal(200) + positive, 1) + 10 * models
    area = WithinModels(scores, positive, models, np.arange(200), 200)
    grid = np.linspace(0, 1, 2001)
    hits, cuts = roc_within_models(area, grid)
    assert np.trapezoid(hits, grid) == pytest.approx(area.value, abs=0.002)
    assert np.diff(hits).min() >= -1e-12
    assert np.diff(cuts).max() <= 1e-12
    assert hits[-1] == pytest.approx(1.0)


def delong_test(first: NDArray[np.float64], second: NDArray[np.float64], ill: NDArray[np.bool_]) -> float:
    """DeLong et al. 1988, written out: placements of both scores, their covariances, z."""
    placements = []
    for scores in (first, second):
        wins = (scores[ill][:, None] > scores[~ill][None, :]) + 0.5 * (scores[ill][:, None] == scores[~ill][None, :])
        placements.append((wins.mean(axis=1), wins.mean(axis=0)))
    covariance = np.cov([placements[0][0], placements[1][0]]) / ill.sum()
    covariance = covariance + np.cov([placements[0][1], placements[1][1]]) / (~ill).sum()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    z = (placements[0][0].mean() - placements[1][0].mean()) / math.sqrt(variance)
    return float(2 * scipy_stats.norm.sf(abs(z)))


def test_paired_difference_is_delongs() -> None:
    rng = np.random.default_rng(9)
    positive = rng.uniform(size=NUM) < 0.4
    shared = rng.standard_normal(NUM)
    first, second = (shared + 0.7 * rng.standard_normal(NUM) + shift * positive for shift in (1.2, 0.8))
    found = auc_difference(with_draws(first, positive), with_draws(second, positive))
    assert found.p == pytest.approx(delong_test(first, second, positive), rel=1e-9)
    assert found.low < found.value < found.high
    assert found.num == NUM
    one = with_draws(first, positive).interval()
    assert found.high - found.low < 1.4 * (one.high - one.low)  # paired, so narrower than of two groups
    itself = auc_difference(with_draws(first, positive), with_draws(first, positive))
    assert (itself.value, itself.low, itself.high, itself.p) == (0.0, 0.0, 0.0, 1.0)


def test_p_of_equally_good_models_is_uniform() -> None:
    p = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        positive, models = np.arange(100) % 2 == 0, rng.permutation(np.arange(100) % 5)
        pair = []
        for _ in range(2):
            scores = rng.standard_normal(100) + positive + 3 * rng.standard_normal(5)[models]
            area = WithinModels(scores, positive, models, np.arange(100), 100)
            pair.append(Areas((area,), np.zeros(2)))
        p.append(auc_difference(*pair).p)
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


def test_constant_predictions_have_no_correlation_and_no_slope() -> None:
    truth, models = np.arange(20.0), np.arange(20) % 2
    constant = np.array([5.0, 7.0])[models]
    assert math.isnan(correlation_within_models(everybody(20), truth, constant, models).value)
    assert math.isnan(slope_of_truth(everybody(20), truth, constant, models, np.ones(20)).value)
    assert math.isnan(quadratic_kappa(everybody(20), np.ones(20, dtype=int), np.ones(20, dtype=int), np.ones(20)).value)


def test_interval_of_the_error_covers_the_truth() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        person = 2 * rng.standard_normal(50)
        people = np.repeat(np.arange(50), 3)
        error = person[people] + rng.standard_normal(150)
        found = mean_absolute_error(
            Bootstrap(people, resampled_weights(np.zeros(50, dtype=np.int64), 300, seed)),
            np.zeros(150),
            error,
            np.ones(150),
        )
        covered += int(found.low <= math.sqrt(5) * math.sqrt(2 / math.pi) <= found.high)
    assert covered / 200 > 0.90


def test_f1_recall_and_the_majority_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(4)
    truth = generator.choice(4, NUM, p=[0.6, 0.25, 0.12, 0.03])
    predicted = np.where(generator.random(NUM) < 0.6, truth, generator.integers(4, size=NUM))
    share, people = np.ones(NUM), np.arange(NUM)
    found = macro_f1(everybody(), truth, predicted, 4, share)
    assert found.value == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found.low < found.value < found.high
    rates = recall_score(truth, predicted, average=None)
    for code in range(4):
        rate, num = recall(people, truth, predicted, code, share), int((truth == code).sum())
        expected = wilson_interval(round(rates[code] * num), num)
        assert (rate.value, rate.low, rate.high, rate.num) == (
            pytest.approx(rates[code]),
            pytest.approx(expected.low),
            pytest.approx(expected.high),
            num,
        )
    assert majority_share(people, truth, share).value == pytest.approx(np.bincount(truth).max() / NUM)
    assert math.isnan(macro_f1(everybody(), truth, predicted, 5, share).value)


def test_recall_counts_people_and_not_scans_or_repeats() -> None:
    truth, predicted = np.ones(40, dtype=np.int64), np.tile([1, 1, 0, 1], 10)
    people = np.repeat(np.arange(4), 10)  # ten rows of each of four people
    rate = recall(people, truth, predicted, 1, np.ones(40))
    assert (rate.value, rate.num) == (0.75, 4)
    assert rate.high - rate.low > 0.6
