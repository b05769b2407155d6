"""Clusters are found where groups were planted, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from gen3d.stratify.agreement import adjusted_rand_index, jaccard
from gen3d.stratify.mixture import fit_mixtures, one_group_bic, starting_centres
from gen3d.stratify.one_group import nearest_unimodal, one_group
from gen3d.stratify.structure import Structure, best, fewest, find_structure, solve

Floats = NDArray[np.float64]
DIMENSIONS = 8


def rotated(values: Floats) -> Floats:
    """Principal components of a cohort."""
    left, singular, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    return np.asarray(left * singular)


def planted(num_groups: int, num: int = 120, distance: float = 5.0, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    """Groups at equal distances (in SD within a group) and the group of everybody."""
    generator = np.random.default_rng(seed)
    groups = np.arange(num) % num_groups
    corners = distance * np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    values = generator.standard_normal((num, DIMENSIONS))
    values[:, :2] += corners[groups]
    return rotated(values), groups


def of_one_group(kind: str, num: int = 120, seed: int = 0) -> Floats:
    """Cohorts without groups that are easily cut into clusters."""
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((num, DIMENSIONS))
    place = generator.uniform(-1, 1, num)
    if kind == "skewed":
        return rotated(np.exp(0.7 * normal))
    if kind == "heavy tails":
        return rotated(normal / np.sqrt(generator.chisquare(4, num) / 4)[:, None])
    if kind == "gradient":
        normal[:, 0] = 12 * place
    if kind == "bent gradient":
        normal *= 0.8
        normal[:, 0] += 4 * place
        normal[:, 1] += 3 * place**2
    return rotated(normal)


def found_in(values: Floats, method: str = "mixture", **settings: int) -> Structure:
    settings = {"max_clusters": 3, "num_bootstraps": 30, "num_null": 20, "seed": 0} | settings
    return find_structure(values, method, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_groups", [2, 3])
def test_planted_groups_are_found(num_groups: int) -> None:
    values, groups = planted(num_groups)
    structure = found_in(values, num_null=40)
    assert structure.is_stable, structure.reasons
    assert structure.solution is not None
    assert structure.stability is not None
    assert structure.solution.num_clusters == num_groups
    assert adjusted_rand_score(structure.solution.labels, groups) > 0.9
    assert (structure.stability.clusters > 0.85).all()
    assert structure.stability.agreement.mean() > 0.85
    assert np.nanmean(structure.stability.consensus) > 0.9
    by_name = structure.statistics.set_index("statistic")
    assert by_name.loc["separation", "p"] == pytest.approx(1 / 41)
    assert by_name.loc["bootstrap_ari", "value"] > by_name.loc["bootstrap_ari", "null_95"]
    assert structure.solutions["chosen"].sum() == 1
    assert structure.solutions["k"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy tails", "gradient", "bent gradient"])
def test_cohorts_without_groups_have_no_structure(kind: str) -> None:
    found = [found_in(of_one_group(kind, seed=seed), num_bootstraps=20, seed=seed).is_stable for seed in (1, 2)]
    assert found == [False, False]


def test_density_finds_groups_and_nothing_in_a_cloud() -> None:
    values, groups = planted(2, num=80, distance=9.0)
    structure = found_in(values[:, :3], "density", num_bootstraps=20)
    assert structure.is_stable, structure.reasons
    assert structure.solution is not None
    inside = structure.solution.labels >= 0
    assert adjusted_rand_score(structure.solution.labels[inside], groups[inside]) > 0.95
    assert structure.solution.mixture is None
    assert not found_in(of_one_group("normal", num=80)[:, :3], "density", num_bootstraps=20).is_stable


def test_the_same_seed_gives_the_same_result() -> None:
    values, _ = planted(2, num=60)
    first, second = (found_in(values, seed=3, num_bootstraps=20) for _ in range(2))
    assert first.statistics.equals(second.statistics)
    assert first.solutions.equals(second.solutions)


def test_a_cluster_of_few_people_does_not_count() -> None:
    values = np.random.default_rng(0).standard_normal((100, 4))
    values[:4, 0] += 30
    structure = found_in(rotated(values), num_bootstraps=20)
    assert not structure.is_stable
    assert fewest(100) == 5
    assert fewest(1000) == 50
    chosen = best(solve(rotated(values), "mixture", 4, np.random.default_rng(0)), 100)
    assert chosen is None or chosen.smallest >= 5


def test_the_mixture_is_that_of_the_reference_where_every_dimension_tells() -> None:
    """With groups far apart in both dimensions, the means, shares and likelihood are those of scikit-learn's fit."""
    generator = np.random.default_rng(4)
    values = generator.standard_normal((200, 2)) + np.where(np.arange(200) % 4 == 0, 6.0, 0.0)[:, None]
    starts = starting_centres(values, 2, 4, generator)
    fits = fit_mixtures(values, np.ones((len(starts), 200)), starts, num_steps=100)
    index = int(fits.bic.argmin())
    reference = GaussianMixture(2, covariance_type="tied", random_state=0, tol=1e-9).fit(values)
    order = np.argsort(fits.means[index][:, 0])
    expected = np.argsort(reference.means_[:, 0])
    np.testing.assert_allclose(fits.means[index][order], reference.means_[expected], atol=0.02)
    np.testing.assert_allclose(fits.weights[index][order], reference.weights_[expected], atol=1e-3)
    np.testing.assert_allclose(fits.variances[index], np.diag(reference.covariances_), rtol=0.01)
    likelihood = -0.5 * (fits.bic[index] - (2 + 4 + 1) * np.log(200))
    assert likelihood == pytest.approx(
        200 * reference.score(values), abs=1.5
    )  # it has no covariance between dimensions
    probabilities = fits.mixture(index).probabilities(values)
    np.testing.assert_allclose(probabilities.T, fits.probabilities[index], atol=1e-6)


