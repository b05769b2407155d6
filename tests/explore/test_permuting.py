"""Permutation over people: the slope is least squares', the null stays null at its rate, and age is not taken for the label."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.explore import permuting
from gen3d.explore.permuting import Effects, SomeRows, corrected_for_all, effects_of, shuffled

NONE = np.zeros((0, 0))


def run(
    readings: np.ndarray,
    label: np.ndarray,
    strata: np.ndarray | None = None,
    age: np.ndarray | None = None,
    num: int = 99,
) -> Effects:
    covariates = np.zeros((len(label), 0)) if age is None else (age - age.mean())[:, None]
    bins = np.zeros(len(label), np.int64) if strata is None else strata
    return effects_of(readings, shuffled(label.astype(float), bins, covariates, num, (0,)))


def test_slope_t_and_sd_are_those_of_least_squares() -> None:
    generator = np.random.default_rng(0)
    age, label = generator.uniform(50, 80, 30), (np.arange(30) % 2).astype(float)
    bins = (age // 10).astype(np.int64)
    readings = generator.standard_normal((30, 5)) + 0.1 * age[:, None] + np.outer(label, np.arange(5))
    found = run(readings, label, bins, age)
    design = np.column_stack([bins[:, None] == np.unique(bins)[None], age, label]).astype(float)
    fit, rest, *_ = np.linalg.lstsq(design, readings, rcond=None)
    sd = np.sqrt(rest / (30 - design.shape[1]))
    error = sd * np.sqrt(np.linalg.inv(design.T @ design)[-1, -1])
    np.testing.assert_allclose(found.slope, fit[-1], rtol=1e-9)
    np.testing.assert_allclose(found.sd, sd, rtol=1e-9)
    np.testing.assert_allclose(found.t, fit[-1] / error, rtol=1e-9)


def test_p_is_corrected_by_the_largest_t_of_every_shuffle_and_never_0() -> None:
    generator = np.random.default_rng(1)
    label = np.arange(20) % 2
    readings = generator.standard_normal((20, 6))
    readings[:, 3] += 8.0 * label
    found = run(readings, label)
    assert found.p_fwe[3] == pytest.approx(1 / 100)
    assert np.delete(found.p_fwe, 3).min() > 0.05
    alone = run(readings[:, :1], label)
    assert found.p_fwe[0] > alone.p_fwe[0], "of six readings, not of one"
    np.testing.assert_array_equal(np.abs(found.t) > found.critical, found.p_fwe <= 0.05)


def test_too_few_permutations_leave_no_critical_value() -> None:
    readings = np.random.default_rng(2).standard_normal((12, 3))
    assert np.isinf(run(readings, np.arange(12) % 2, num=18).critical)
    assert np.isfinite(run(readings, np.arange(12) % 2, num=19).critical)


def test_a_null_stays_null_at_the_nominal_rate() -> None:
    rejected = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        shared = generator.standard_normal((24, 1))
        readings = generator.standard_normal((24, 30)) + shared  # voxels go together
        age = generator.uniform(60, 80, 24)
        found = run(readings, generator.permutation(np.arange(24) % 2), (age // 5).astype(np.int64), age)
        rejected += found.smallest_p <= 0.05
    assert 3 <= rejected <= 20, "5 % of 200 is 10, and 95 % of repetitions lie between 4 and 16"


def test_age_is_not_taken_for_the_label() -> None:
    plain = adjusted = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        age = generator.uniform(55, 85, 60)
        label = generator.random(60) < 1 / (1 + np.exp(-(age - 70) / 4))  # the ill are older
        readings = generator.standard_normal((60, 10)) + 0.12 * (age - 70)[:, None]
        plain += run(readings, label).smallest_p <= 0.05
        adjusted += run(readings, label, (age // 5).astype(np.int64), age).smallest_p <= 0.05
    assert plain >= 50
    assert adjusted <= 8


def test_maps_that_go_together_cost_little_and_the_rate_holds_over_all() -> None:
    label, alone, twice, independent = np.arange(24) % 2, [], [], 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        shuffles = shuffled(label.astype(float), np.zeros(24, np.int64), np.zeros((24, 0)), 99, (seed,))
        maps = [effects_of(generator.standard_normal((24, 20)), shuffles) for _ in range(4)]
        alone.append(corrected_for_all(maps[0].p_fwe, maps[:1]))
        twice.append(corrected_for_all(maps[0].p_fwe, [maps[0], maps[0]]))
        smallest = min(effects.smallest_p for effects in maps)
        independent += corrected_for_all(np.array([smallest]), maps)[0] <= 0.05
        np.testing.assert_allclose(alone[-1], maps[0].p_fwe)
    np.testing.assert_allclose(alone, twice)
    assert 0 < independent <= 12


def test_blocks_and_places_on_disk_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = np.random.default_rng(3).standard_normal((18, 11))
    label, rows = np.arange(18) % 2, np.arange(18)
    whole = run(readings, label)
    monkeypatch.setattr(permuting, "BLOCK", 4)
    shuffles = shuffled(label.astype(float), np.zeros(18, np.int64), np.zeros((18, 0)), 99, (0,))
    parts = effects_of(SomeRows(readings, rows), shuffles)
    np.testing.assert_array_equal(whole.p_fwe, parts.p_fwe)
    np.testing.assert_allclose(whole.t, parts.t, rtol=1e-12)


def test_what_does_not_vary_is_no_finding() -> None:
    readings = np.random.default_rng(4).standard_normal((16, 3))
    readings[:, 1] = 0.7
    found = run(readings, np.arange(16) % 2)
    assert found.t[1] == 0
    assert found.p_fwe[1] == 1


def test_levels_that_share_no_age_bin_are_not_compared() -> None:
    label = (np.arange(16) >= 8).astype(float)
    shuffles = shuffled(label, label.astype(np.int64), np.zeros((16, 0)), 99, (0,))
    assert not shuffles.possible
    assert effects_of(np.random.default_rng(5).standard_normal((16, 3)), shuffles).smallest_p == 1


def test_the_smallest_p_counts_the_different_shuffles() -> None:
    label = np.array([0.0, 0, 1, 1, 0, 1])
    shuffles = shuffled(label, np.array([0, 0, 0, 0, 1, 1]), np.zeros((6, 0)), 999, (0,))
    assert shuffles.smallest_p == pytest.approx(1 / (6 * 2))
