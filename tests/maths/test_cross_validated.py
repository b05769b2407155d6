"""Areas within fitted models: closed forms, DeLong, coverage, and a null that stays null."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from gen3d.maths.cross_validated import (
    Bootstrap,
    WithinModels,
    auc_within_models,
    codes_of,
    corrected_resampled_t,
    permutation_p,
    permute_labels,
    resampled_weights,
    strata_of,
    two_sided_p,
)
from gen3d.maths.stats import auroc, delong_interval


def one_model(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> WithinModels:
    num = len(scores)
    return WithinModels(scores, positive, np.zeros(num, dtype=np.int64), np.arange(num), num)


def folds_of(num: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.permutation(np.arange(num) % count).astype(np.int64)


def test_one_model_is_the_usual_area_and_delongs_variance() -> None:
    rng = np.random.default_rng(0)
    positive = rng.uniform(size=90) < 0.4
    scores = np.round(rng.standard_normal(90) + positive, 1)
    area = one_model(scores, positive)
    assert area.value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    expected = delong_interval(scores[positive], scores[~positive])
    half = scipy_stats.norm.ppf(0.975) * math.sqrt(area.variance)
    assert (area.value - half, area.value + half) == pytest.approx((expected.low, expected.high), abs=1e-12)
    resampled = area.resampled(resampled_weights(positive.astype(np.int64), 4000, 0))
    assert resampled.std() == pytest.approx(math.sqrt(area.variance), rel=0.05)


def test_pairs_of_different_models_are_not_compared() -> None:
    scores = np.array([0.9, 0.1, 0.2, 0.6, 0.4, 0.5])
    positive = np.array([True, False, True, False, False, True])
    models = np.array([0, 0, 1, 1, 1, 2])  # the last model tested no negative
    area = WithinModels(scores, positive, models, np.arange(6), 6)
    assert area.num_pairs == 3
    assert area.value == pytest.approx(1 / 3)
    assert auc_within_models(scores, positive, models) == pytest.approx(1 / 3)
    assert area.num_by_class == (2, 3)


def test_a_resample_is_the_area_of_the_people_drawn() -> None:
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(20), 3)
    positive, scores = np.repeat(np.arange(20) % 2 == 0, 3), rng.standard_normal(60)
    models = np.repeat(folds_of(20, 3, rng), 3)
    weights = resampled_weights(strata_of(people, positive, 20), 5, 0)
    area = WithinModels(scores, positive, models, people, 20)
    for weight, value in zip(weights, area.resampled(weights), strict=True):
        drawn = np.concatenate([np.tile(np.flatnonzero(people == person), int(weight[person])) for person in range(20)])
        assert value == pytest.approx(auc_within_models(scores[drawn], positive[drawn], models[drawn]), abs=1e-12)


def test_influence_is_the_derivative_by_the_weight_of_a_person() -> None:
    rng = np.random.default_rng(2)
    people, positive = np.repeat(np.arange(15), 2), np.repeat(rng.uniform(size=15) < 0.5, 2)
    positive[0] = not positive[0]  # a person with scans of both classes
    area = WithinModels(rng.standard_normal(30), positive, np.repeat(folds_of(15, 2, rng), 2), people, 15)
    step = 1e-5
    shifted = area.resampled(1 + step * np.eye(15)) - area.resampled(1 - step * np.eye(15))
    assert area.influence == pytest.approx(shifted / (2 * step), abs=1e-7)


def test_repeats_do_not_make_more_people() -> None:
    rng = np.random.default_rng(3)
    positive = np.arange(80) % 2 == 0
    scores = rng.standard_normal(80) + positive
    models = folds_of(80, 4, rng)
    once = WithinModels(scores, positive, models, np.arange(80), 80)
    tiled = (np.tile(array, 5) for array in (scores, positive))
    often = WithinModels(*tiled, np.concatenate([models + 4 * r for r in range(5)]), np.tile(np.arange(80), 5), 80)
    assert often.value == pytest.approx(once.value, abs=1e-12)
    assert often.variance == pytest.approx(once.variance, rel=1e-9)
    weights = resampled_weights(positive.astype(np.int64), 50, 0)
    assert often.resampled(weights) == pytest.approx(once.resampled(weights), abs=1e-12)


def test_pooled_scores_of_a_null_lie_below_chance_and_those_within_models_do_not() -> None:
    """A model that learned nothing gives every test scan the share of ill training people, plus noise."""
    pooled, within = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        positive = rng.uniform(size=60) < 0.4
        models = folds_of(60, 5, rng)
        share = np.array([positive[models != fold].mean() for fold in range(5)])
        scores = share[models] + 0.02 * rng.standard_normal(60)
        pooled.append(auroc(scores, positive))
        within.append(auc_within_models(scores, positive, models))
    error = float(np.std(within)) / math.sqrt(150)
    assert abs(np.mean(within) - 0.5) < 3 * error
    assert np.mean(pooled) < 0.45


def test_intervals_cover_the_truth() -> None:
    """Scores of five models that are shifted against each other, one to three scans per person."""
    truth = float(scipy_stats.norm.cdf(1 / math.sqrt(2 * 1.3)))
    covered, by_influence, num = 0, 0, 250
    for seed in range(num):
        rng = np.random.default_rng(seed)
        ill, scans = np.arange(80) % 2 == 0, rng.integers(1, 4, 80)
        people, models = np.repeat(np.arange(80), scans), np.repeat(folds_of(80, 5, rng), scans)
        scores = np.repeat(rng.standard_normal(80) + ill, scans) + math.sqrt(0.3) * rng.standard_normal(len(people))
        area = WithinModels(scores + 5 * rng.standard_normal(5)[models], np.repeat(ill, scans), models, people, 80)
        low, high = np.percentile(area.resampled(resampled_weights(ill.astype(np.int64), 300, seed)), [2.5, 97.5])
        covered += int(low <= truth <= high)
        by_influence += int(abs(area.value - truth) <= 1.96 * math.sqrt(area.variance))
    assert covered / num > 0.91
    assert by_influence / num > 0.90
    assert max(covered, by_influence) / num < 0.99


def test_no_pairs_give_no_area() -> None:
    area = WithinModels(np.arange(4.0), np.array([True, True, False, False]), np.array([0, 0, 1, 1]), np.arange(4), 4)
    assert math.isnan(area.value)
    assert math.isnan(area.variance)
    assert not area.influence.any()
    assert np.isnan(area.resampled(np.ones((3, 4)))).all()
    assert math.isnan(auc_within_models(area.scores, area.positive, area.models))


def test_strata_are_the_classes_of_people() -> None:
    people = np.array([0, 0, 1, 2, 2, 3, 4, 5])
    labels = np.array(["a", "a", "a", "a", "b", "b", "b", "a"])
    strata = strata_of(people, labels, 6)
    assert strata[0] == strata[1] == strata[5]
    assert strata[3] == strata[4] != strata[0]
    assert strata[2] == -1  # alone with both classes
    weights = resampled_weights(strata, 200, 0)
    assert (weights[:, [0, 1, 5]].sum(axis=1) == 3).all()
    assert (weights[:, 2] == 1).all()


def test_bootstrap_sums_rows_of_people() -> None:
    bootstrap = Bootstrap(np.array([0, 1, 1, 2]), np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]]))
    value, resampled = bootstrap.resample(np.array([1.0, 2.0, 3.0, 4.0]), lambda sums: sums[..., 0])
    assert value == 10
    assert resampled.tolist() == [14.0, 10.0]


def test_corrected_resampled_t_by_hand() -> None:
    """Nadeau and Bengio 2003, equation 9: ten folds, one tenth tested."""
    differences = np.array([0.02, 0.05, -0.01, 0.03, 0.04, 0.0, 0.06, 0.01, 0.02, 0.03])
    t, p = corrected_resampled_t(differences, 1 / 9)
    by_hand = 0.025 / math.sqrt((0.1 + 1 / 9) * float(np.var(differences, ddof=1)))
    assert t == pytest.approx(by_hand)
    assert p == pytest.approx(2 * scipy_stats.t.sf(by_hand, 9))
    plain = scipy_stats.ttest_1samp(differences, 0.0)
    assert p > plain.pvalue
    assert corrected_resampled_t(differences, 0.0) == pytest.approx((plain.statistic, plain.pvalue))
    assert corrected_resampled_t([0.0, 0.0, np.nan], 0.25) == (0.0, 1.0)
    assert np.isnan(corrected_resampled_t([0.1, np.nan], 0.25)).all()
    assert np.isnan(corrected_resampled_t([0.1, 0.1], 0.25)).all()


def test_permutation_p_is_never_zero_and_uniform_under_the_null() -> None:
    assert permutation_p(2.0, np.zeros(999)) == pytest.approx(0.001)
    assert permutation_p(0.5, [0.5, 0.4, 0.6]) == pytest.approx(0.75)
    assert permutation_p(0.1 + 0.2, [0.3]) == 1.0  # equal but for rounding
    assert math.isnan(permutation_p(0.5, []))
    draws = np.random.default_rng(0).standard_normal((2000, 100))
    p = np.array([permutation_p(row[0], row[1:]) for row in draws])
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


def test_labels_are_dealt_within_sites_and_stay_with_people() -> None:
    rng = np.random.default_rng(0)
    people = rng.permutation(np.repeat(np.arange(30), 2))
    sites, labels = (people % 3), (people % 2).astype(np.float64)
    permuted = [permute_labels(labels, people, sites, np.random.default_rng(seed)) for seed in range(200)]
    for new in permuted:
        assert all(np.ptp(new[people == person]) == 0 for person in range(30))
        assert all(new[sites == site].sum() == labels[sites == site].sum() for site in range(3))
    assert np.mean(permuted, axis=0) == pytest.approx(
        np.full(60, 0.5), abs=0.15
    )  # anybody may get any label of the site


def test_labels_that_change_within_a_person_move_as_they_are() -> None:
    people = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
    labels = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    given = {(0.0, 1.0), (0.0, 0.0), (1.0, 1.0)}
    seen = set()
    for seed in range(60):
        new = permute_labels(labels, people, np.zeros(9), np.random.default_rng(seed))
        assert {tuple(new[people == person]) for person in range(3)} == given
        assert new[6:].tolist() == [0.0, 0.0, 1.0]  # nobody else has three scans
        seen.add(tuple(new[:6]))
    assert len(seen) == 6


def test_two_sided_p_and_codes() -> None:
    assert two_sided_p(1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert two_sided_p(0.0, 0.0) == 1.0
    assert math.isnan(two_sided_p(0.1, 0.0))
    assert codes_of(np.array([1, 1, 0]), np.array(["b", "a", "a"])).tolist() == [2, 1, 0]
