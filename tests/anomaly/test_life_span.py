"""A spline of age and an SD by age in the calibration: exact from sums, calibrated where age changes either, harmless where not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.anomaly.calibration.age_variance import AgeVariance
from gen3d.anomaly.calibration.calibrate import CalibrationSettings, calibrate, describe_calibration
from gen3d.anomaly.calibration.normative import model_of, z_scores
from gen3d.anomaly.calibration.panel import Panel, make_panel
from gen3d.anomaly.calibration.sums import Fitted, People, ValueSums
from gen3d.maths.covariate_sums import BASIS, PLAIN
from gen3d.maths.design import Design, basis_of, covariate_sums
from gen3d.maths.splines import Bends, choose_smoothing, penalty_matrix

TERMS = ("age", "sex", "site")
SPLINE = ("age", "age_spline", "sex", "site")
BY_AGE = CalibrationSettings(age_variance=True)
VOXELS = 300


def people(num_controls: int, num_test: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    num = num_controls + num_test
    frame = pd.DataFrame(
        {
            "subject": [f"p{i:04d}" for i in range(num)],
            "session": "1",
            "site": rng.choice(["a", "b"], num),
            "age_years": rng.uniform(20, 85, num),
            "sex": rng.choice(["F", "M"], num),
            "role": ["calibration"] * num_controls + ["test"] * num_test,
            "base": "",
        }
    )
    return frame.assign(key="sub-" + frame["subject"], calibrates=frame["role"] == "calibration")


def values_of(frame: pd.DataFrame, bend: float, slope: float, seed: int = 1) -> NDArray[np.float32]:
    """Voxels that decline steeply from 65 years on by `bend` SDs, and whose log variance changes by `slope` per decade."""
    rng = np.random.default_rng(seed)
    ages = frame["age_years"].to_numpy()
    curve = -bend / (1 + np.exp((75 - ages) / 6))
    noise = rng.standard_normal((len(frame), VOXELS)) * np.exp(slope * (ages - 50) / 20)[:, None]
    shift = (frame["site"] == "b").to_numpy()[:, None] * rng.standard_normal(VOXELS)
    sd = np.sqrt(8 / rng.chisquare(8, VOXELS))
    return ((np.outer(curve, rng.uniform(0.5, 1.5, VOXELS)) + noise + shift) * sd).astype(np.float32)


def beyond(z: NDArray[np.float32]) -> float:
    return float((np.abs(z) > 1.96).mean())


def old_and_young(frame: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    test, age = (frame["role"] == "test").to_numpy(), frame["age_years"].to_numpy()
    return {"young": np.flatnonzero(test & (age < 40)), "old": np.flatnonzero(test & (age > 70))}


def test_the_penalised_fit_from_sums_is_that_with_everybodys_values_also_without_a_person() -> None:
    frame = people(60, 0)
    values = values_of(frame, 2.0, 0.0).astype(np.float64)
    panel = make_panel(frame, SPLINE)
    calibrated = calibrate(values.astype(np.float32), panel, CalibrationSettings(site_variance=False))
    bends = calibrated.norm.bends
    assert bends is not None
    design = panel.covariates(panel.calibration)
    gram, cross = design.T @ design, design.T @ values
    direct = choose_smoothing(gram, cross, np.einsum("nv,nv->v", values, values), 60, bends.columns)
    assert bends.smoothing == pytest.approx(direct, rel=1e-3)
    penalty = penalty_matrix(design.shape[1], bends.columns, bends.smoothing)
    for person in (0, 31):
        others = np.delete(np.arange(60), person)
        rows, rest = design[others], values[others]
        inverse = np.asarray(np.linalg.inv(rows.T @ rows + penalty))
        coefficients = inverse @ rows.T @ rest
        # Of the penalised criterion: squared residuals and what the prior adds, with n less the free columns behind it.
        squares = ((rest - rows @ coefficients) ** 2).sum(axis=0) + np.einsum(
            "pv,pq,qv->v", coefficients, penalty, coefficients
        )
        model = model_of(Fitted(inverse, coefficients, squares, 59, len(bends.columns)))
        assert model.dof_residual == 59 - len(panel.design.free)
        wanted = z_scores(model, values[[person]], design[[person]])
        assert calibrated.z[[person]] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(("bend", "slope"), [(4.0, 0.0), (0.0, 0.4)])
def test_old_and_young_new_people_are_calibrated_with_the_right_model_and_not_without(
    bend: float, slope: float
) -> None:
    frame = people(80, 200)
    values, rows = values_of(frame, bend, slope), old_and_young(frame)
    right = calibrate(values, make_panel(frame, SPLINE), BY_AGE).z
    plain = calibrate(values, make_panel(frame, TERMS)).z
    for name in ("young", "old"):
        assert 0.04 < beyond(right[rows[name]]) < 0.062, name
    if slope:
        assert beyond(plain[rows["old"]]) > 0.075
    else:
        assert abs(float(right[rows["old"]].mean())) < 0.2 < abs(float(plain[rows["old"]].mean()))


def test_where_age_bends_nothing_the_maps_are_those_of_the_linear_model() -> None:
    frame = people(60, 40)
    values = values_of(frame, 0.0, 0.0)
    plain, spline = (calibrate(values, make_panel(frame, terms), BY_AGE) for terms in (TERMS, SPLINE))
    assert spline.norm.bends is not None
    assert np.abs(spline.z - plain.z).max() < 0.25
    assert np.corrcoef(spline.z.ravel(), plain.z.ravel())[0, 1] > 0.999


def test_a_straight_spline_gives_exactly_the_linear_model() -> None:
    frame = people(40, 0)
    values = values_of(frame, 0.0, 0.0).astype(np.float64)
    ages, sexes, sites = (frame[name].tolist() for name in ("age_years", "sex", "site"))
    rows, groups = basis_of(ages, sexes, sites)
    names = tuple(sorted(set(groups)))
    member = np.array([names.index(group) for group in groups])
    found = []
    for terms, width in ((TERMS, len(PLAIN)), (SPLINE, len(BASIS))):
        design = Design.fit(ages, sexes, sites, terms)
        sums = ValueSums.empty(names, VOXELS, width)
        sums.add(People(rows, member, np.ones(40), values))
        transforms = [design.transform(group) for group in names]
        fitted = sums.fit(transforms, np.ones(len(names)), bends=Bends(design.bends) if design.bends else None)
        model = model_of(fitted)
        found.append(z_scores(model, values, design.matrix(ages, sexes, sites)))
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_two_halves_make_the_smoothing_and_the_fit_of_the_whole() -> None:
    frame = people(80, 0)
    values = values_of(frame, 3.0, 0.0).astype(np.float64)
    ages, sexes, sites = (frame[name].tolist() for name in ("age_years", "sex", "site"))
    rows, groups = basis_of(ages, sexes, sites)
    names = tuple(sorted(set(groups)))
    member = np.array([names.index(group) for group in groups])
    design = Design.fit(ages, sexes, sites, SPLINE)
    transforms, weights = [design.transform(group) for group in names], np.ones(len(names))

    def sums_of(part: slice) -> ValueSums:
        sums = ValueSums.empty(names, VOXELS, design.basis_width)
        sums.add(People(rows[part], member[part], np.ones(len(rows[part])), values[part]))
        return sums

    whole, merged = sums_of(slice(None)), ValueSums.merged([sums_of(slice(0, 33)), sums_of(slice(33, None))])
    bends = [sums.likeliest(transforms, weights, design.bends) for sums in (whole, merged)]
    assert bends[0] is not None
    assert bends[1] is not None
    assert bends[1].smoothing == pytest.approx(bends[0].smoothing, rel=1e-6)
    fits = [sums.fit(transforms, weights, bends=of) for sums, of in zip((whole, merged), bends, strict=True)]
    assert fits[1].coefficients == pytest.approx(fits[0].coefficients, abs=1e-6)


def test_sums_without_the_spline_refuse_a_design_with_it() -> None:
    frame = people(40, 0)
    ages, sexes, sites = (frame[name].tolist() for name in ("age_years", "sex", "site"))
    design = Design.fit(ages, sexes, sites, SPLINE)
    sums = ValueSums.empty(covariate_sums(ages, sexes, sites).groups, 5)
    with pytest.raises(ValueError, match="one of them has a spline of age"):
        sums.products([design.transform(group) for group in sums.groups], np.ones(len(sums.groups)))


def test_a_persons_own_scatter_does_not_widen_the_person() -> None:
    """The factor by age of a control is estimated without the control."""
    frame = people(40, 0)
    values = values_of(frame, 0.0, 0.0)
    oldest = int(frame["age_years"].argmax())
    loud = values.copy()
    loud[oldest] *= 3
    both = [calibrate(each, make_panel(frame, TERMS), BY_AGE) for each in (values, loud)]
    slopes = [each.norm.age_variance.slope for each in both]
    assert slopes[1] >= slopes[0]
    assert float(np.std(both[1].z[oldest])) > 2.0


def test_the_record_says_how_age_entered() -> None:
    frame = people(60, 0)
    panel = make_panel(frame, SPLINE)
    record = describe_calibration(panel, calibrate(values_of(frame, 4.0, 0.5), panel, BY_AGE), 0.05)["age_effects"]
    assert 0 < record["smoothing"] < 100
    assert record["log_variance_per_decade"] == pytest.approx(0.5, abs=0.15)
    plain = make_panel(frame, TERMS)
    record = describe_calibration(plain, calibrate(values_of(frame, 0.0, 0.0), plain), 0.05)["age_effects"]
    assert record == {"smoothing": None, "log_variance_per_decade": 0.0, "before_shrinking": None}


def test_the_spline_takes_the_place_of_the_square_and_needs_age() -> None:
    frame = people(60, 0)
    ages, sexes, sites = (frame[name].tolist() for name in ("age_years", "sex", "site"))
    design = Design.fit(ages, sexes, sites, (*SPLINE, "age2"))
    assert "age2" not in design.terms
    assert design.dropped["age2"] == "age_spline bends in its place"
    assert design.columns[-len(design.bends) :] == BASIS[len(PLAIN) :]
    assert Design.from_dict(design.to_dict()) == design
    without = Design.fit([50.0] * 60, sexes, sites, SPLINE)
    assert without.dropped["age_spline"].startswith("the ages do not vary")
    assert without.basis_width == len(BASIS)  # merged with others, the spline may be possible
    assert Design.fit(ages, sexes, sites, TERMS).basis_width == len(PLAIN)


def test_people_of_unknown_age_are_expected_at_the_mean_age() -> None:
    frame = people(60, 0)
    ages, sexes, sites = (frame[name].tolist() for name in ("age_years", "sex", "site"))
    design = Design.fit(ages, sexes, sites, SPLINE)
    at_mean, unknown = design.matrix([design.age_mean_years, None], ["F", "F"], ["a", "a"])
    assert unknown == pytest.approx(at_mean, abs=1e-9)


def test_panels_of_known_people_only_have_factors_by_age() -> None:
    frame = people(30, 0).assign(age_years=np.nan)
    panel: Panel = make_panel(frame, SPLINE)
    found = calibrate(values_of(people(30, 0), 0.0, 0.5), panel, BY_AGE)
    assert found.norm.bends is None
    assert found.norm.age_variance == AgeVariance({}, (0.0, 0.0))
