"""Factors of the residual SD by age: recovered where scatter grows with age, 1 where it does not, mergeable."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.anomaly.calibration.age_variance import AgeVariance, fit_age_variance

Floats = NDArray[np.float64]
BETWEEN_PEOPLE = 0.5  # SD of the logarithm of a person's mean square, as in real brains


def people(
    num: int, slope: float, seed: int, sites: int = 1, between: float = BETWEEN_PEOPLE
) -> tuple[Floats, Floats, NDArray[np.str_]]:
    """Mean squares, ages and sites of people whose log variance changes by `slope` per decade; sites differ in level and age."""
    rng = np.random.default_rng(seed)
    member = rng.integers(0, sites, num)
    ages = rng.uniform(20, 80, num) + 10.0 * member
    logs = slope * (ages - 50) / 10 + 1.5 * member + between * rng.standard_normal(num)
    return np.exp(logs), ages, np.array([f"site{m}" for m in member])


def test_a_known_trend_is_recovered_within_its_error() -> None:
    errors = []
    for seed in range(60):
        found = fit_age_variance(*people(200, 0.3, seed, sites=3))
        estimate, error = found.estimate
        errors.append((estimate - 0.3) / error)
    assert abs(np.mean(errors)) < 0.4
    assert 0.8 < np.std(errors) < 1.25
    ratio = fit_age_variance(*people(3000, 0.3, 1)).of([30.0, 70.0])
    assert ratio[1] / ratio[0] == pytest.approx(math.exp(0.3 * 4 / 2), rel=0.05)


def test_without_a_trend_the_factor_is_mostly_exactly_one_and_never_far() -> None:
    slopes = np.array([fit_age_variance(*people(80, 0.0, seed)).slope for seed in range(200)])
    assert 0.6 < np.mean(slopes == 0) < 0.76  # |t| < 1 happens in 68 % of draws
    assert np.quantile(np.abs(slopes), 0.95) < 0.08


def test_a_site_with_noise_and_old_people_makes_no_trend_when_sites_are_given() -> None:
    squares, ages, sites = people(300, 0.0, 7, sites=3)
    assert abs(fit_age_variance(squares, ages, sites).slope) < 0.06
    assert fit_age_variance(squares, ages).slope > 0.2


def test_the_common_variance_keeps_its_meaning() -> None:
    squares, ages, _ = people(2000, 0.25, 3)
    found = fit_age_variance(squares, ages)
    assert float(np.mean(found.of(ages) ** 2)) == pytest.approx(1.0, abs=0.03)


def test_standardised_by_the_factor_old_and_young_are_calibrated_alike() -> None:
    rng = np.random.default_rng(11)
    ages = rng.uniform(20, 80, 400)
    spread = np.exp(0.15 * (ages - 50) / 10)
    values = rng.standard_normal((400, 500)) * spread[:, None]
    train, new = np.arange(400) < 200, np.arange(400) >= 200
    sd = values[train].std(axis=0)
    found = fit_age_variance(np.mean((values[train] / sd) ** 2, axis=1), ages[train])
    for low, high in ((20, 40), (60, 80)):
        rows = new & (ages >= low) & (ages < high)
        plain = float((np.abs(values[rows] / sd) > 1.96).mean())
        scaled = float((np.abs(values[rows] / (sd * found.of(ages[rows])[:, None])) > 1.96).mean())
        assert scaled == pytest.approx(0.05, abs=0.012)
        assert abs(plain - 0.05) > 2 * abs(scaled - 0.05)


def test_one_bad_scan_sets_no_trend() -> None:
    squares, ages, _ = people(60, 0.0, 5)
    squares[np.argmax(ages)] *= 1e4
    assert abs(fit_age_variance(squares, ages).slope) < 0.12


def test_beyond_the_ages_of_the_fit_the_factor_is_that_of_the_nearest_and_unknown_is_one() -> None:
    found = fit_age_variance(*people(200, 0.3, 2))
    low, high = found.age_range_years
    assert found.of([5.0, 120.0]) == pytest.approx(found.of([low, high]))
    assert found.of([math.nan])[0] == 1.0
    assert not np.isclose(found.of([high])[0], 1.0)


def test_norms_of_two_hospitals_merge_to_the_fit_of_all() -> None:
    """Without outliers to tame, sums of two halves are the sums of the whole; a shared site is one site."""
    squares, ages, sites = people(120, 0.3, 9, sites=2, between=0.01)
    whole = fit_age_variance(squares, ages, sites)
    halves = [fit_age_variance(squares[part::2], ages[part::2], sites[part::2]) for part in (0, 1)]
    merged = halves[0].merged(halves[1])
    assert merged.num_people == whole.num_people == 120
    assert merged.age_range_years == whole.age_range_years
    assert merged.of(ages) == pytest.approx(whole.of(ages), rel=2e-3)
    empty = fit_age_variance(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    assert empty.merged(whole) == whole


def test_it_survives_json() -> None:
    found = fit_age_variance(*people(90, 0.3, 4, sites=2))
    back = AgeVariance.from_dict(json.loads(json.dumps(found.to_dict())))
    assert back == found
    assert found.slope > 0


@pytest.mark.parametrize("num", [0, 3, 9])
def test_too_few_people_have_factor_one(num: int) -> None:
    squares, ages, sites = people(40, 1.0, 6)
    ages = np.where(np.arange(40) < num, ages, np.nan)
    assert np.array_equal(fit_age_variance(squares, ages, sites).of([20.0, 80.0]), [1.0, 1.0])


def test_people_of_one_age_have_factor_one() -> None:
    squares, _, _ = people(40, 0.0, 6)
    assert np.array_equal(fit_age_variance(squares, np.full(40, 33.0)).of([20.0, 80.0]), [1.0, 1.0])
