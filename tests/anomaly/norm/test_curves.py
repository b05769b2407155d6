"""Normative curves: the share of new people below every centile, the empirical null undone, and what the picture shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from gen3d.anomaly.calibration.empirical_null import count, fit_null_map
from gen3d.anomaly.norm.curves import CENTILES, COLUMNS, CurveModel, centile_curves, draw_curves, model_z, relative
from gen3d.core.errors import UserError

Floats = NDArray[np.float64]
NAMES = ("left hippocampus", "right hippocampus", "somewhere else")


def rows_of(ages: Floats, sexes: list[str]) -> Floats:
    decades = (np.asarray(ages) - 50) / 10
    return np.column_stack([np.ones(len(decades)), decades, [0.5 if sex == "M" else -0.5 for sex in sexes]])


def factor_of(ages: Floats) -> Floats:
    return np.exp(0.2 * (np.asarray(ages) - 50) / 10)


def people(num: int, rng: np.random.Generator) -> tuple[Floats, Floats, list[str]]:
    """Values [num, 3] of people whose scatter grows with age, their ages and sexes."""
    ages, sexes = rng.uniform(20, 80, num), [str(sex) for sex in rng.choice(["F", "M"], num)]
    effects = np.array([[0.1, -0.2, 0.0], [-0.05, -0.1, 0.2], [0.1, 0.0, 0.3]])
    scatter = 0.1 * factor_of(ages)[:, None] * rng.standard_normal((num, 3))
    return rows_of(ages, sexes) @ effects + scatter, ages, sexes


def fitted(num: int, seed: int = 1) -> CurveModel:
    values, ages, sexes = people(num, np.random.default_rng(seed))
    weight = 1 / factor_of(ages)[:, None]
    rows = rows_of(ages, sexes)
    coefficients = np.linalg.lstsq(rows * weight, values * weight, rcond=None)[0]
    errors = (values - rows @ coefficients) * weight
    sd = np.sqrt((errors**2).sum(axis=0) / (num - 3))
    inverse = np.asarray(np.linalg.inv((rows * weight).T @ (rows * weight)))
    return CurveModel("volume", NAMES, coefficients, sd, inverse, num - 3, (20.4, 79.7), rows_of, factor_of)


def test_new_people_lie_below_each_centile_as_often_as_it_says_young_and_old_women_and_men() -> None:
    curves = centile_curves(fitted(2000), NAMES)
    values, ages, sexes = people(6000, np.random.default_rng(2))
    inside = (ages > 22) & (ages < 78)
    for place, name in enumerate(NAMES):
        for sex in ("F", "M"):
            part = curves[(curves["region"] == name) & (curves["sex"] == sex)]
            of_sex = np.array([other == sex for other in sexes])
            for low, high in ((22, 40), (60, 78)):
                rows = inside & of_sex & (ages >= low) & (ages < high)
                for centile in CENTILES:
                    limit = np.interp(ages[rows], part["age_years"], part[f"centile_{centile}"])
                    assert float(np.mean(values[rows, place] < limit)) == pytest.approx(centile / 100, abs=0.045)


def test_few_controls_widen_the_centiles_as_the_t_distribution_and_leverage_say() -> None:
    model = fitted(12)
    row = rows_of(np.array([70.0]), ["M"])[0]
    spread = model.sd[1] * np.sqrt(factor_of(np.array([70.0]))[0] ** 2 + row @ model.gram_inverse @ row)
    wanted = row @ model.coefficients[:, 1] + spread * student.ppf(0.95, 9)
    curves = centile_curves(model)
    at = curves[(curves["region"] == NAMES[1]) & (curves["sex"] == "M") & (curves["age_years"] == 70)]
    assert at["centile_95"].item() == pytest.approx(wanted)


def test_the_table_has_the_ages_of_the_controls_and_the_order_asked_for() -> None:
    curves = centile_curves(fitted(50), (NAMES[1], "no such region", NAMES[0]))
    assert tuple(curves.columns) == COLUMNS
    assert (curves["age_years"].min(), curves["age_years"].max()) == (21, 79)
    assert list(dict.fromkeys(curves["region"])) == [NAMES[1], NAMES[0]]
    assert (np.diff(curves[[f"centile_{centile}" for centile in CENTILES]], axis=1) > 0).all()


def test_a_norm_without_known_ages_has_no_curves() -> None:
    unknown = replace(fitted(50), age_range_years=(float("nan"), float("nan")))
    assert centile_curves(unknown).empty


def test_regions_of_another_atlas_are_refused_with_a_sentence() -> None:
    with pytest.raises(UserError, match="no region 'insula' among the 3 of channel volume"):
        centile_curves(fitted(50), ["insula"])


def test_the_empirical_null_is_undone() -> None:
    wide = fit_null_map(
        count(1.5 * np.random.default_rng(3).standard_normal(400_000))
    )  # z of the norm scatter too much
    shares = np.array([0.05, 0.5, 0.95])
    assert model_z(shares, np.inf, wide) == pytest.approx(1.5 * norm.ppf(shares), abs=0.03)
    assert model_z(shares, 8.0) == pytest.approx(student.ppf(shares, 8))


def test_log_volumes_are_drawn_in_percent_of_the_middle_and_intensities_as_they_are() -> None:
    part = centile_curves(fitted(200), NAMES[:1])
    shown = relative(part)
    middle = shown.loc[shown["age_years"] == 50, "centile_50"]
    assert np.exp(np.log(middle).mean()) == pytest.approx(100.0, rel=1e-6)
    high, low = (part[name].to_numpy() for name in ("centile_95", "centile_5"))
    assert (shown["centile_95"] / shown["centile_5"]).to_numpy() == pytest.approx(np.exp(high - low))
    intensity = part.assign(channel="residual")
    pd.testing.assert_frame_equal(relative(intensity), intensity)


def test_the_picture_names_its_regions_and_is_the_same_every_time() -> None:
    curves = centile_curves(fitted(200), NAMES)
    png, svg = draw_curves(curves)
    assert png.startswith(b"\x89PNG")
    for text in ("left hippocampus", "Age (years)", "median, women", "5th to 95th centile"):
        assert text in svg.decode()
    assert draw_curves(curves) == (png, svg)
