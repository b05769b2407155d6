"""Intervals hold what they promise, by people and by horizon, and say so where they cannot."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.forecast_errors import ERRORS
from gen3d.forecast.conformal import LEVELS, ConformalIntervals, horizon_bins, quantile_over_people
from gen3d.forecast.skill import coverage_rows, relative_gains, skill_rows

REGIONS = tuple(f"region {number}" for number in range(20))


def errors_table(
    num: int, seed: int, years: tuple[float, ...] = (1.0,), sd_per_year: float = 0.02, spread: float = 0.0
) -> pd.DataFrame:
    """Forecasts of nothing, by a model and by copying forward; what is observed grows with the horizon. Heavy tails."""
    generator, rows = np.random.default_rng(seed), []
    for person in range(num):
        for place, year in enumerate(years):
            own = sd_per_year * year * generator.lognormal(0, 0.4)
            observed = own * generator.standard_t(4, len(REGIONS))
            for model, drawn in (("model", spread * own / sd_per_year), ("copy_forward", 0.0)):
                rows += [
                    (f"p{person}", "a", f"b{place}", year, "CN", model, 0, region, 0.0, drawn, float(observed[i]))
                    for i, region in enumerate(REGIONS)
                ]
    return pd.DataFrame(rows, columns=list(ERRORS.columns))


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_intervals_hold_for_new_people_within_the_exact_bounds_of_split_conformal_prediction(spread: float) -> None:
    num, repeats, held = 80, 40, []
    for seed in range(repeats):
        calibration = ConformalIntervals.of(errors_table(num, seed, spread=spread), REGIONS)
        new = errors_table(40, 10_000 + seed, spread=spread)
        new = new[new["model"] == "model"]
        for _, rows in new.groupby("subject"):
            half = calibration.half_widths("model", 1.0, rows["spread"].to_numpy())
            held.append((np.abs(rows["observed"].to_numpy())[None] <= half).mean(axis=1))
    share = np.mean(held, axis=0)
    for place, level in enumerate(LEVELS):
        exact = math.ceil((num + 1) * level) / (num + 1)  # of scores without ties
        assert share[place] == pytest.approx(exact, abs=0.012)
        assert level - 0.012 <= share[place] <= level + 1 / (num + 1) + 0.012


def test_with_one_pair_each_the_quantile_is_the_kth_smallest_score_and_infinite_where_people_are_too_few() -> None:
    scores = np.arange(1.0, 20.0)[:, None]
    people = np.arange(19)
    found = quantile_over_people(scores, people, (0.5, 0.9, 0.95, 0.96))
    assert found[:, 0].tolist() == [10.0, 18.0, 19.0, math.inf]
    assert quantile_over_people(scores[:8], people[:8], (0.9,))[0, 0] == math.inf  # 9 people are needed
    assert quantile_over_people(scores[:9], people[:9], (0.9,))[0, 0] == 9.0


def test_a_person_who_came_often_counts_as_one() -> None:
    scores = np.concatenate([np.full(200, 100.0), np.arange(1.0, 20.0)])[:, None]
    people = np.concatenate([np.zeros(200, int), np.arange(1, 20)])
    assert quantile_over_people(scores, people, (0.5, 0.9))[:, 0].tolist() == [11.0, 19.0]


def test_a_region_that_somebody_lacks_counts_the_others() -> None:
    scores = np.column_stack([np.arange(1.0, 20.0), np.where(np.arange(19) < 9, np.arange(1.0, 20.0), np.nan)])
    found = quantile_over_people(scores, np.arange(19), (0.9,))
    assert found[0].tolist() == [18.0, 9.0]


def test_bins_of_horizons_are_merged_until_there_are_enough_people() -> None:
    years = np.repeat([0.9, 2.1, 3.0, 4.9], [30, 5, 25, 4])
    people = np.arange(len(years))
    bins = horizon_bins(years, people)
    assert [part.num_people for part in bins] == [30, 34]
    assert bins[0].low == pytest.approx(0.45)
    assert bins[0].high == bins[1].low == pytest.approx(1.5)
    assert bins[1].high == pytest.approx(4.9)
    assert [part.num_people for part in horizon_bins(years[:10], people[:10])] == [10]


def test_intervals_widen_with_the_horizon_and_end_where_nobody_was_followed() -> None:
    calibration = ConformalIntervals.of(errors_table(60, 0, (1.0, 3.0, 5.0)), REGIONS)
    none = np.zeros(len(REGIONS))
    widths = [np.median(calibration.half_widths("model", year, none)[-1]) for year in (1.0, 3.0, 5.0)]
    assert widths[0] * 2 < widths[1] < widths[2]
    for year in (0.0, 0.4, 5.1, 40.0):
        assert np.isnan(calibration.half_widths("model", year, none)).all()
    assert np.isnan(calibration.half_widths("another model", 1.0, none)).all()


def test_the_interval_of_a_followed_person_does_not_know_their_own_error() -> None:
    table = errors_table(25, 1)
    own = table["subject"] == "p7"
    wild = table.assign(observed=table["observed"].where(~own, 50.0))
    none = np.zeros(len(REGIONS))
    halves = [ConformalIntervals.of(frame, REGIONS).half_widths("model", 1.0, none, "p7") for frame in (table, wild)]
    np.testing.assert_array_equal(*halves)
    others = [ConformalIntervals.of(frame, REGIONS).half_widths("model", 1.0, none, "p8") for frame in (table, wild)]
    assert (others[1] >= others[0]).all()
    assert (others[1] > others[0]).any()


def test_the_factor_makes_a_spread_that_is_too_small_a_standard_deviation() -> None:
    generator = np.random.default_rng(0)
    rows = [
        (f"p{person}", "a", "b", 1.0, "CN", "model", 0, region, 0.0, 0.01, 0.03 * float(generator.standard_normal()))
        for person in range(300)
        for region in REGIONS
    ]
    calibration = ConformalIntervals.of(pd.DataFrame(rows, columns=errors_table(1, 0).columns), REGIONS)
    assert calibration.sd_factor("model", 1.0) == pytest.approx(3.0, rel=0.08)
    assert math.isnan(calibration.sd_factor("model", 9.0))


def test_several_members_are_one_forecast_with_the_spread_between_them() -> None:
    rows = [
        (f"p{person}", "a", "b", 1.0, "CN", "model", member, region, (-1) ** member * 0.03, 0.04, 0.02)
        for person in range(3)
        for member in range(2)
        for region in REGIONS
    ]
    calibration = ConformalIntervals.of(pd.DataFrame(rows, columns=errors_table(1, 0).columns), REGIONS)
    pairs = calibration.models["model"]
    assert calibration.num_members == 2
    np.testing.assert_allclose(pairs.forecast, 0.0, atol=1e-12)
    np.testing.assert_allclose(pairs.spread, 0.05)


def test_coverage_is_measured_on_people_left_out_and_tells_what_is_not_available() -> None:
    table = pd.DataFrame(coverage_rows(ConformalIntervals.of(errors_table(80, 3, (1.0, 3.0)), REGIONS)))
    own = table[(table["model"] == "model") & (table["level"] == 90)]
    assert own["num_people"].tolist() == [80, 80]
    assert own["coverage"].between(0.87, 0.95).all()
    assert own["width"].is_monotonic_increasing
    few = pd.DataFrame(coverage_rows(ConformalIntervals.of(errors_table(6, 3), REGIONS)))
    assert few[few["level"] == 50]["coverage"].notna().all()
    assert few[few["level"] == 90]["coverage"].isna().all()


def test_skill_is_found_where_it_is_and_nowhere_else() -> None:
    generator = np.random.default_rng(4)
    copied = np.abs(generator.standard_normal((40, 3)))
    own = copied * np.array([0.5, 1.0, 2.0]) * generator.uniform(0.9, 1.1, (40, 3))
    better, same, worse = relative_gains(own, copied)
    assert better.value == pytest.approx(0.5, abs=0.05)
    assert better.low > 0.4
    assert same.low < 0 < same.high
    assert worse.high < -0.8
    assert all(math.isnan(gain.value) for gain in relative_gains(own, np.zeros((40, 3))))
    assert all(math.isnan(gain.value) and gain.num == 2 for gain in relative_gains(own[:2], copied[:2]))


def test_a_model_that_forecasts_nothing_has_no_skill() -> None:
    rows = pd.DataFrame(skill_rows(ConformalIntervals.of(errors_table(40, 5), REGIONS)))
    own = rows[rows["model"] == "model"]
    np.testing.assert_allclose(own[["skill", "low", "high"]].to_numpy(), 0.0, atol=1e-12)