def test_dimensions_that_do_not_tell_share_their_mean() -> None:
    values, _ = planted(2, num=200)
    fits = fit_mixtures(values, np.ones((DIMENSIONS, 200)), starting_centres(values, 2, 0, np.random.default_rng(0)))
    chosen = fits.mixture(int(fits.bic.argmin()))
    assert chosen.differing.tolist() == [True] + [False] * (DIMENSIONS - 1)
    np.testing.assert_allclose(chosen.means[:, 1:], np.zeros((2, DIMENSIONS - 1)), atol=1e-9)
    assert fits.bic.min() < one_group_bic(values)


def test_whole_weights_are_copies_of_people() -> None:
    values, _ = planted(2, num=60)
    counts = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60))
    start = starting_centres(values, 2, 0, np.random.default_rng(0))[:1]
    copies = np.repeat(values, counts, axis=0)
    copied = fit_mixtures(copies, np.ones((1, 60)), start, num_steps=200)
    weighted = fit_mixtures(values, counts[None].astype(float), start, num_steps=200)
    np.testing.assert_allclose(weighted.means, copied.means, atol=1e-6)
    assert weighted.bic[0] == pytest.approx(copied.bic[0])


def test_agreement_is_that_of_the_reference() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 3, 80), generator.integers(0, 4, 80)
    second[:50] = first[:50]
    assert adjusted_rand_index(first, second) == pytest.approx(adjusted_rand_score(first, second))
    assert adjusted_rand_index(first, first) == 1
    assert adjusted_rand_index(np.zeros(5, dtype=int), np.zeros(5, dtype=int)) == 1
    assert jaccard(np.array([0, 0, 1, 1]), np.array([1, 1, 1, 0])).tolist() == pytest.approx([2 / 3, 1 / 2])


def test_the_nearest_unimodal_distribution_keeps_skew_and_fills_valleys() -> None:
    generator = np.random.default_rng(0)
    one, two = (
        generator.exponential(size=200),
        np.concatenate([generator.normal(-4, 1, 100), generator.normal(4, 1, 100)]),
    )
    assert nearest_unimodal(one).distance < 0.05 < 0.15 < nearest_unimodal(two).distance
    evenly = np.arange(50.0)
    assert nearest_unimodal(evenly).distance == pytest.approx(0, abs=1e-9)
    filled = nearest_unimodal(two)
    density = np.diff(filled.cumulative) / np.diff(filled.values)
    peak = int(density.argmax())
    assert (np.diff(density[: peak + 1]) >= -1e-9).all()
    assert (np.diff(density[peak:]) <= 1e-9).all()


def test_a_null_cohort_has_the_spread_and_skew_of_the_original() -> None:
    values = of_one_group("skewed", num=300)
    null = one_group(values)
    drawn = null.draw(300, np.random.default_rng(0))
    assert drawn.shape == values.shape
    np.testing.assert_allclose(drawn.std(axis=0), values.std(axis=0), rtol=0.35)
    correlation = np.corrcoef(drawn, rowvar=False) - np.eye(DIMENSIONS)
    assert np.abs(correlation).max() < 1e-9
