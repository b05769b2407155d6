"""False discovery rate, clusters, conformal p and scores against references and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gen3d.maths.significance import (
    burden,
    clusters,
    conformal_p,
    conformal_p_columns,
    conformal_resolution,
    fdr,
    fdr_adjust,
    heaviest_cluster,
    p_values,
    percentile,
)


def test_p_values_are_two_sided() -> None:
    np.testing.assert_allclose(p_values([0.0, 1.959964, -1.959964]), [1, 0.05, 0.05], atol=1e-7)
    assert p_values(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("num_effects", [0, 50])
def test_benjamini_hochberg_equals_scipy(num_effects: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(40, 25))
    p.flat[:num_effects] *= 1e-4
    p.flat[10:20] = p.flat[10]
    reference = stats.false_discovery_control(p.ravel(), method="bh").reshape(p.shape)
    np.testing.assert_allclose(fdr_adjust(p), reference, rtol=1e-12)
    np.testing.assert_array_equal(fdr(p, 0.05), reference <= 0.05)
    assert fdr(p, 0.05).any() == (num_effects > 0)


def test_a_missing_p_is_no_test_and_stays_missing() -> None:
    adjusted = fdr_adjust([0.01, np.nan, 0.04])
    np.testing.assert_allclose(adjusted, [0.02, np.nan, 0.04])
    assert fdr(np.array([0.01, 0.04])).tolist() == [True, True]


def test_empty_tables_are_fine() -> None:
    assert fdr_adjust([]).shape == (0,)
    assert fdr(np.array([])).shape == (0,)


def test_clusters_are_found_in_millimetres_and_signs_stay_apart() -> None:
    z = np.zeros((20, 20, 20))
    z[2:5, 2:5, 2:5] = 4
    z[3, 4, 2] = 9
    z[5:7, 2:4, 2:4] = -5
    z[15, 15, 15] = 12
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    found = clusters(np.abs(z) > 3, z, min_voxels=5, affine=affine)
    assert [(c.label, c.sign, c.num_voxels) for c in found] == [(1, 1, 27), (2, -1, 8)]
    assert found[0].volume_ml == pytest.approx(27 * 12 / 1000)
    assert found[0].peak_z == 9
    assert found[0].peak_mm == (10 - 6, 20 + 8, 30 + 6)
    assert found[0].centre_mm == (10 - 6, 20 + 6, 30 + 9)
    assert found[1].peak_z == -5


def test_diagonal_neighbours_are_one_cluster() -> None:
    z = np.zeros((4, 4, 4))
    z[0, 0, 0] = z[1, 1, 1] = 5
    assert len(clusters(z > 3, z, 1, np.eye(4))) == 1


def test_conformal_p_counts_ties_and_has_a_resolution() -> None:
    p = conformal_p([1, 2, 2, 3], [0, 2, 3.5, np.nan])
    np.testing.assert_allclose(p, [1, 4 / 5, 1 / 5, np.nan])
    assert conformal_resolution(19) == pytest.approx(0.05)
    assert conformal_p(np.arange(18), [1e9])[0] == conformal_resolution(18) > 0.05


def test_conformal_p_is_valid_under_the_null() -> None:
    scores = np.random.default_rng(1).gamma(2, size=(4000, 40))
    p = np.array([conformal_p(row[:-1], row[-1:])[0] for row in scores])
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.011)


def test_burden_is_the_mean_of_the_top_share() -> None:
    z = np.append(np.zeros(95), [-10, 8, 6, 4, 2])
    assert burden(z) == pytest.approx(6.0)
    assert burden(z, fraction=0.01) == pytest.approx(10.0)
    assert np.isnan(burden(np.array([])))


def test_percentile_counts_ties_half() -> None:
    np.testing.assert_allclose(percentile([0, 2, 5], [1, 2, 3, 4]), [0, 37.5, 100])
    assert np.isnan(percentile([1.0], [])).all()


def test_conformal_p_of_columns_equals_that_of_each_column() -> None:
    rng = np.random.default_rng(5)
    reference, scores = rng.integers(0, 9, (25, 6)).astype(float), rng.integers(0, 9, 6).astype(float)
    scores[2] = np.nan
    expected = [conformal_p(reference[:, i], scores[i : i + 1])[0] for i in range(6)]
    np.testing.assert_array_equal(conformal_p_columns(reference, scores), expected)


def test_the_heaviest_cluster_takes_corners_and_keeps_signs_apart() -> None:
    z = np.zeros((6, 6, 6))
    z[0, 0, 0] = z[1, 1, 1] = z[2, 2, 2] = 4.0
    z[3, 3, 3] = -4.0
    z[5, 5, 4] = z[5, 5, 5] = -3.05
    assert heaviest_cluster(z, 3.1) == pytest.approx(2.7)
    assert heaviest_cluster(-z, 3.1) == pytest.approx(2.7)
    assert heaviest_cluster(z, 3.0) == pytest.approx(3.0)
    assert heaviest_cluster(z, 4.5) == 0
    assert clusters(np.abs(z) > 3.1, z, 1, np.eye(4))[0].mass(3.1) == pytest.approx(2.7)
    z[5, 0, 0] = -9.0  # one voxel, but heavier than three
    assert heaviest_cluster(z, 3.1) == pytest.approx(5.9)
