"""The normative model against simulations whose answer is known, and against brute-force refits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import polygamma

from gen3d.anomaly.calibration.normative import estimate_prior, trigamma_inverse, z_scores
from gen3d.anomaly.calibration.student import log_survival, t_to_z
from gen3d.core.errors import UserError
from gen3d.imaging.similarity import smooth_inside
from gen3d.maths.significance import fdr, p_values
from tests.anomaly.direct_fit import fit_normative, held_out_z

VOXELS = 20_000
NEW_PEOPLE = 40


def design_of(num: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.column_stack([np.ones(num), rng.standard_normal((num, columns - 1))])


def null_data(
    num: int, columns: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
    """Controls and new people from one linear model; voxel SDs vary as a scaled inverse chi with 8 dof."""
    rng = np.random.default_rng(seed)
    sd = np.sqrt(0.04 * 8 / rng.chisquare(8, VOXELS))
    effects = rng.standard_normal((columns, VOXELS))
    controls, people = design_of(num, columns, rng), design_of(NEW_PEOPLE, columns, rng)
    noise = rng.standard_normal((num + NEW_PEOPLE, VOXELS)) * sd
    values = (np.vstack([controls, people]) @ effects + noise).astype(np.float32)
    return values[:num], controls, values[num:], people


@pytest.mark.parametrize("num", [12, 20, 50])
def test_null_z_is_standard_normal(num: int) -> None:
    controls, design, people, people_design = null_data(num, 4, seed=num)
    z = z_scores(fit_normative(controls, design), people, people_design)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.05, abs=0.006)
    assert np.mean(np.abs(z) > 3.29) == pytest.approx(0.001, abs=0.0006)
    assert z.std() == pytest.approx(1.0, abs=0.03)
    assert z.mean() == pytest.approx(0.0, abs=0.02)


def test_without_leverage_the_null_is_broken() -> None:
    """The same data and tolerance fail when the uncertainty of the expectation is left out: the test above can fail."""
    controls, design, people, people_design = null_data(12, 4, seed=12)
    model = fit_normative(controls, design)
    z = t_to_z((people - model.expected(people_design)) / model.sd, model.dof)
    assert np.mean(np.abs(z) > 1.96) > 0.09


def test_without_the_t_distribution_the_null_is_broken() -> None:
    controls, design, people, people_design = null_data(12, 4, seed=12)
    model = fit_normative(controls, design)
    naive = (controls - model.expected(design)).std(axis=0)
    z = (people - model.expected(people_design)) / naive
    assert np.mean(np.abs(z) > 1.96) > 0.15


def test_held_out_z_of_controls_is_standard_normal() -> None:
    controls, design, _, _ = null_data(20, 4, seed=3)
    z = held_out_z(controls, design)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.05, abs=0.006)
    assert z.std() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("fwhm_voxels", [0.0, 2.0])
def test_held_out_z_equals_brute_force_refits(fwhm_voxels: float) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 9, 10), dtype=bool)
    mask[1:-1, 1:-1, 2:-1] = True
    sd = np.exp(rng.normal(size=int(mask.sum())))
    values = rng.standard_normal((13, sd.size)) * sd
    design = design_of(13, 4, rng)
    fast = held_out_z(values, design, mask, fwhm_voxels)
    for person in range(13):
        others = np.arange(13) != person
        model = fit_normative(values[others], design[others], mask, fwhm_voxels)
        slow = z_scores(model, values[[person]], design[[person]])[0]
        np.testing.assert_allclose(fast[person], slow, rtol=2e-4, atol=2e-4)


def test_held_out_z_with_scales_equals_brute_force_refits() -> None:
    """Three groups of people whose scale is known differently without each person."""
    rng = np.random.default_rng(0)
    mask = np.ones((6, 7, 8), dtype=bool)
    values = 5 + rng.standard_normal((15, mask.size))
    design, groups = design_of(15, 3, rng), np.arange(15) % 3
    scales = rng.uniform(0.6, 1.8, (15, 3))
    fast = held_out_z(values, design, mask, 1.5, groups, scales)
    for person in range(15):
        others = np.arange(15) != person
        model = fit_normative(values[others], design[others], mask, 1.5, scales[person][groups[others]])
        slow = z_scores(model, values[[person]], design[[person]], scales[[person], groups[person]])[0]
        np.testing.assert_allclose(fast[person], slow, rtol=2e-4, atol=2e-4)


def test_scales_are_weights_and_units() -> None:
    """A person with three times the scale counts a ninth as much, and needs three times the deviation."""
    values = np.random.default_rng(1).standard_normal((20, 3000)) * np.repeat([1.0, 3.0], 10)[:, None]
    scale = np.repeat([1.0, 3.0], 10)
    model = fit_normative(values, np.ones((20, 1)), scale=scale)
    np.testing.assert_allclose(model.coefficients[0], np.average(values, axis=0, weights=scale**-2), atol=1e-6)
    new = np.random.default_rng(2).standard_normal((40, 3000)) * np.repeat([1.0, 3.0], 20)[:, None]
    z = z_scores(model, new, np.ones((40, 1)), np.repeat([1.0, 3.0], 20))
    assert np.mean(np.abs(z[:20]) > 1.96) == pytest.approx(0.05, abs=0.006)
    assert np.mean(np.abs(z[20:]) > 1.96) == pytest.approx(0.05, abs=0.006)


def test_covariate_effects_are_removed() -> None:
    rng = np.random.default_rng(1)
    ages = rng.uniform(-3, 3, 60)
    design = np.column_stack([np.ones(60), ages])
    slope = rng.normal(0, 2, 500)
    values = 5 + ages[:, None] * slope + rng.normal(0, 0.5, (60, 500))
    model = fit_normative(values, design)
    np.testing.assert_allclose(model.coefficients[1], slope, atol=0.2)
    old = np.array([[1.0, 2.9]])
    z = z_scores(model, 5 + 2.9 * slope[None, :] + rng.normal(0, 0.5, (1, 500)), old)
    assert abs(z.std() - 1) < 0.12
    assert np.abs(z_scores(fit_normative(values, design[:, :1]), values, design[:, :1])).mean() > 0.6


def test_planted_lesion_is_found_and_little_else() -> None:
    controls, design, people, people_design = null_data(30, 3, seed=5)
    model = fit_normative(controls, design)
    lesion = np.zeros(VOXELS, dtype=bool)
    lesion[:400] = True
    people[:, lesion] -= 8 * np.sqrt(0.04)
    found = np.stack([fdr(p_values(z), 0.05) for z in z_scores(model, people, people_design)])
    assert found[:, lesion].mean() > 0.8
    false_share = found[:, ~lesion].sum() / found.sum()
    assert false_share < 0.08


def test_prior_is_recovered() -> None:
    rng = np.random.default_rng(2)
    truth = 8 * 0.25 / rng.chisquare(8, 100_000)
    prior = estimate_prior(truth * rng.chisquare(15, truth.size) / 15, 15)
    assert prior.dof == pytest.approx(8, rel=0.05)
    assert prior.variance == pytest.approx(0.25, rel=0.02)


def test_equal_variances_give_an_infinite_prior_and_still_a_calibrated_z() -> None:
    rng = np.random.default_rng(4)
    values = rng.standard_normal((52, 4000)) * 3
    # variances less spread than chance: every voxel rescaled to the same sample variance
    values[:12] -= values[:12].mean(axis=0)
    values[:12] *= 3 / values[:12].std(axis=0, ddof=1)
    ones = np.ones((52, 1))
    model = fit_normative(values[:12], ones[:12])
    assert math.isinf(model.dof)
    assert np.ptp(model.sd) == 0
    z = z_scores(model, values[12:], ones[12:])
    assert z.std() == pytest.approx(np.std(values[12:]) / (model.sd[0] * math.sqrt(1 + 1 / 12)), rel=1e-3)


@pytest.mark.parametrize("value", [1e-8, 1e-3, 0.1, 1.0, 50.0, 1e8])
def test_trigamma_inverse(value: float) -> None:
    assert polygamma(1, trigamma_inverse(value)) == pytest.approx(value, rel=1e-3)


def test_standard_deviation_has_a_floor() -> None:
    rng = np.random.default_rng(6)
    values = rng.standard_normal((20, 1000))
    values[:, 0] = 1.0
    model = fit_normative(values, np.ones((20, 1)))
    assert model.sd[0] >= 0.1 * np.median(model.sd) * 0.999
    assert np.isfinite(z_scores(model, values, np.ones((20, 1)))).all()


def test_smoothing_a_constant_variance_map_changes_nothing_at_the_border_of_the_mask() -> None:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[3:9, 3:9, 3:9] = True
    smoothed = smooth_inside(np.full(mask.shape, 4.0), mask, fwhm_mm=6.0, spacing_mm=2.0)
    np.testing.assert_allclose(smoothed[mask], 4.0, rtol=1e-5)
    assert (smoothed[~mask] == 0).all()


@pytest.mark.parametrize("dof", [1.0, 3.0, 8.0, 30.0, 300.0, 12345.6])
def test_t_to_z_is_exact_monotone_and_finite(dof: float) -> None:
    t = np.concatenate([[0.0], np.geomspace(1e-6, 1e38, 4000)]).astype(np.float32)
    z = t_to_z(t, dof)
    assert np.isfinite(z).all()
    assert (np.diff(z) >= 0).all()
    np.testing.assert_array_equal(t_to_z(-t, dof), -z)
    moderate = t[(t < 30) & (stats.t.sf(t, dof) > 1e-250)]
    np.testing.assert_allclose(
        t_to_z(moderate, dof), stats.norm.isf(stats.t.sf(moderate.astype(float), dof)), rtol=3e-6, atol=1e-6
    )


@pytest.mark.parametrize(("t", "dof"), [(1e9, 40.0), (60.0, 5000.0), (200.0, 150.0), (1e30, 12.5), (45.0, 1e6)])
def test_log_survival_where_p_underflows(t: float, dof: float) -> None:
    import mpmath

    with mpmath.workdps(60):
        a, x = mpmath.mpf(dof) / 2, mpmath.mpf(dof) / (mpmath.mpf(dof) + mpmath.mpf(t) ** 2)
        exact = mpmath.log(mpmath.betainc(a, 0.5, 0, x, regularized=True) / 2)
    assert log_survival(np.array([t]), dof)[0] == pytest.approx(float(exact), rel=1e-9)


def test_infinite_dof_is_the_identity() -> None:
    t = np.array([-40.0, 0.0, 1.5], dtype=np.float32)
    np.testing.assert_array_equal(t_to_z(t, math.inf), t)


def test_inputs_that_cannot_be_fitted_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="5 calibration controls cannot carry 4"):
        fit_normative(rng.standard_normal((5, 10)), design_of(5, 4, rng))
    with pytest.raises(UserError, match="collinear"):
        fit_normative(rng.standard_normal((9, 10)), np.ones((9, 2)))
    with pytest.raises(UserError, match="do not differ"):
        fit_normative(np.ones((9, 10)), np.ones((9, 1)))
    alone = np.column_stack([np.ones(9), np.eye(9)[0]])
    with pytest.raises(UserError, match="alone"):
        held_out_z(rng.standard_normal((9, 10)), alone)
    with pytest.raises(ValueError, match="NaN"):
        fit_normative(np.full((9, 10), np.nan), np.ones((9, 1)))


def test_a_floor_on_the_variance_shrinks_z_where_controls_hardly_vary() -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((20, 400)) * np.where(np.arange(400) < 300, 0.01, 2.0)
    plain = fit_normative(values, np.ones((20, 1)))
    floored = plain.with_floor(1.0)
    typical = np.sqrt(np.mean(np.square(plain.sd)))
    assert floored.sd.min() == pytest.approx(typical, rel=1e-5)
    assert np.array_equal(floored.sd[plain.sd > typical], plain.sd[plain.sd > typical])
    assert plain.with_floor(0.0) is plain
