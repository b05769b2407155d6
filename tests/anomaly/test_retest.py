from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gen3d.anomaly.calibration.retest import fit_retest, icc, reliable_change, within_person_sd

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_icc_of_the_published_example() -> None:
    """Shrout and Fleiss 1979, table 2: six targets, four judges, ICC(2,1) = .29; interval from R's psych 2.1."""
    found = icc(np.array(SHROUT_FLEISS, dtype=float)[:, :, None])
    assert found.value[0] == pytest.approx(0.2898, abs=5e-4)
    assert found.low[0] == pytest.approx(0.019, abs=2e-3)
    assert found.high[0] == pytest.approx(0.761, abs=2e-3)


def test_icc_is_the_share_of_variance_between_people() -> None:
    generator = np.random.default_rng(0)
    people = generator.normal(0, 2, (400, 1, 3))
    values = people + generator.normal(0, 1, (400, 2, 3))
    found = icc(values)
    np.testing.assert_allclose(found.value, 0.8, atol=0.05)
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()
    assert np.isnan(icc(values[:2]).value).all()


def test_a_shift_between_scans_lowers_absolute_agreement() -> None:
    values = np.random.default_rng(1).normal(0, 1, (50, 1, 1)).repeat(2, axis=1)
    values += np.random.default_rng(2).normal(0, 0.1, values.shape)
    shifted = values + np.array([0.0, 1.0])[None, :, None]
    assert icc(shifted).value[0] < icc(values).value[0] - 0.2


def test_within_person_sd() -> None:
    assert within_person_sd([[1.0], [2.0]], [[1.2], [1.6]])[0] == pytest.approx(math.sqrt((0.04 + 0.16) / 4))
    generator = np.random.default_rng(3)
    first, second = (generator.normal(0, 0.3, (2000, 2)) for _ in range(2))
    np.testing.assert_allclose(within_person_sd(first, second), 0.3, rtol=0.05)


@pytest.mark.parametrize("num_pairs", [3, 6, 20])
def test_unchanged_people_exceed_1_96_as_often_as_they_should(num_pairs: int) -> None:
    """Regions of very different noise, few pairs: a plain SD would give 19 % at 3 pairs."""
    generator = np.random.default_rng(num_pairs)
    sd = np.exp(generator.normal(-4, 0.5, 60))
    shares = []
    for _ in range(150):
        noise = fit_retest(generator.normal(0, 1, (num_pairs, 60)) * sd, np.zeros(num_pairs))
        z = reliable_change(generator.normal(0, 1, 60) * sd, 0.0, noise)
        shares.append(np.mean(np.abs(z) > 1.96))
    assert 0.04 < np.mean(shares) < (0.065 if num_pairs == 3 else 0.06)


def test_the_controls_own_change_per_year_is_expected() -> None:
    generator = np.random.default_rng(5)
    years = generator.uniform(1, 3, 40)
    drift = np.linspace(-0.02, 0.02, 30)
    noise = fit_retest(years[:, None] * drift + generator.normal(0, 0.01, (40, 30)), years)
    np.testing.assert_allclose(noise.drift, drift, atol=0.004)
    assert np.abs(reliable_change(2.0 * drift, 2.0, noise)).max() < 1
    assert reliable_change(2.0 * drift + 0.1, 2.0, noise).min() > 5
    # far outside the intervals of the controls the expectation is uncertain, and z is smaller for the same excess
    excess = np.full(30, 0.03)
    near, far = (reliable_change(t * noise.drift + excess, t, noise) for t in (1.0, 30.0))
    assert (far < near).all()


def test_without_time_between_scans_no_change_is_expected() -> None:
    noise = fit_retest(np.random.default_rng(6).normal(0.1, 1, (12, 5)), np.full(12, np.nan))
    assert (noise.drift == 0).all()
    assert np.isinf(noise.squared_years)


def test_one_region_is_students_t() -> None:
    """With infinite prior degrees excluded by spread, a single region has exactly n degrees of freedom."""
    d = np.array([[0.1], [-0.2], [0.15], [0.05]])
    noise = fit_retest(d, np.zeros(4))
    assert noise.sd[0] == pytest.approx(math.sqrt((d**2).mean()), rel=0.2)
    z = reliable_change(np.array([0.3]), 0.0, noise)[0]
    assert z == pytest.approx(stats.norm.isf(stats.t.sf(0.3 / noise.sd[0], noise.dof)), abs=1e-3)


def test_too_few_pairs() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        fit_retest(np.zeros((1, 4)), np.zeros(1))
