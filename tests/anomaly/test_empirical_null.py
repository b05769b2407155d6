from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gen3d.anomaly.calibration.empirical_null import count, fit_null_map
from gen3d.maths.significance import fdr, p_values


def test_a_normal_pool_is_left_alone() -> None:
    z = np.random.default_rng(0).standard_normal(400_000)
    mapped = fit_null_map(count(z))(np.linspace(-4, 4, 9))
    np.testing.assert_allclose(mapped, np.linspace(-4, 4, 9), atol=0.2)


@pytest.mark.parametrize("dof", [4, 8])
def test_heavy_tails_become_normal(dof: int) -> None:
    generator = np.random.default_rng(1)
    null_map = fit_null_map(count(generator.standard_t(dof, 1_000_000)))
    fresh = null_map(generator.standard_t(dof, 1_000_000))
    assert fresh.std() == pytest.approx(1, abs=0.01)
    for level in (1.96, 3.0, 4.0):
        assert (np.abs(fresh) > level).mean() == pytest.approx(2 * stats.norm.sf(level), rel=0.25)
    beyond = null_map(np.array([stats.t.isf(1e-7, dof)]))[0]
    assert beyond == pytest.approx(stats.norm.isf(1e-7), abs=0.9)


def test_skew_and_shift_are_taken_out() -> None:
    generator = np.random.default_rng(2)
    null_map = fit_null_map(count(generator.gumbel(0.3, 0.7, 500_000)))
    fresh = null_map(generator.gumbel(0.3, 0.7, 500_000))
    assert abs(fresh.mean()) < 0.01
    assert stats.skew(fresh) == pytest.approx(0, abs=0.03)


def test_monotone_and_finite() -> None:
    null_map = fit_null_map(count(np.random.default_rng(3).standard_t(3, 5_000)))
    mapped = null_map(np.linspace(-100, 100, 20_001))
    assert np.isfinite(mapped).all()
    assert (np.diff(mapped) >= 0).all()
    assert mapped[-1] > 3.5


def test_fdr_in_healthy_brains_with_heavy_tails() -> None:
    """Without the map most of these null brains have a significant voxel, with it hardly any."""
    generator = np.random.default_rng(4)
    null_map = fit_null_map(count(generator.standard_t(7, (20, 30_000))))
    brains = generator.standard_t(7, (60, 30_000))
    plain = np.mean([fdr(p_values(brain), 0.05).any() for brain in brains])
    mapped = np.mean([fdr(p_values(null_map(brain)), 0.05).any() for brain in brains])
    assert plain > 0.8
    assert mapped < 0.2
