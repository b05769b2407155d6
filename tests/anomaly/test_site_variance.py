"""Factors of the residual SD per site: recovered where sites differ, 1 where they do not, honest about few people."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.anomaly.calibration.normative import z_scores
from gen3d.anomaly.calibration.site_variance import SiteVariance, fit_site_variance, some_voxels
from tests.anomaly.direct_fit import fit_normative

VOXELS = 2000
BETWEEN_PEOPLE = 0.5


def two_sites(
    num_a: int, num_b: int, ratio: float, seed: int, people_differ: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]]:
    """Values of people of sites a and b, with a shift and `ratio` times the SD at b; `people_differ` is the SD of the
    logarithm of a person's mean square."""
    rng = np.random.default_rng(seed)
    sites = np.array(["a"] * num_a + ["b"] * num_b)
    sd = np.sqrt(8 / rng.chisquare(8, VOXELS))
    shift = rng.standard_normal(VOXELS)
    scale = np.where(sites == "b", ratio, 1.0) * np.exp(0.5 * people_differ * rng.standard_normal(len(sites)))
    values = (sites == "b")[:, None] * shift + rng.standard_normal((len(sites), VOXELS)) * sd * scale[:, None]
    return values, np.column_stack([np.ones(len(sites)), np.where(sites == "a", 1.0, -1.0)]), sites


def share_beyond(z: NDArray[np.float32]) -> float:
    return float((np.abs(z) > 1.96).mean())


@pytest.mark.parametrize("num_b", [8, 20])
def test_sites_of_different_scatter_are_both_calibrated_with_factors_and_not_without(num_b: int) -> None:
    num = 20 + num_b
    values, design, sites = two_sites(num + 20, num + 20, 1.5, seed=num_b)
    controls = np.r_[0:20, num + 20 : num + 20 + num_b]
    new = np.setdiff1d(np.arange(len(values)), controls)
    factors = fit_site_variance(values[controls], design[controls], sites[controls])
    assert factors.factors["b"] / factors.factors["a"] == pytest.approx(1.5, rel=0.05)
    for found, low, high in ((factors, (0.04, 0.06), (0.04, 0.06)), (SiteVariance({}, {}), (0.0, 0.035), (0.075, 0.3))):
        model = fit_normative(values[controls], design[controls], scale=found.of(sites[controls]))
        z = z_scores(model, values[new], design[new], found.of(sites[new]))
        assert low[0] < share_beyond(z[sites[new] == "a"]) < low[1]
        assert high[0] < share_beyond(z[sites[new] == "b"]) < high[1]


def test_equal_sites_keep_a_factor_close_to_one_although_people_differ() -> None:
    ratios = []
    for seed in range(40):
        found = fit_site_variance(*two_sites(12, 12, 1.0, seed, BETWEEN_PEOPLE)).factors
        ratios.append(found["b"] / found["a"])
    assert np.mean(np.abs(np.log(ratios)) < 0.05) > 0.6
    assert np.quantile(np.abs(np.log(ratios)), 0.95) < 0.3


def test_fewer_people_are_shrunk_more() -> None:
    """Three sites, the third with twice the SD: with 3 people it is believed less than with 30."""

    def mean_factor(num: int) -> float:
        logs = []
        for seed in range(30):
            values, design, sites = two_sites(30, 30 + num, 1.0, seed, 1.2)
            sites[60:] = "c"
            values[60:] *= 2
            columns = np.column_stack([design[:, 0], sites == "b", sites == "c"]).astype(float)
            found = fit_site_variance(values, columns, sites).factors
            logs.append(np.log(found["c"] / (found["a"] * found["b"]) ** 0.5))
        return float(np.exp(np.mean(logs)))

    few, many = mean_factor(3), mean_factor(30)
    assert 1.1 < few < 0.95 * many
    assert many == pytest.approx(2, rel=0.1)


def test_where_nothing_can_be_estimated_the_factor_is_one() -> None:
    values, design, sites = two_sites(10, 2, 3.0, seed=0)
    fitted = fit_site_variance(values, design, sites)
    assert (fitted.factors, fitted.num_people) == ({"a": 1.0}, {"a": 10, "b": 2})
    one = fit_site_variance(values[:10], np.ones((10, 1)), sites[:10])
    assert one.of(["a", "b", "elsewhere"]).tolist() == [1, 1, 1]
    constant = fit_site_variance(np.ones((12, 50)), design, np.repeat(["a", "b"], 6))
    assert constant.factors == {"a": 1.0, "b": 1.0}


def test_voxels_looked_at() -> None:
    assert len(range(80)[some_voxels(80)]) == 80
    assert 2000 <= len(range(150_000)[some_voxels(150_000)]) <= 2100
