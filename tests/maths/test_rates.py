"""The mixed model of rates against known truth, and against the same model of statsmodels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.maths.rates import fit_rates, slopes_of

Floats = NDArray[np.float64]
TAU, SIGMA = 0.01, 0.015


def people(
    num: int, regions: int, rate: float, seed: int, fewest: int = 2, most: int = 5
) -> tuple[list[Floats], list[Floats], Floats]:
    """Times, values and true rates [num, regions] of people who change by `rate` per year on average."""
    generator = np.random.default_rng(seed)
    true = generator.normal(rate, TAU, (num, regions))
    times = [
        np.sort(generator.uniform(0, 1, int(generator.integers(fewest, most + 1)))) * 4 + np.arange(0.0, 1e-3, 1e-3)
        for _ in range(num)
    ]
    values = [
        generator.normal(0, 0.1, regions) + t[:, None] * b + generator.normal(0, SIGMA, (len(t), regions))
        for t, b in zip(times, true, strict=True)
    ]
    return times, values, true


def test_a_known_rate_is_covered_at_its_level() -> None:
    times, values, _ = people(30, 400, -0.04, 0)
    low, high = fit_rates(slopes_of(times, values), np.ones((30, 1))).interval()
    assert ((low < -0.04) & (high > -0.04)).mean() == pytest.approx(0.95, abs=0.035)


def test_no_change_stays_none_with_two_visits_each() -> None:
    times, values, _ = people(20, 400, 0.0, 1, most=2)
    model = fit_rates(slopes_of(times, values), np.ones((20, 1)))
    low, high = model.interval()
    assert not model.separable
    assert ((low > 0) | (high < 0)).mean() == pytest.approx(0.05, abs=0.035)


def test_predictions_are_nearer_than_own_rates_and_their_errors_are_honest() -> None:
    times, values, true = people(60, 50, -0.02, 2)
    model = fit_rates(slopes_of(times, values), np.ones((60, 1)))
    predicted, error = model.people
    assert ((predicted - true) ** 2).mean() < 0.7 * ((model.slopes.rates - true) ** 2).mean()
    assert ((predicted - true) / error).std() == pytest.approx(1, abs=0.12)
    assert np.sqrt(np.median(model.noise)) == pytest.approx(SIGMA, rel=0.1)
    assert np.sqrt(np.median(model.ratio * model.noise)) == pytest.approx(TAU, rel=0.25)


def test_without_third_visits_nobody_is_drawn_to_the_others() -> None:
    times, values, true = people(40, 30, -0.02, 3, most=2)
    model = fit_rates(slopes_of(times, values), np.ones((40, 1)))
    predicted, error = model.people
    assert np.array_equal(predicted, model.slopes.rates)
    assert (np.abs(predicted - true) < 1.96 * error).mean() > 0.9


def test_z_of_outsiders_is_standard_normal() -> None:
    times, values, _ = people(120, 100, -0.01, 4)
    slopes = slopes_of(times, values)
    inside = np.arange(120) < 40
    model = fit_rates(slopes.of(inside), np.ones((40, 1)))
    z = np.array([model.z_of(slopes.rates[i], slopes.spread[i], np.ones(1)) for i in range(40, 120)])
    assert z.std() == pytest.approx(1, abs=0.08)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.05, abs=0.02)


def test_groups_have_their_own_rates() -> None:
    first, second = people(30, 60, 0.0, 5), people(30, 60, -0.05, 6)
    slopes = slopes_of([*first[0], *second[0]], [*first[1], *second[1]])
    design = np.repeat(np.eye(2), 30, axis=0)
    found = fit_rates(slopes, design).coefficients.mean(axis=0)
    assert found == pytest.approx([0.0, -0.05], abs=0.002)


def test_one_time_gives_no_rate_and_too_few_people_no_model() -> None:
    with pytest.raises(ValueError, match="two different times"):
        slopes_of([[1.0, 1.0]], [[[0.0], [1.0]]])
    slopes = slopes_of([[0.0, 1.0]], [[[0.0], [1.0]]])
    with pytest.raises(ValueError, match="1 people do not determine 1 rates"):
        fit_rates(slopes, np.ones((1, 1)))


def test_it_is_the_model_of_statsmodels() -> None:
    """Its mixed model with an intercept per person as fixed effect, and a random slope."""
    api = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    times, values, _ = people(14, 1, -0.03, 7, fewest=3)
    of = np.repeat(np.arange(14), [len(t) for t in times])
    t, y = np.concatenate(times), np.concatenate(values)[:, 0]
    group = (np.arange(14) % 2)[of]
    exog = np.column_stack([t * (group == 0), t * (group == 1), np.eye(14)[of]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = api.MixedLM(y, exog, groups=of, exog_re=t[:, None]).fit(reml=True)
    model = fit_rates(slopes_of(times, values), np.eye(2)[np.arange(14) % 2])
    assert model.coefficients[0] == pytest.approx(other.fe_params[:2], abs=1e-5)
    assert np.sqrt(np.diag(model.covariance[0])) == pytest.approx(other.bse_fe[:2], rel=0.02)
    assert model.noise[0] == pytest.approx(other.scale, rel=1e-3)
    assert model.ratio[0] * model.noise[0] == pytest.approx(float(np.asarray(other.cov_re)[0, 0]), rel=5e-3)
