"""The spline of age: its columns against their definition, its smoothing against brute force and known curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from gen3d.maths.splines import (
    AGE_KNOTS,
    NUM_BENDS,
    age_basis,
    age_penalty,
    choose_smoothing,
    effective_dof,
    penalty_matrix,
)

Floats = NDArray[np.float64]
SPLINE = range(2, 2 + NUM_BENDS)
LIFE = np.linspace(AGE_KNOTS[0], AGE_KNOTS[-1], 20001)


def design_of(ages: Floats) -> Floats:
    return np.column_stack([np.ones(len(ages)), (ages - 50) / 10, age_basis(ages)])


def penalised_fit(design: Floats, values: Floats, smoothing: float) -> Floats:
    gram = design.T @ design
    return np.asarray(np.linalg.solve(gram + penalty_matrix(design.shape[1], SPLINE, smoothing), design.T @ values))


def chosen(design: Floats, values: Floats) -> float:
    return choose_smoothing(
        design.T @ design, design.T @ values, np.einsum("nv,nv->v", values, values), len(values), SPLINE
    )


def test_columns_are_orthonormal_over_the_life_span_and_hold_no_straight_line() -> None:
    columns = design_of(LIFE)
    products = columns.T @ columns / len(LIFE)
    assert products[2:, 2:] == pytest.approx(np.eye(NUM_BENDS), abs=1e-3)
    assert products[:2, 2:] == pytest.approx(np.zeros((2, NUM_BENDS)), abs=1e-3)


def test_the_penalty_is_the_integral_of_the_squared_second_derivative() -> None:
    second = np.gradient(np.gradient(age_basis(LIFE), LIFE, axis=0), LIFE, axis=0)
    bend = second.T @ second
    penalty = age_penalty()
    assert bend / bend[0, 0] == pytest.approx(penalty / penalty[0, 0], abs=2e-3 * penalty.max())
    draws = np.random.default_rng(1).standard_normal((4000, NUM_BENDS)) / np.sqrt(np.diag(penalty))
    assert float(np.mean((draws @ age_basis(LIFE[::50]).T) ** 2)) == pytest.approx(1.0, rel=0.06)


def test_curves_are_smooth_inside_and_straight_beyond_the_knots() -> None:
    step = 1e-3
    for at in AGE_KNOTS:  # value, slope and curvature go on through every knot
        near = age_basis(np.array([at - 2 * step, at - step, at, at + step, at + 2 * step]))
        before, after = (near[:3], near[2:])
        curvature = [(part[0] - 2 * part[1] + part[2]) / step**2 for part in (before, after)]
        assert curvature[0] == pytest.approx(curvature[1], abs=2e-4)
    for ages in ([-30.0, -20.0, -10.0], [100.0, 110.0, 120.0]):
        low, middle, high = age_basis(np.array(ages))
        assert low + high == pytest.approx(2 * middle, abs=1e-9)


def test_an_unknown_age_has_no_bend() -> None:
    assert np.array_equal(age_basis(np.array([math.nan, math.nan])), np.zeros((2, NUM_BENDS)))


@pytest.mark.parametrize("curve", [lambda a: a**2, lambda a: np.exp(a / 30), lambda a: -1 / (1 + np.exp((75 - a) / 8))])
def test_curves_of_adult_life_are_followed_within_one_fortieth_of_their_range(curve) -> None:  # type: ignore[no-untyped-def]
    ages = np.linspace(20, 90, 300)
    truth = curve(ages)
    design = design_of(ages)
    error = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    assert np.abs(error).max() < 0.025 * np.ptp(truth)


def test_the_smoothing_is_that_of_the_highest_likelihood_written_out() -> None:
    rng = np.random.default_rng(3)
    ages = rng.uniform(20, 85, 30)
    design = design_of(ages)
    values = np.sin(ages / 12)[:, None] * rng.standard_normal(12) + rng.standard_normal((30, 12))
    found = chosen(design, values)
    # Differences from the fit of constant and line, Q'y, are N(0, s^2 Q'(I + Z P^-1 Z' / smoothing)Q), s^2 at its best.
    contrasts = np.linalg.qr(design[:, :2], mode="complete")[0][:, 2:]
    spread = contrasts.T @ design[:, 2:] @ np.linalg.inv(age_penalty()) @ design[:, 2:].T @ contrasts

    def likelihood(smoothing: float) -> float:
        covariance = np.eye(len(spread)) + spread / smoothing
        total = 0.0
        for voxel in (contrasts.T @ values).T:
            scale = voxel @ np.linalg.solve(covariance, voxel) / len(voxel)
            total += float(multivariate_normal.logpdf(voxel, cov=scale * covariance))
        return total

    assert likelihood(found) > likelihood(1.05 * found)
    assert likelihood(found) > likelihood(found / 1.05)


@pytest.mark.parametrize("num", [100, 400])
def test_a_known_curve_is_recovered_better_than_by_a_line_or_a_parabola(num: int) -> None:
    rng = np.random.default_rng(num)
    ages = rng.uniform(20, 90, num)
    truth = lambda a: -2.0 / (1 + np.exp((75 - a) / 6))  # noqa: E731
    values = truth(ages)[:, None] + rng.standard_normal((num, 300))
    design = design_of(ages)
    smoothing = chosen(design, values)
    at = np.linspace(25, 85, 61)
    spline = penalised_fit(design, values, smoothing)
    errors = {"spline": design_of(at) @ spline - truth(at)[:, None]}
    for degree in (1, 2):
        powers = np.vander((ages - 50) / 10, degree + 1)
        fit = np.linalg.lstsq(powers, values, rcond=None)[0]
        errors[str(degree)] = np.vander((at - 50) / 10, degree + 1) @ fit - truth(at)[:, None]
    size = {name: float(np.mean(error**2)) for name, error in errors.items()}
    assert size["spline"] < 0.95 * size["2"] < size["1"]


def test_without_a_curve_the_model_is_linear_or_nearly_so() -> None:
    costs = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        ages = rng.uniform(20, 90, 60)
        values = 0.3 * ((ages - 50) / 10)[:, None] + rng.standard_normal((60, 200))
        design = design_of(ages)
        costs.append(effective_dof(design.T @ design, SPLINE, chosen(design, values)) - 2)
    assert np.mean(costs) < 0.2
    assert np.mean(np.array(costs) == 0) > 0.25  # infinite: exactly the linear model


def test_effective_columns_go_from_all_to_the_line() -> None:
    design = design_of(np.linspace(5, 95, 200))
    gram = design.T @ design
    dofs = [effective_dof(gram, SPLINE, smoothing) for smoothing in (1e-6, 1e-2, 1.0, 1e2, 1e7, math.inf)]
    assert dofs == sorted(dofs, reverse=True)
    assert dofs[0] == pytest.approx(2 + NUM_BENDS, abs=0.01)
    assert dofs[-2:] == [pytest.approx(2.0, abs=0.01), 2.0]


def test_the_smoothing_does_not_depend_on_the_unit_of_the_values_or_on_repeated_voxels() -> None:
    rng = np.random.default_rng(5)
    ages = rng.uniform(20, 90, 50)
    values = ((ages - 55) ** 2 / 500)[:, None] * rng.standard_normal(40) + rng.standard_normal((50, 40))
    design = design_of(ages)
    found = chosen(design, values)
    assert chosen(design, 1000 * values) == pytest.approx(found, rel=1e-3)
    assert chosen(design, np.tile(values, (1, 3))) == pytest.approx(found, rel=1e-3)
    constant = np.column_stack([values, np.zeros((50, 5))])  # regions without a voxel
    assert chosen(design, constant) == pytest.approx(found, rel=1e-3)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="penalised columns"):
        penalty_matrix(5, [2, 3], 1.0)
    with pytest.raises(ValueError, match="straight line"):
        penalty_matrix(2 + NUM_BENDS, SPLINE, math.inf)
    with pytest.raises(ValueError, match="2 people"):
        choose_smoothing(np.eye(7), np.ones((7, 1)), np.ones(1), 2, SPLINE)
