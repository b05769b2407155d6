"""Rates of change: slopes, how noisy they are, and penalties chosen by leaving out people."""

from __future__ import annotations

import numpy as np

from gen3d.maths.grouped_ridge import PENALTIES, fit_ridge
from gen3d.maths.slopes import Slopes, noise_ratios, reliability, slopes


def cohort(
    num: int, tau: float, sigma: float, times: tuple[float, ...], seed: int, num_quantities: int = 1
) -> tuple[Slopes, np.ndarray]:
    """Slopes of people with planted spread of rates and of measurement, and the true rates [num, quantities]."""
    generator = np.random.default_rng(seed)
    rates = 0.5 + tau * generator.standard_normal((num, num_quantities))
    years = np.tile(np.array(times), num)
    values = np.repeat(rates, len(times), axis=0) * years[:, None]
    values += np.repeat(generator.standard_normal((num, num_quantities)), len(times), axis=0)
    values += sigma * generator.standard_normal(values.shape)
    people = [[np.arange(i * len(times), (i + 1) * len(times))] for i in range(num)]
    return slopes(values, years, people), rates


def test_slopes_are_exact_without_noise_and_levels_of_stretches_do_not_matter() -> None:
    years = np.array([0.0, 1.0, 3.0, 5.0])
    values = 0.02 * years[:, None] + np.array([0, 0, 9.0, 9.0])[:, None]
    found = slopes(values, years, [[np.array([0, 1]), np.array([2, 3])]])
    assert np.allclose(found.values, 0.02)
    assert np.isclose(found.information[0], 0.5 + 2.0)
    assert np.allclose(found.scatter, 0)
    assert found.freedom == 1


def test_the_ratio_of_noise_is_found_where_people_came_three_times() -> None:
    for sigma in (0.1, 1.0, 3.0):
        found, _ = cohort(400, 1.0, sigma, (0, 1, 2.5), seed=1, num_quantities=5)
        of_all, each = noise_ratios(np.ones((400, 1)), found)
        assert 0.6 * sigma**2 < of_all < 1.7 * sigma**2
        assert (np.abs(np.log(each / sigma**2)) < 0.8).all()


def test_a_rate_shrunken_by_its_reliability_is_nearer_to_the_truth() -> None:
    found, rates = cohort(300, 1.0, 1.5, (0, 1, 2), seed=2)
    ratio, _ = noise_ratios(np.ones((300, 1)), found)
    mean = found.values.mean(axis=0)
    shrunken = mean + reliability(ratio, found.information)[:, None] * (found.values - mean)
    assert np.square(shrunken - rates).mean() < 0.8 * np.square(found.values - rates).mean()
    assert np.square(shrunken - rates).mean() < 0.8 * np.square(mean - rates).mean()


def test_deviations_are_those_of_a_fit_without_the_person() -> None:
    generator = np.random.default_rng(3)
    person = np.repeat(np.arange(12), 2)
    design = np.column_stack([np.ones(24), generator.standard_normal((24, 3))])
    outcomes = generator.standard_normal((12, 4))
    found = fit_ridge(design, np.array([0, 1, 1, 2]), person, np.ones(12), outcomes)
    for outcome in range(4):
        penalties = np.array([0, *np.array(found.penalties[found.chosen[outcome]])[[0, 0, 1]]])
        used = np.isfinite(penalties)
        rows = person != 5
        x = design[rows][:, used]
        weighted = 0.5 * x.T
        solved = np.linalg.solve(weighted @ x + np.diag(penalties[used]), weighted @ outcomes[person[rows], outcome])
        expected = outcomes[5, outcome] - (design[person == 5][:, used] @ solved).mean()
        assert np.isclose(found.deviations[5, outcome], expected, atol=1e-6)


def test_a_planted_effect_is_found_and_chance_is_not_followed() -> None:
    generator = np.random.default_rng(4)
    predictors = generator.standard_normal((60, 5))
    outcomes = generator.standard_normal((60, 40))
    outcomes[:, 0] += 3 * predictors[:, 0]
    design = np.column_stack([np.ones(60), predictors])
    found = fit_ridge(design, np.array([0, 1, 1, 1, 1, 1]), np.arange(60), np.ones(60), outcomes)
    assert 2.5 < found.coefficients[1, 0] < 3.5
    assert found.penalties[found.chosen[0]][0] <= PENALTIES[2]
    assert np.square(found.coefficients[1:, 1:]).sum(axis=0).mean() < 0.03
