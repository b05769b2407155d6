"""A norm at a site that it has not seen: honest with three controls, near the truth with many, whatever the site is like."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gen3d.anomaly.calibration.normative import NormativeModel, z_scores
from gen3d.anomaly.calibration.site_shift import (
    USUAL_LOG_FACTOR_VARIANCE,
    SiteShift,
    SiteSpread,
    Squares,
    fit_site_shift,
    held_out_site_z,
    site_spread,
)
from gen3d.anomaly.calibration.student import t_to_z
from tests.anomaly.direct_fit import fit_normative

VOXELS = 1500
NORM_PEOPLE, NEW_PEOPLE = 40, 40
PEOPLE_DIFFER = 0.4
Doubles = NDArray[np.float64]


class Hospital:
    """A norm of `NORM_PEOPLE` people, and a new site whose voxels differ from it by `shift` SDs and whose SD by `factor`."""

    def __init__(self, shift: float, factor: float, seed: int, voxels: int = VOXELS) -> None:
        self.rng = np.random.default_rng(seed)
        self.sd = np.sqrt(8 / self.rng.chisquare(8, voxels))
        self.effects = 0.5 * self.rng.standard_normal((2, voxels))
        self.shift = shift * self.sd * self.rng.standard_normal(voxels)
        self.factor = factor
        values, design = self.people(NORM_PEOPLE, at_new_site=False)
        self.model: NormativeModel = fit_normative(values, design)
        held_out = z_scores(self.model, *self.people(NEW_PEOPLE, at_new_site=False))
        squares = np.log(np.square(held_out, dtype=np.float64).mean(axis=1))
        self.spread = SiteSpread(shift**2, 3, float(squares.mean()), float(squares.var()), 0.1)

    def people(self, num: int, at_new_site: bool = True) -> tuple[Doubles, Doubles]:
        """Values [num, V] and covariates [num, 2] of healthy people, whose whole brains differ in scatter."""
        design = np.column_stack([np.ones(num), self.rng.uniform(-2, 2, num)])
        scatter = np.exp(0.5 * PEOPLE_DIFFER * self.rng.standard_normal(num))[:, None]
        noise = self.rng.standard_normal((num, len(self.sd))) * self.sd * scatter
        place = self.factor * noise + self.shift if at_new_site else noise
        return design @ self.effects + place, design

    def deviations(self, num: int) -> tuple[Doubles, Doubles]:
        """Deviations from the norm and covariates of people of the new site."""
        values, design = self.people(num)
        return values - self.model.expected(design), design

    def fit(self, deviations: Doubles, design: Doubles) -> SiteShift:
        return fit_site_shift(deviations, design, self.model.sd, self.model.gram_inverse, self.spread)

    def z(self, shift: SiteShift, deviations: Doubles, design: Doubles) -> NDArray[np.float32]:
        return shift.z(deviations, design, self.model.sd, self.model.gram_inverse, self.model.dof)


def share_beyond(z: NDArray[np.float32]) -> float:
    return float((np.abs(z) > 1.96).mean())


def shares(num: int, shift: float, factor: float, num_sites: int = 12) -> tuple[float, float]:
    """Mean share of |z| > 1.96 in new healthy people over sites: adapted, and by mean and SD of the controls alone."""
    adapted, plain = [], []
    for seed in range(num_sites):
        site = Hospital(shift, factor, seed)
        controls, covariates = site.deviations(num)
        people, design = site.deviations(NEW_PEOPLE)
        adapted.append(share_beyond(site.z(site.fit(controls, covariates), people, design)))
        mean = controls.mean(axis=0)
        factor_found = np.sqrt(np.mean((controls - mean) ** 2 / site.model.sd**2) * num / (num - 1))
        plain.append(share_beyond(t_to_z((people - mean) / (factor_found * site.model.sd), site.model.dof)))
    return float(np.mean(adapted)), float(np.mean(plain))


@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1.0), (0.3, 1.0), (1.0, 1.4), (3.0, 1.4), (1.0, 0.75)])
@pytest.mark.parametrize("num", [3, 5, 10])
def test_healthy_people_stay_healthy_whatever_the_site(num: int, shift: float, factor: float) -> None:
    """Few controls of a site that scatters less than others make z too small; nothing makes it too large."""
    adapted, _ = shares(num, shift, factor)
    assert (0.03 if num == 3 or (num == 5 and factor < 1) else 0.04) < adapted < 0.062


def test_without_its_uncertainty_the_shift_is_not_honest() -> None:
    """The same sites and limits fail by mean and SD of three controls, so the test above can fail."""
    adapted, plain = shares(3, 1.0, 1.0)
    assert adapted < 0.06
    assert plain > 0.08


def test_a_norm_that_is_not_adapted_calls_healthy_people_abnormal() -> None:
    site = Hospital(1.0, 1.0, 0)
    people, _ = site.deviations(NEW_PEOPLE)
    assert share_beyond(t_to_z(people / site.model.sd, site.model.dof)) > 0.12


def test_many_controls_give_the_true_shift_and_factor() -> None:
    site = Hospital(1.0, 1.4, 1)
    found = site.fit(*site.deviations(400))
    error = (found.shift - site.shift) / site.sd
    assert np.sqrt(np.mean(error**2)) < 1.15 * np.sqrt(
        1 / NORM_PEOPLE + 2.2 / 400
    )  # the norm's own error, and 1.4^2 / 400
    assert found.sd_factor == pytest.approx(1.4, rel=0.06)
    assert found.relative_variance.max() < 0.009
    assert found.weight > 0.98
    assert found.num_people == 400


@pytest.mark.parametrize(("shift", "share_of_plain"), [(0.0, 0.75), (0.3, 0.9)])
def test_shrinkage_brings_the_shift_of_few_controls_nearer_to_the_truth(shift: float, share_of_plain: float) -> None:
    shrunken, plain = [], []
    for seed in range(10):
        site = Hospital(shift, 1.0, seed)
        controls, design = site.deviations(3)
        shrunken.append(np.mean((site.fit(controls, design).shift - site.shift) ** 2 / site.sd**2))
        plain.append(np.mean((controls.mean(axis=0) - site.shift) ** 2 / site.sd**2))
    assert np.mean(shrunken) < share_of_plain * np.mean(plain)


@pytest.mark.parametrize("num", [5, 40])
def test_a_site_may_have_another_pattern_of_variance(num: int) -> None:
    """Variances that differ by a chi-squared of 12 degrees of freedom: far tails stay rare, and would not without the pattern."""
    far, without, errors = [], [], []
    for seed in range(12):
        site = Hospital(0.5, 1.0, seed)
        ratio = 12 / site.rng.chisquare(12, VOXELS)
        site.factor = np.sqrt(ratio)  # type: ignore[assignment]
        found = site.fit(*site.deviations(num))
        people, design = site.deviations(NEW_PEOPLE)
        plain = replace(found, pattern=np.ones(VOXELS, np.float32), pattern_dof=np.inf)
        far.append((np.abs(site.z(found, people, design)) > 3.29).mean())
        without.append((np.abs(site.z(plain, people, design)) > 3.29).mean())
        errors.append(np.log(found.pattern * found.sd_factor**2 / ratio).std() / np.log(ratio).std())
        assert 8 < found.pattern_dof < 30
    assert np.mean(far) < 0.0022
    assert np.mean(without) > 1.7 * np.mean(far)
    assert np.mean(errors) < (0.95 if num == 5 else 0.7)  # the SDs of the norm, of 40 people, are uncertain too


def test_no_shift_is_shrunk_by_more_than_one_standard_error() -> None:
    """A voxel that differs far more than a site usually does keeps its shift: nobody becomes abnormal for it."""
    site = Hospital(0.0, 1.0, 2)
    site.shift[:20] = 6 * site.sd[:20]
    controls, design = site.deviations(5)
    found = site.fit(controls, design)
    mean = np.median(controls, axis=0) + np.clip(
        controls - np.median(controls, axis=0),
        *np.array([-1, 1])[:, None, None] * 2.5 * found.sd_factor * site.model.sd,
    ).mean(axis=0)
    error = np.sqrt((found.sd_factor**2 * found.pattern + 0.2) / 5)
    assert (np.abs(mean - found.shift) / site.model.sd < error).all()
    people, covariates = site.deviations(NEW_PEOPLE)
    assert abs(float(site.z(found, people, covariates)[:, :20].mean())) < 0.5


def test_one_bad_scan_among_three_controls_shifts_nobody_far() -> None:
    site = Hospital(0.3, 1.0, 3)
    controls, design = site.deviations(3)
    before = site.fit(controls, design)
    controls[1, :75] += 15 * site.model.sd[:75]
    after = site.fit(controls, design)
    moved = np.abs(after.shift - before.shift)[:75] / site.model.sd[:75]
    assert 0.2 < moved.mean() < 1.5  # a mean would move by 5
    people, covariates = site.deviations(NEW_PEOPLE)
    assert share_beyond(site.z(after, people, covariates)[:, :75]) < 0.2


@pytest.mark.parametrize("num_regions", [20, 100])
def test_values_of_regions_are_honest_with_three_controls(num_regions: int) -> None:
    beyond = []
    for seed in range(60):
        site = Hospital(0.7, 1.0, seed, num_regions)
        controls, design = site.deviations(3)
        beyond.append(share_beyond(site.z(site.fit(controls, design), *site.deviations(NEW_PEOPLE))))
    assert 0.03 < np.mean(beyond) < 0.062


def test_held_out_z_of_the_controls_equals_fits_without_them_and_is_honest() -> None:
    beyond = []
    for seed in range(10):
        site = Hospital(1.0, 1.2, seed)
        controls, design = site.deviations(6)
        z = held_out_site_z(controls, design, site.model.sd, site.model.gram_inverse, site.model.dof, site.spread)
        others = np.arange(6) != 4
        without = site.fit(controls[others], design[others])
        np.testing.assert_array_equal(z[4], site.z(without, controls[[4]], design[[4]])[0])
        beyond.append(share_beyond(z))
    assert 0.035 < np.mean(beyond) < 0.065


def test_people_far_from_the_controls_of_the_site_have_wider_limits() -> None:
    """The norm's error at the covariates of the site's controls is part of their mean, so it is not counted twice."""
    site = Hospital(1.0, 1.0, 4)
    controls, design = site.deviations(10)
    design[:, 1] = 1.5
    found = site.fit(controls, design)
    like, unlike = found.leverage(np.array([[1.0, 1.5], [1.0, -1.5]]), site.model.gram_inverse)
    plain = float(design[0] @ site.model.gram_inverse @ design[0])
    assert like < 0.2 * plain < unlike


def test_the_spread_of_the_sites_of_a_norm_is_recovered() -> None:
    """Between 12 sites: variance of shifts 0.5 sd squared, of log factors 0.2; between people 0.3."""
    rng = np.random.default_rng(0)
    sd = np.exp(rng.normal(size=2000))
    errors = np.full(12, 0.1)
    found = []
    for _ in range(40):
        shifts = sd * (rng.normal(0, np.sqrt(0.5), (12, 2000)) + rng.normal(0, np.sqrt(0.1), (12, 2000)))
        logs = [Squares.of(np.exp(rng.normal(rng.normal(-0.1, np.sqrt(0.2)), np.sqrt(0.3), 15))) for _ in range(12)]
        found.append(site_spread(shifts, errors, sd, logs))
    assert found[0].num_sites == 12
    assert np.mean([one.shift_variance for one in found]) == pytest.approx(0.5, rel=0.02)
    assert np.mean([one.log_square_variance for one in found]) == pytest.approx(0.3, rel=0.05)
    expected = (11 * 0.2 + USUAL_LOG_FACTOR_VARIANCE) / 12
    assert np.mean([one.log_factor_variance for one in found]) == pytest.approx(expected, rel=0.15)
    assert np.mean([one.log_square_mean for one in found]) == pytest.approx(-0.1, abs=0.07)


def test_a_norm_of_one_site_takes_the_usual_spread() -> None:
    spread = site_spread(np.zeros((0, 50)), np.zeros(0), np.ones(50), [Squares(20, 0.0, 20.0)])
    assert spread.shift_variance == 0
    assert spread.log_factor_variance == USUAL_LOG_FACTOR_VARIANCE
    site = Hospital(1.0, 1.0, 5)
    site.spread = replace(spread, log_square_mean=site.spread.log_square_mean, log_square_variance=0.16)
    found = site.fit(*site.deviations(10))
    assert found.weight == pytest.approx(1 / (1 + 0.1), abs=0.04)  # omega is that of the new site alone


def test_equal_sites_have_no_spread() -> None:
    rng = np.random.default_rng(1)
    spread = site_spread(rng.normal(0, 0.1, (4, 500)), np.full(4, 0.02), np.ones(500), [Squares.of(np.ones(5))] * 4)
    assert spread.shift_variance == 0
    assert spread.log_square_variance == 0
    site = Hospital(0.0, 1.0, 6)
    site.spread = replace(spread, log_factor_variance=0.0)
    found = site.fit(*site.deviations(3))
    assert np.isfinite(found.shift).all()
    assert found.sd_factor > 0


def test_the_squares_of_two_groups_of_people_are_merged_without_them() -> None:
    squares = np.exp(np.random.default_rng(2).normal(size=17))
    merged = Squares.of(squares[:5]).merged(Squares.of(squares[5:]))
    assert merged == pytest.approx(Squares.of(squares))
    assert merged.scatter == pytest.approx(17 * np.var(np.log(squares)))


def test_people_whose_expectation_is_uncertain_count_as_wider() -> None:
    """A known factor of each person's SD, as of an out-of-sample prediction from covariates."""
    beyond = {"told": [], "ignored": []}
    for seed in range(8):
        site = Hospital(0.7, 1.0, seed)
        deviations, design = site.deviations(8 + NEW_PEOPLE)
        widening = np.where(np.arange(len(design)) % 2, 1.6, 1.0)
        deviations = site.shift + (deviations - site.shift) * widening[:, None]
        norm = site.model.sd, site.model.gram_inverse
        for name, known in (("told", widening), ("ignored", np.ones(len(design)))):
            shift = fit_site_shift(deviations[:8], design[:8], *norm, site.spread, known[:8])
            z = shift.z(deviations[8:], design[8:], *norm, site.model.dof, known[8:])
            beyond[name].append([share_beyond(z[half::2]) for half in (0, 1)])
    even, odd = np.mean(beyond["told"], axis=0)
    assert 0.035 < even < 0.062
    assert 0.035 < odd < 0.062
    even, odd = np.mean(beyond["ignored"], axis=0)
    assert even < 0.03
    assert odd > 0.08


def test_both_are_kept_as_json() -> None:
    site = Hospital(0.5, 1.0, 7)
    found = site.fit(*site.deviations(4))
    kept = json.loads(json.dumps(found.to_dict()))
    again = SiteShift.from_dict(kept, found.arrays)
    people, design = site.deviations(3)
    np.testing.assert_array_equal(site.z(again, people, design), site.z(found, people, design))
    certain = replace(found, dof=np.inf)
    assert SiteShift.from_dict(certain.to_dict(), found.arrays).dof == np.inf
    assert SiteSpread.from_dict(json.loads(json.dumps(site.spread.to_dict()))) == site.spread


def test_one_control_is_refused() -> None:
    site = Hospital(0.5, 1.0, 8)
    controls, design = site.deviations(3)
    with pytest.raises(ValueError, match="deviations"):
        site.fit(controls[:1], design[:1])
    with pytest.raises(ValueError, match="deviations"):
        site.fit(controls[:, :5], design)
