"""ComBat against a plain implementation of the published equations, and against planted sites."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.core.errors import UserError
from gen3d.harmonise.combat import fit_combat

Array = NDArray[np.float64]


def people(
    num: int, num_features: int, seed: int, numbers: tuple[int, ...] = (1, 1, 1), strength: float = 1.0
) -> tuple[Array, NDArray[np.str_], Array, Array, Array]:
    """Values, sites (in the ratio `numbers`), standardised age; the planted location and log scale [sites, features]."""
    generator = np.random.default_rng(seed)
    site = np.repeat(np.arange(len(numbers)), numbers)[np.arange(num) % sum(numbers)]
    age = generator.normal(size=num)
    location = strength * generator.normal(size=(len(numbers), num_features))
    scale = 0.3 * strength * generator.normal(size=(len(numbers), num_features))
    noise = generator.normal(size=(num, num_features))
    values = 5.0 + np.outer(age, np.linspace(-1, 1, num_features)) + location[site] + np.exp(scale[site]) * noise
    return values, np.array(list("ABCDEF"))[site], age[:, None], location, scale


def reference(values: Array, sites: NDArray[np.str_], kept: Array, empirical_bayes: bool) -> Array:
    """Johnson et al. 2007 feature by feature, as the R and Python packages write it down."""
    names = sorted(set(sites.tolist()))
    batch = np.array([[float(site == name) for name in names] for site in sites])
    design = np.hstack([batch, kept])
    beta = np.linalg.inv(design.T @ design) @ design.T @ values
    num = batch.sum(axis=0)
    grand = (num / num.sum()) @ beta[: len(names)]
    pooled = ((values - design @ beta) ** 2).sum(axis=0) / len(values)
    mean = grand + kept @ beta[len(names) :]
    z = (values - mean) / np.sqrt(pooled)
    result = np.empty_like(z)
    for index in range(len(names)):
        members = z[batch[:, index] == 1]
        n = len(members)
        gamma_hat, delta_hat = members.mean(axis=0), members.var(axis=0, ddof=1)
        gamma, delta = gamma_hat.copy(), delta_hat.copy()
        if empirical_bayes:
            gamma_bar, tau2 = gamma_hat.mean(), gamma_hat.var(ddof=1)
            m, s2 = delta_hat.mean(), delta_hat.var(ddof=1)
            a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
            for v in range(values.shape[1]):
                g, d = gamma_hat[v], delta_hat[v]
                for _ in range(500):
                    g_new = (tau2 * n * gamma_hat[v] + d * gamma_bar) / (tau2 * n + d)
                    d_new = (0.5 * ((members[:, v] - g_new) ** 2).sum() + b) / (n / 2 + a - 1)
                    if abs(g_new - g) < 1e-12 and abs(d_new - d) < 1e-12:
                        break
                    g, d = g_new, d_new
                gamma[v], delta[v] = g, d
        result[batch[:, index] == 1] = (members - gamma) / np.sqrt(delta)
    return result * np.sqrt(pooled) + mean


@pytest.mark.parametrize("empirical_bayes", [True, False])
@pytest.mark.parametrize("numbers", [(1, 1), (5, 2, 1)])
def test_equals_the_published_equations(empirical_bayes: bool, numbers: tuple[int, ...]) -> None:
    values, sites, age, _, _ = people(64, 12, 0, numbers)
    fitted = fit_combat(values, sites, age, empirical_bayes)
    expected = reference(values, sites, age, empirical_bayes)
    np.testing.assert_allclose(fitted.apply(values, sites, age), expected, rtol=0, atol=1e-6)


def test_planted_location_and_scale_are_found_and_removed() -> None:
    values, sites, age, location, scale = people(3000, 40, 1, (3, 2, 1))
    fitted = fit_combat(values, sites, age)
    share = np.array([3, 2, 1]) / 6
    planted = (location - share @ location) / fitted.sd
    assert np.abs(fitted.gamma - planted).max() < 0.25
    assert np.corrcoef(fitted.gamma.ravel(), planted.ravel())[0, 1] > 0.995
    relative = np.exp(scale) / fitted.sd
    np.testing.assert_allclose(np.sqrt(fitted.delta), relative, rtol=0.1)
    after = fitted.apply(values, sites, age) - fitted.expected(age)
    for site in "ABC":
        assert np.abs(after[sites == site].mean(axis=0)).max() < 0.05
        np.testing.assert_allclose(after[sites == site].std(axis=0), fitted.sd, rtol=0.08)


def test_what_is_kept_keeps_its_slope_where_sites_differ_in_it() -> None:
    values, sites, age, _, _ = people(1200, 20, 2)
    slopes = np.linspace(-1, 1, 20)
    older = 1.5 * (sites == "C").astype(float)[:, None]  # one site scans older people
    values, age = values + older * slopes, age + older
    kept = fit_combat(values, sites, age).apply(values, sites, age)
    nothing = np.zeros((len(values), 0))
    taken = fit_combat(values, sites, nothing).apply(values, sites, nothing)

    def slope(of: Array) -> Array:
        columns = np.hstack([np.ones_like(age), age])
        return np.asarray(np.linalg.lstsq(columns, of, rcond=None)[0][1])

    np.testing.assert_allclose(slope(kept), slopes, atol=0.1)
    assert slope(taken)[-1] < 0.8  # without keeping, part of it went with the site


def test_a_site_with_few_people_is_shrunk_more() -> None:
    generator = np.random.default_rng(3)
    location = 0.5 * generator.normal(size=(3, 400))
    site = np.repeat([0, 1, 2], [100, 100, 5])
    values, sites, none = (
        location[site] + generator.normal(size=(205, 400)),
        np.array(list("ABC"))[site],
        np.zeros((205, 0)),
    )
    plain, shrunk = (fit_combat(values, sites, none, empirical_bayes=flag) for flag in (False, True))
    kept = [np.std(shrunk.gamma[index]) / np.std(plain.gamma[index]) for index in range(3)]
    assert kept[2] < 0.8 < 0.9 < min(kept[:2]) < 1.0
    spread = [np.std(np.log(shrunk.delta[index])) / np.std(np.log(plain.delta[index])) for index in range(3)]
    assert spread[2] < 0.5
    truth = (location - np.array([100, 100, 5]) / 205 @ location) / plain.sd  # the grand mean is over people
    errors = [float(np.mean((fitted.gamma[2] - truth[2]) ** 2)) for fitted in (plain, shrunk)]
    assert errors[1] < 0.9 * errors[0]


def test_two_sites_swapped_are_symmetric() -> None:
    values, sites, age, _, _ = people(60, 15, 4, (1, 1))
    swapped = np.where(sites == "A", "B", "A")
    first, second = fit_combat(values, sites, age), fit_combat(values, swapped, age)
    np.testing.assert_allclose(first.gamma, second.gamma[::-1], atol=1e-10)
    np.testing.assert_allclose(first.delta, second.delta[::-1], atol=1e-10)
    np.testing.assert_allclose(first.gamma[0], -first.gamma[1], atol=0.1)  # equal numbers, so shrinkage alone differs
    np.testing.assert_allclose(first.apply(values, sites, age), second.apply(values, swapped, age), atol=1e-9)


def test_without_a_site_effect_little_changes() -> None:
    values, sites, age, _, _ = people(300, 200, 5, strength=0.0)
    change = fit_combat(values, sites, age).apply(values, sites, age) - values
    plain = fit_combat(values, sites, age, empirical_bayes=False).apply(values, sites, age) - values
    assert np.sqrt(np.mean(change**2)) < 0.08  # of an SD of 1; a site's mean alone is known to 0.1
    assert np.mean(change**2) < 0.5 * np.mean(plain**2)


def test_features_that_do_not_vary_pass_unchanged() -> None:
    values, sites, age, _, _ = people(40, 6, 6)
    values[:, 1] = 0.1 + 0.2  # a number whose mean rounds
    values[:, 4] = 0.0
    fitted = fit_combat(values, sites, age)
    after = fitted.apply(values, sites, age)
    assert np.array_equal(after[:, [1, 4]], values[:, [1, 4]])
    assert fitted.varying.tolist() == [True, False, True, True, False, True]
    others = fit_combat(values[:, [0, 2, 3, 5]], sites, age)
    np.testing.assert_allclose(after[:, [0, 2, 3, 5]], others.apply(values[:, [0, 2, 3, 5]], sites, age), atol=1e-12)
    assert np.array_equal(fit_combat(0 * values, sites, age).apply(0 * values, sites, age), 0 * values)


def test_a_feature_that_only_separates_the_sites_becomes_the_grand_mean() -> None:
    values, sites, age, _, _ = people(40, 6, 7, (1, 1))
    values[:, 2] = np.where(sites == "A", 3.0, 5.0)
    after = fit_combat(values, sites, age).apply(values, sites, age)
    np.testing.assert_allclose(after[:, 2], 4.0, atol=1e-9)


def test_one_feature_alone_is_not_shrunk() -> None:
    values, sites, age, _, _ = people(60, 1, 8)
    expected = reference(values, sites, age, empirical_bayes=False)
    np.testing.assert_allclose(fit_combat(values, sites, age).apply(values, sites, age), expected, atol=1e-9)


def test_each_row_stands_for_itself() -> None:
    values, sites, age, _, _ = people(60, 8, 9)
    fitted = fit_combat(values, sites, age)
    whole = fitted.apply(values, sites, age)
    np.testing.assert_allclose(fitted.apply(values[[7]], sites[[7]], age[[7]]), whole[[7]], rtol=0, atol=1e-12)


def test_a_new_site_is_estimated_from_its_people_with_all_else_fixed() -> None:
    values, sites, age, _, _ = people(2000, 30, 10, (3, 3, 1))
    old = sites != "C"
    fitted = fit_combat(values[old], sites[old], age[old])
    able = fitted.with_site(values[~old], age[~old], "C")
    assert able.sites == ("A", "B", "C")
    assert able.num_people.tolist() == [*fitted.num_people, (~old).sum()]
    np.testing.assert_array_equal(able.gamma[:2], fitted.gamma)
    np.testing.assert_array_equal(able.coefficients, fitted.coefficients)
    after = able.apply(values, sites, age) - able.expected(age)
    assert np.abs(after[~old].mean(axis=0)).max() < 0.05
    np.testing.assert_allclose(after[~old].std(axis=0), fitted.sd, rtol=0.08)
    with pytest.raises(UserError, match="site A was in the fit already"):
        fitted.with_site(values[~old], age[~old], "A")
    with pytest.raises(UserError, match="site C has 1 people"):
        fitted.with_site(values[~old][:1], age[~old][:1], "C")


def test_bad_input_is_a_sentence() -> None:
    values, sites, age, _, _ = people(30, 5, 11)
    with pytest.raises(UserError, match="age is the same for everybody"):
        fit_combat(values, sites, np.full((30, 1), 70.0), names=["age"])
    ill = (sites == "B").astype(float)[:, None]
    with pytest.raises(UserError, match="diagnosis does not vary within any site"):
        fit_combat(values, sites, np.hstack([age, ill]), names=["age", "diagnosis"])
    with pytest.raises(UserError, match="months follows from the sites and the other columns"):
        fit_combat(values, sites, np.hstack([age, 12 * age + ill]), names=["age", "months"])
    with pytest.raises(UserError, match="site Z has 1 person"):
        fit_combat(values, np.append(sites[:-1], "Z"), age)
    with pytest.raises(UserError, match="values of 1 of 30 people are not finite"):
        fit_combat(np.where(np.arange(30)[:, None] == 3, np.nan, values), sites, age)
    with pytest.raises(UserError, match="6 people are too few for 3 sites and 3 kept columns"):
        fit_combat(values[:6], sites[:6], np.random.default_rng(0).normal(size=(6, 3)))
    with pytest.raises(UserError, match="site Q is not among those"):
        fit_combat(values, sites, age).apply(values[:1], np.array(["Q"]), age[:1])


def test_a_class_at_one_site_only_can_be_kept_where_others_are_there_too() -> None:
    values, sites, _, _, _ = people(60, 5, 12)
    ill = ((sites == "B") & (np.arange(60) % 2 == 0)).astype(float)[:, None]
    values = values + 3.0 * ill
    after = fit_combat(values, sites, ill).apply(values, sites, ill)
    at = sites == "B"
    assert (after[at & (ill[:, 0] == 1)].mean() - after[at & (ill[:, 0] == 0)].mean()) > 2.0


def test_groups_of_features_are_shrunk_each_by_itself() -> None:
    values, sites, age, _, _ = people(60, 12, 13)
    values[:, :5] *= 40.0
    whole = fit_combat(values, sites, age, blocks=(5, 7))
    parts = [fit_combat(values[:, chosen], sites, age) for chosen in (slice(0, 5), slice(5, 12))]
    np.testing.assert_allclose(whole.gamma, np.hstack([part.gamma for part in parts]), atol=1e-12)
    assert not np.allclose(whole.gamma, fit_combat(values, sites, age).gamma, atol=1e-3)
    few = sites == "A"
    able = fit_combat(values[~few], sites[~few], age[~few], blocks=(5, 7)).with_site(values[few], age[few], "A")
    part = fit_combat(values[~few, 5:], sites[~few], age[~few]).with_site(values[few, 5:], age[few], "A")
    np.testing.assert_allclose(able.delta[:, 5:], part.delta, atol=1e-12)
