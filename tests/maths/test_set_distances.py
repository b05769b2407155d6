"""Distances between sets against closed forms, and their floor where there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.stats import kstest

from gen3d.maths import set_distances
from gen3d.maths.set_distances import (
    Pool,
    compare_sets,
    half_draws,
    median_distance,
)

Float = NDArray[np.float64]


def distance(metric: str, first: Float, second: Float, bandwidth: float = 1.0) -> float:
    """Of two samples [n, d] and [m, d]."""
    pool = Pool(np.concatenate([first, second])[:, None], bandwidth)
    measured: float = getattr(pool, metric)(np.arange(len(first)), np.arange(len(first), len(first) + len(second)))
    return measured


def with_moments(generator: np.random.Generator, num: int, mean: Float, covariance: Float) -> Float:
    """A sample whose mean and covariance are exactly these."""
    raw = generator.standard_normal((num, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return np.asarray(white @ np.linalg.cholesky(covariance).T + mean)


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    first, second = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    root = generator.standard_normal((3, 3))
    a, b = root @ root.T + np.eye(3), np.diag([0.5, 2.0, 3.0])
    expected = np.sum((first - second) ** 2) + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    measured = distance("fid", with_moments(generator, 40, first, a), with_moments(generator, 25, second, b))
    assert measured == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_with_more_dimensions_than_scans() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((6, 50)), 1.5 * generator.standard_normal((9, 50)) + 0.3
    a, b = np.cov(x.T), np.cov(y.T)
    direct = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a) + np.trace(b)
    direct -= 2 * np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    assert distance("fid", x, y) == pytest.approx(direct, rel=1e-6)
    assert distance("fid", x, x) == pytest.approx(0, abs=1e-9)


def test_kid_is_the_sum_over_pairs() -> None:
    generator = np.random.default_rng(2)
    x, y = generator.standard_normal((5, 4)), generator.standard_normal((7, 4)) + 1

    def kernel(p: Float, q: Float) -> float:
        return float((p @ q / 4 + 1) ** 3)

    within = np.mean([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    outside = np.mean([kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    across = np.mean([kernel(p, q) for p in x for q in y])
    assert distance("kid", x, y) == pytest.approx(within + outside - 2 * across)


def test_mmd_of_gaussians_tends_to_the_closed_form() -> None:
    """E k(x, y) = (h / s)^d exp(-delta^2 / (2 s^2)) with s^2 = h^2 + var x + var y for isotropic Gaussians."""
    generator = np.random.default_rng(3)
    d, h, shift, width = 2, 1.3, 0.8, 1.5
    x, y = generator.standard_normal((2500, d)), width * generator.standard_normal((2500, d)) + np.array([shift, 0.0])

    def mean_kernel(variance: float, delta: float) -> float:
        s2 = h**2 + variance
        return float((h**2 / s2) ** (d / 2) * np.exp(-(delta**2) / (2 * s2)))

    expected = mean_kernel(2, 0) + mean_kernel(2 * width**2, 0) - 2 * mean_kernel(1 + width**2, shift)
    assert distance("mmd", x, y, h) == pytest.approx(expected, rel=0.05)


def test_median_distance() -> None:
    assert median_distance([[0.0], [1.0], [3.0]]) == 2
    assert median_distance([[2.0], [2.0]]) == 1


def test_several_vectors_per_scan_are_one_scan() -> None:
    """Twins of every vector change no mean over pairs of scans; a scan is never compared with itself."""
    generator = np.random.default_rng(4)
    single = generator.standard_normal((8, 1, 3))
    twins = Pool(np.repeat(single, 2, axis=1), 1.1)
    plain = Pool(single, 1.1)
    a, b = np.arange(4), np.arange(4, 8)
    assert twins.kid(a, b) == pytest.approx(plain.kid(a, b))
    assert twins.mmd(a, b) == pytest.approx(plain.mmd(a, b))


def test_permutation_p_is_uniform_under_the_null_and_small_for_a_shift() -> None:
    generator = np.random.default_rng(5)
    rows = np.arange(12), np.arange(12, 24)
    nulls = []
    for seed in range(120):
        features = generator.standard_normal((24, 1, 3))
        nulls.append(Pool(features, median_distance(features[:, 0])).permuted(*rows, 99, seed))
    assert kstest(nulls, "uniform").pvalue > 0.01
    features = generator.standard_normal((24, 1, 3))
    features[12:] += 1.5
    assert Pool(features, median_distance(features[:, 0])).permuted(*rows, 199, 0) == pytest.approx(1 / 200)


@pytest.mark.parametrize("metric", ["fid", "kid", "mmd"])
def test_floor_and_value_agree_under_the_null_and_part_for_a_shift(metric: str) -> None:
    generator = np.random.default_rng(6)
    features = generator.standard_normal((64, 1, 5))
    features[48:] += 1.0
    pool = Pool(features, median_distance(features[:32, 0]))
    sets = {"same": (np.arange(32, 48), False), "shifted": (np.arange(48, 64), False), "own": (np.arange(32), True)}
    floor, found = compare_sets(getattr(pool, metric), half_draws(32, 16, 100, seed=0), sets)
    assert floor.num == 16
    assert found["same"].excess.low < 0 < found["same"].excess.high
    assert found["shifted"].excess.low > 0
    assert found["shifted"].value.value > floor.high
    assert found["own"].value == floor  # what is made from the other half is the other half itself


def test_a_set_without_variety_is_under_the_floor_of_the_fid_and_above_that_of_the_mmd() -> None:
    """What the FID of few scans must not be trusted with."""
    generator = np.random.default_rng(7)
    features = generator.standard_normal((60, 1, 200))
    features[40:] *= 0.1
    pool = Pool(features, median_distance(features[:40, 0]))
    draws, sets = half_draws(40, 20, 40, seed=0), {"flat": (np.arange(40, 60), False)}
    assert compare_sets(pool.fid, draws, sets)[1]["flat"].excess.high < 0
    assert compare_sets(pool.mmd, draws, sets)[1]["flat"].excess.low > 0


def test_halves_are_disjoint_and_of_one_size() -> None:
    for draw in half_draws(11, 40, 20, seed=3):
        assert len(draw.real) == len(draw.other) == len(draw.positions) == 5
        assert not set(draw.real) & set(draw.other)
        assert len(set(draw.positions)) == 5
    with pytest.raises(ValueError, match="leave 1 in each half"):
        half_draws(3, 10, 1, seed=0)


def test_kernels_made_in_blocks_are_those_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(5).standard_normal((37, 3, 6))
    first, second = np.arange(15), np.arange(15, 37)
    whole = Pool(features, 1.3)
    values = [whole.kid(first, second), whole.mmd(first, second)]
    monkeypatch.setattr(set_distances, "AT_ONCE", 10)
    blocks = Pool(features, 1.3)
    assert [blocks.kid(first, second), blocks.mmd(first, second)] == pytest.approx(values, rel=1e-12)


def test_the_median_of_many_vectors_is_that_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).standard_normal((3000, 5))
    whole = median_distance(values)
    monkeypatch.setattr(set_distances, "MOST_IN_MEDIAN", 1000)
    assert median_distance(values) == pytest.approx(whole, rel=0.02)
    assert median_distance(values[:1000]) != median_distance(values)
