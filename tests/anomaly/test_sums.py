"""Sums over people give the fits of everybody's values, of fewer people, of merged cohorts and of any design."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.anomaly.calibration.calibrate import CalibrationSettings, calibrate
from gen3d.anomaly.calibration.normative import model_of
from gen3d.anomaly.calibration.panel import make_panel
from gen3d.anomaly.calibration.sums import People, ValueSums
from gen3d.maths.covariate_sums import CovariateSums
from gen3d.maths.design import TERMS, Design, basis_of, covariate_sums
from tests.anomaly.direct_fit import fit_normative

VOXELS = 300


def people(num: int, seed: int, sites: tuple[str, ...] = ("a", "b", "c")) -> pd.DataFrame:
    """Some of unknown age, some of unknown sex."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame({"age_years": generator.uniform(20, 80, num), "site": generator.choice(sites, num)})
    frame["sex"] = generator.choice(["F", "M"], num)
    frame.loc[::9, "age_years"] = np.nan
    frame.loc[4::11, "sex"] = ""
    return frame


def covariates(frame: pd.DataFrame) -> tuple[list[float], list[str], list[str]]:
    return frame["age_years"].tolist(), frame["sex"].tolist(), frame["site"].tolist()


def sums_of(frame: pd.DataFrame, values: NDArray[np.float64]) -> ValueSums:
    rows, member = basis_of(*covariates(frame))
    groups = sorted(set(member))
    group = np.array([groups.index(of) for of in member])
    sums = ValueSums.empty(groups, values.shape[1])
    for part in np.array_split(np.arange(len(frame)), 7):
        sums.add(People(rows[part], group[part], np.ones(len(part)), values[part]))
    return sums


def values_of(num: int, seed: int) -> NDArray[np.float64]:
    return 3 + np.random.default_rng(seed).standard_normal((num, VOXELS)) * np.linspace(0.1, 2, VOXELS)


def test_a_design_chosen_from_sums_is_the_one_of_all_rows() -> None:
    """The rules and means of the design against numbers computed from the rows themselves."""
    frame = people(60, 0)
    design = Design.fit(*covariates(frame))
    known = frame["age_years"].dropna()
    assert design.age_mean_years == pytest.approx(known.mean(), rel=1e-12)
    assert design.age_range_years == (known.min(), known.max())
    codes = frame["sex"].map({"F": -0.5, "M": 0.5}).dropna()
    assert design.sex_mean == pytest.approx(codes.mean(), abs=1e-12)
    assert design.site_counts == frame["site"].value_counts().sort_index().to_dict()
    assert design.terms == TERMS
    rows = design.matrix(*covariates(frame))
    np.testing.assert_allclose(design.gram(covariate_sums(*covariates(frame))), rows.T @ rows, rtol=1e-10, atol=1e-10)
    decades = (frame["age_years"].fillna(design.age_mean_years) - design.age_mean_years) / 10
    np.testing.assert_allclose(rows[:, 1], decades, atol=1e-12)
    np.testing.assert_allclose(rows[:, 2], decades**2, atol=1e-11)


def test_collinear_terms_are_found_from_sums() -> None:
    frame = people(40, 1, ("a", "b"))
    frame["sex"] = frame["site"].map({"a": "F", "b": "M"})
    assert "linear combination" in Design.fit(*covariates(frame)).dropped["sex"]


@pytest.mark.parametrize("left_out", [[], [0], [3, 17, 30]])
def test_a_fit_from_sums_is_that_of_the_values(left_out: list[int]) -> None:
    frame, values = people(50, 2), values_of(50, 3)
    design = Design.fit(*covariates(frame))
    sums = sums_of(frame, values)
    rows, member = basis_of(*covariates(frame))
    group = np.array([sums.groups.index(of) for of in member])
    factor = {"a": 1.0, "b": 1.3, "c": 0.8}
    weights = np.array([factor[of.site] ** -2 for of in sums.groups])
    transforms = [design.transform(of) for of in sums.groups]
    out = np.array(left_out, dtype=int)
    without = People(rows[out], group[out], np.ones(len(out)), values[out]) if left_out else None
    fitted = model_of(sums.fit(transforms, weights, without))
    kept = np.setdiff1d(np.arange(50), out)
    scale = frame["site"].map(factor).to_numpy()
    expected = fit_normative(values[kept], design.matrix(*covariates(frame))[kept], scale=scale[kept])
    np.testing.assert_allclose(fitted.coefficients, expected.coefficients, atol=1e-5)
    np.testing.assert_allclose(fitted.sd, expected.sd, rtol=1e-6)
    np.testing.assert_allclose(fitted.gram_inverse, expected.gram_inverse, rtol=1e-8, atol=1e-12)
    assert fitted.num_people == len(kept)


def test_merged_sums_are_those_of_everybody() -> None:
    first, second = people(30, 4, ("a", "b")), people(25, 5, ("b", "c"))
    values = [values_of(30, 6), values_of(25, 7)]
    both = pd.concat([first, second], ignore_index=True)
    merged = ValueSums.merged([sums_of(first, values[0]), sums_of(second, values[1])])
    whole = sums_of(both, np.concatenate(values))
    assert merged.groups == whole.groups
    for name in ("num", "gram", "cross", "squares"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-10, atol=1e-10)
    of_people = CovariateSums.merged([covariate_sums(*covariates(first)), covariate_sums(*covariates(second))])
    chosen, fitted = Design.choose(of_people).to_dict(), Design.fit(*covariates(both)).to_dict()
    assert chosen.pop("age_mean_years") == pytest.approx(fitted.pop("age_mean_years"), rel=1e-12)
    assert chosen == fitted


def test_sums_moved_near_the_mean_survive_single_precision() -> None:
    frame, values = people(40, 8), values_of(40, 9) + 50
    sums = sums_of(frame, values)
    offset = sums.mean.astype(np.float32)
    near = sums.moved(offset)
    kept = ValueSums(
        near.groups, near.num, near.gram, near.cross.astype(np.float32), near.squares.astype(np.float32)
    ).moved(-offset)
    design = Design.fit(*covariates(frame))
    transforms, weights = [design.transform(of) for of in sums.groups], np.ones(len(sums.groups))
    exact, stored = (model_of(of.fit(transforms, weights)) for of in (sums, kept))
    np.testing.assert_allclose(stored.sd, exact.sd, rtol=1e-5)
    np.testing.assert_allclose(stored.coefficients, exact.coefficients, rtol=1e-5, atol=1e-5)


def test_values_that_do_not_vary_leave_no_rounding() -> None:
    frame = people(30, 10)
    values = values_of(30, 11)
    values[:, :5] = np.float32(0.1)
    sums = sums_of(frame, values)
    fitted = sums.fit([np.eye(4)[:1]] * len(sums.groups), np.ones(len(sums.groups)))
    assert (fitted.squares[:5] == 0).all()
    assert (fitted.squares[5:] > 0).all()


def test_memory_does_not_grow_with_people() -> None:
    """Values on disk, 40 and 400 people: calibrating allocates no more than a few of them at a time."""
    peaks = []
    for num in (40, 400):
        frame = people(num, 12).assign(calibrates=True, role="calibration", base="", session="1")
        frame["subject"] = [f"p{i}" for i in range(num)]
        frame["key"] = "sub-" + frame["subject"] + "_ses-1"
        values = np.random.default_rng(0).standard_normal((num, 20_000)).astype(np.float32)
        z = np.empty_like(values)
        panel = make_panel(frame, TERMS)
        tracemalloc.start()
        calibrate(values, panel, CalibrationSettings(site_variance=False, empirical_null=True), z=z)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
