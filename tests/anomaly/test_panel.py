"""The site gate: sites with too few calibration controls get no z, and their rows are flagged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.calibration.calibrate import calibrate
from gen3d.anomaly.calibration.panel import make_panel
from gen3d.core.errors import UserError
from gen3d.maths.design import Design

TERMS = ("age", "sex", "site")


def table(**controls: int) -> pd.DataFrame:
    """So many calibration controls of each site, and one patient of each and of site `unseen`."""
    generator = np.random.default_rng(len(controls))
    sites = [site for site, num in controls.items() for _ in range(num)]
    patients = [*controls, "unseen"]
    roles = ["calibration"] * len(sites) + ["evaluation"] * len(patients)
    num = len(roles)
    frame = pd.DataFrame({"site": sites + patients, "role": roles, "subject": [f"p{i:03d}" for i in range(num)]})
    frame["key"] = "sub-" + frame["subject"]
    frame["age_years"], frame["sex"] = generator.uniform(20, 80, num), ["FM"[i % 2] for i in range(num)]
    return frame.assign(calibrates=frame["role"] == "calibration")


def flag(frame: pd.DataFrame, panel_flags: list[str], site: str) -> str:
    return panel_flags[frame.index[(frame["role"] == "evaluation") & (frame["site"] == site)][0]]


def test_unseen_and_tiny_sites_are_refused_with_their_numbers() -> None:
    frame = table(a=20, b=9, tiny=2)
    panel = make_panel(frame, TERMS)
    assert set(panel.sites(panel.gated)) == {"tiny", "unseen"}
    assert set(panel.sites(panel.calibration)) == {"a", "b"}
    flags = panel.flags()
    assert flag(frame, flags, "unseen").startswith(
        "no z map: site unseen has no calibration control of its own and 3 are needed"
    )
    assert "site tiny has 2 calibration controls of its own and 3 are needed" in flag(frame, flags, "tiny")
    assert "allow few_site_controls" in flag(frame, flags, "tiny")
    assert flag(frame, flags, "a") == flag(frame, flags, "b") == ""
    z = calibrate(np.random.default_rng(0).standard_normal((len(frame), 50)).astype(np.float32), panel).z
    assert np.isnan(z[panel.gated]).all()
    assert np.isfinite(np.delete(z, panel.gated, axis=0)).all()


def test_few_controls_are_allowed_on_request_and_named_in_every_row() -> None:
    frame = table(a=20, tiny=2, one=1)
    panel = make_panel(frame, TERMS, few_site_controls="allow")
    assert "site tiny" in panel.design.columns or panel.design.sites[-1] == "tiny"
    assert set(panel.sites(panel.gated)) == {"one", "unseen"}
    flags = panel.flags()
    assert flag(frame, flags, "tiny") == "site tiny has only 2 calibration controls"
    assert "site one has 1 calibration control of its own" in flag(frame, flags, "one")
    z = calibrate(np.random.default_rng(0).standard_normal((len(frame), 50)).astype(np.float32), panel).z
    assert np.isfinite(z[(frame["site"] == "tiny").to_numpy()]).all()


def test_a_stricter_gate() -> None:
    frame = table(a=20, b=7)
    panel = make_panel(frame, TERMS, min_site_controls=8)
    assert set(panel.sites(panel.gated)) == {"b", "unseen"}
    assert "site b has 7 calibration controls of its own and 8 are needed" in flag(frame, panel.flags(), "b")
    allowed = make_panel(frame, TERMS, min_site_controls=8, few_site_controls="allow")
    assert set(allowed.sites(allowed.gated)) == {"unseen"}
    assert "only 7 calibration controls" in flag(frame, allowed.flags(), "b")


def test_one_site_only_has_no_site_term_and_no_factor() -> None:
    frame = table(a=12)
    panel = make_panel(frame, TERMS)
    assert panel.design.dropped["site"] == "all people are of one site"
    assert flag(frame, panel.flags(), "a") == ""
    found = calibrate(np.random.default_rng(0).standard_normal((len(frame), 50)).astype(np.float32), panel)
    assert found.norm.site_variance.factors == {"a": 1.0}


def test_fewer_controls_than_covariates_drop_covariates_and_say_which() -> None:
    panel = make_panel(table(a=5, b=4), ("age", "age2", "sex", "site"))
    assert panel.design.columns == ("intercept",)
    assert "9 people carry 1 columns (one per 5 people)" in panel.design.dropped["site"]
    assert "differences between sites are not in the model" in panel.flags()[0]


def test_too_few_controls_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"only 7 controls can calibrate \(role calibration"):
        make_panel(table(a=7), TERMS)
    with pytest.raises(UserError, match=r"too few belong to one site \(site b 2, site c 2; 3 per site are needed\)"):
        make_panel(table(a=6, b=2, c=2), TERMS)


def test_advice_to_somebody_who_gives_new_people_alone_is_what_helps() -> None:
    with pytest.raises(UserError, match=r"only 7 controls can calibrate .* prepared=\[TRAINING_COHORT,NEW\]"):
        make_panel(table(a=7), TERMS, only_new=True)


def test_controls_that_calibrate_without_age_or_sex_are_counted() -> None:
    frame = table(a=30)
    assert make_panel(frame, TERMS).unknown_sentence() == ""
    frame.loc[:2, "age_years"], frame.loc[[1], "sex"] = np.nan, ""
    said = make_panel(frame, TERMS).unknown_sentence()
    assert said.startswith("of the 30 controls that calibrate, 3 have no known age and 1 have no known sex")
    assert make_panel(frame, ()).unknown_sentence() == "", "a model without covariates does not need them"


def test_sites_that_the_expectation_knows_are_not_doubtful() -> None:
    frame = table(a=20, b=20)
    people = frame[frame["calibrates"]]
    predicted = Design.fit(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist(), TERMS)
    assert "not in the model" in flag(frame, make_panel(frame, ()).flags(), "a")
    panel = make_panel(frame, (), predicted=predicted)
    assert flag(frame, panel.flags(), "a") == ""
    size = panel.with_terms(TERMS)
    assert size.design.terms == TERMS
    assert (size.spread == 1).all()


def test_the_spread_of_a_person_is_that_of_an_out_of_sample_prediction() -> None:
    """Values with an age effect, predicted by leave-one-out regression: far from the mean age it scatters more."""
    frame = table(a=30)
    frame.loc[[0, 1, 30], "age_years"] = [88, 95, 99]  # two old controls, one old patient
    frame.loc[2:29, "age_years"] = np.linspace(20, 50, 28)
    panel_design = Design.fit(frame["age_years"][:30].tolist(), ["F"] * 30, ["a"] * 30, ("age", "age2"))
    matrix = panel_design.matrix(frame["age_years"].tolist(), ["F"] * len(frame), ["a"] * len(frame))
    values = np.random.default_rng(0).standard_normal((len(frame), 4000))
    predicted = np.empty_like(values)
    for row in range(len(frame)):
        others = np.setdiff1d(np.arange(30), [row])
        predicted[row] = matrix[row] @ np.linalg.lstsq(matrix[others], values[others])[0]
    residuals = (values - predicted).astype(np.float32)
    panel = make_panel(frame, (), predicted=panel_design)
    z = calibrate(residuals, panel).z
    without = calibrate(residuals, make_panel(frame, ())).z
    for row in (0, 1, 30):
        assert np.mean(np.abs(z[row]) > 1.96) < 0.07
        assert np.mean(np.abs(without[row]) > 1.96) > 0.09
    assert np.mean(np.abs(z[2:30]) > 1.96) == pytest.approx(0.05, abs=0.01)


def test_age_outside_the_calibrated_range_is_in_the_flags() -> None:
    frame = table(a=20)
    frame.loc[20, "age_years"] = 95
    assert "age 95 outside the calibrated" in make_panel(frame, TERMS).flags()[20]
