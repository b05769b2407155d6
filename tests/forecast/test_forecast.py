"""Forecasts of a forecaster whose rates are known: volumes, intervals, who is left out, and every bad input by its sentence."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.regions import find, regions_on
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.result_folder import picture_path
from gen3d.exports.bids import Export
from gen3d.forecast.folder import COPY_FORWARD, REGIONS, SCANS, ForecastFolder, volume_path
from gen3d.forecast.one_scan import _OPENED, RunningSpread, forecast_scans, opened
from gen3d.forecast.people import chosen_members
from gen3d.forecast.section import section
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import read_stored
from gen3d.report.open import open_context
from tests.forecast.world import LONGEST, NAME, PLAN, RATES, errors_of, forecasting, known_run, write_people
from tests.validator import bids_errors, is_installed

ARTERY = "left hippocampus"


@pytest.fixture(scope="module")
def future(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forecast")
    with pytest.MonkeyPatch.context() as patch:
        return forecasting(patch, root)(pictures=1, subjects=["p0", "p1"]).run()


@pytest.fixture
def table(future: Path) -> pd.DataFrame:
    return REGIONS.read(future)


def change(table: pd.DataFrame, key: str, years: float, region: str = ARTERY, model: str = NAME) -> pd.Series:
    rows = table[
        (table["key"] == key) & (table["years"] == years) & (table["region"] == region) & (table["model"] == model)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_forecast_is_that_of_the_model_from_the_last_visit(future: Path, table: pd.DataFrame) -> None:
    scans = SCANS.read(future)
    assert set(scans["key"]) == {"sub-p0_ses-3", "sub-p1_ses-2"}
    assert set(scans["num_visits"]) == {2, 3}
    ill, well = (change(table, key, 3.0)["log_change"] for key in ("sub-p1_ses-2", "sub-p0_ses-3"))
    # The known velocity is smooth on a grid of 4 mm: it reaches most of the rate, and a third of it in controls.
    assert 3 * RATES["hippocampus"] < ill < 0.7 * 3 * RATES["hippocampus"]
    assert well == pytest.approx(ill / 3, rel=0.05)
    assert change(table, "sub-p1_ses-2", 3.0, "left lateral ventricle")["log_change"] > 0.1


def test_nothing_changes_at_zero_years_and_copying_forward_never_changes_anything(
    future: Path, table: pd.DataFrame
) -> None:
    assert np.abs(table[table["years"] == 0]["log_change"].dropna()).max() == 0
    assert np.abs(table[table["model"] == COPY_FORWARD]["log_change"].dropna()).max() == 0
    stem = f"sub-p1_ses-2_{NAME}_0y"
    assert not read_stored(volume_path(future, stem, "difference")).any()
    assert not volume_path(future, stem, "sd").is_file()


def test_volumes_agree_with_each_other_and_with_the_regions(future: Path, table: pd.DataFrame) -> None:
    scan, stem = template_on(PLAN).t1w, f"sub-p1_ses-2_{NAME}_3y"
    volumes = {what: read_stored(volume_path(future, stem, what)) for what in ("t1w", "difference", "sd", "log_change")}
    np.testing.assert_allclose(volumes["t1w"] - volumes["difference"], scan, atol=3e-4)
    inside = regions_on(PLAN) == find(ARTERY)[0]
    told = change(table, "sub-p1_ses-2", 3.0)["log_change"]
    assert np.log(np.exp(volumes["log_change"][inside]).mean()) == pytest.approx(told, abs=0.02)
    assert volumes["sd"].min() >= 0
    assert volumes["sd"][volumes["difference"] == 0].max() < 0.2 * volumes["sd"].max()


def test_the_sd_map_is_the_spread_of_draws_times_the_factor_of_the_regions(future: Path) -> None:
    scans = SCANS.read(future).set_index("stem")
    factors = [scans.loc[f"sub-p1_ses-2_{NAME}_{year}y", "sd_factor"] for year in (1, 3)]
    first, third = (read_stored(volume_path(future, f"sub-p1_ses-2_{NAME}_{year}y", "sd")).max() for year in (1, 3))
    # Draws differ by a factor of the rate, so their spread grows with the years; the factors come from others' errors.
    assert third / factors[1] == pytest.approx(3 * first / factors[0], rel=0.25)


def test_intervals_hold_the_forecast_and_wider_levels_are_wider(table: pd.DataFrame) -> None:
    known = table[(table["years"] > 0) & table["log_change"].notna()]
    ends = ["low_90", "low_80", "low_50", "log_change", "high_50", "high_80", "high_90"]
    assert (np.diff(known[ends].to_numpy(), axis=1) >= 0).all()
    assert table[table["years"] == 0][["low_50", "high_90"]].isna().all(axis=None)


def test_the_page_tells_what_forecasts_are_worth(future: Path) -> None:
    context = open_context([future])
    built = section.build(context)
    assert built is not None
    text = str(built.blocks)
    assert re.search(r"better than copying the scan forward: of 24 people whom it never saw", built.blocks[0].text)
    for words in (
        "Coverage of intervals by horizon",
        "Skill by region",
        "Volume of regions with the 50 and 90 % intervals",
    ):
        assert words in text
    assert picture_path(future, "sub-p0_ses-3").is_file()
    assert not picture_path(future, "sub-p1_ses-2").is_file()


def test_where_nothing_can_be_forecast_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = forecasting(monkeypatch, tmp_path, errors=errors_of(skill=False))(
        subjects=["p3"], years=[1], pictures=0, samples=0
    )
    folder = ForecastFolder(read(ready.run()), "future")
    assert "not better than copying the scan forward" in folder.summary[0]
    stem = f"sub-p3_ses-1_{NAME}_1y"
    assert not volume_path(folder.folder, stem, "sd").is_file()  # nothing was drawn


def test_it_goes_on_where_it_was_and_ends_the_same(
    future: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = forecasting(monkeypatch, tmp_path)(pictures=1, subjects=["p0", "p1"])
    calls: list[str] = []

    def stops(job: object, tasks: list) -> list:
        calls.extend(task.key for task in tasks)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forecast_scans(job, tasks)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("gen3d.forecast.forecast.forecast_scans", stops)
        with pytest.raises(KeyboardInterrupt):
            verb.run()
    assert len(calls) == 2
    verb.run()
    for name in ("scans.tsv", "regions.tsv", "skill.tsv", "coverage.tsv", "models.tsv"):
        assert (verb.out / name).read_bytes() == (future / name).read_bytes()
    stem = f"sub-p1_ses-2_{NAME}_3y"
    assert volume_path(verb.out, stem, "sd").read_bytes() == volume_path(future, stem, "sd").read_bytes()
    assert not (verb.out / ".rows").exists()


def test_people_whom_every_member_saw_are_left_out_and_others_are_forecast_by_members_that_never_saw_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = forecasting(monkeypatch, tmp_path, seen=(("p0", "p1"), ("p0", "p2")))
    _, tasks, left_out = verb().open_inputs()
    assert left_out == ["p0"]
    members = {task.subject: task.members for task in tasks}
    assert members["p1"] == (1,)
    assert members["p2"] == (0,)
    assert len(members["p3"]) == 1  # as many as forecast the people behind the intervals
    assert any("1 person (p0) were seen" in line or "(p0)" in line for line in verb().plan())
    with pytest.raises(UserError, match=r"subjects: every member of .*run saw p0, so no forecast"):
        verb(subjects=["p0"]).plan()


def test_nobody_is_left_where_every_member_saw_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = tuple(f"p{number}" for number in range(4))
    verb = forecasting(monkeypatch, tmp_path, seen=(everybody, everybody))
    with pytest.raises(
        UserError, match=r"every member of .*run saw all 4 people, so there is nobody to forecast; train with"
    ):
        verb().plan()


def test_every_visit_starts_a_forecast_that_knows_the_visits_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tasks, _ = forecasting(monkeypatch, tmp_path)(sessions="every").open_inputs()
    own = [task for task in tasks if task.subject == "p0"]
    assert [task.years for task in own] == [(0.0,), (-1.5, 0.0), (-3.0, -1.5, 0.0)]
    assert own[2].keys == ("sub-p0_ses-1", "sub-p0_ses-2", "sub-p0_ses-3")


def test_a_condition_replaces_the_persons_own_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = forecasting(monkeypatch, tmp_path)(
        condition={"diagnosis": "AD"}, years=[1], subjects=["p2"], pictures=0, floors=False
    )
    found = change(REGIONS.read(verb.run()), "sub-p2_ses-1", 1.0)["log_change"]
    assert found < 0.7 * RATES["hippocampus"]
    assert set(REGIONS.read(verb.out)["model"]) == {NAME}


WRONG = [
    ({"years": [-1]}, r"-1 years lie in the past or nowhere; give numbers from 0 up"),
    ({"years": [3, 1]}, r"the years 3, 1 are not ascending"),
    ({"years": []}, r"name at least one number of years ahead"),
    ({"years": "soon"}, r"years are numbers such as \[1, 3, 5\], not 'soon'"),
    ({"condition": {"diagnosis": [1, 2]}}, r"diagnosis=\[1, 2\] is neither a number nor a text"),
]


@pytest.mark.parametrize(("keys", "sentence"), WRONG)
def test_settings_that_make_no_sense_are_refused(keys: dict, sentence: str, tmp_path: Path) -> None:
    from gen3d.forecast.forecast import Forecast

    with pytest.raises(ValueError, match=sentence):
        Forecast.model_validate({"run": tmp_path, "prepared": tmp_path, "out": tmp_path / "out", **keys})


BAD = [
    ({"years": [1, 9]}, r"years: 9 years ahead lie beyond the 5\.0 years that .*run learned from; ask for fewer"),
    ({"condition": {"mmse": 20}}, r"condition mmse: the model is conditioned on age_years .*, sex .*, diagnosis"),
    ({"condition": {"diagnosis": "FTD"}}, r"diagnosis=FTD: the model knows AD, CN"),
    ({"condition": {"age_years": 8}}, r"age_years=8 is outside the range 70 to 73 of the training people"),
    ({"subjects": ["nobody"]}, r"subjects: there is no scan of nobody that was not excluded"),
]


@pytest.mark.parametrize(("keys", "sentence"), BAD)
def test_what_the_model_cannot_answer_is_refused(
    keys: dict, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = forecasting(monkeypatch, tmp_path)(**keys)
    with pytest.raises(UserError, match=sentence):
        verb.run()
    assert not verb.out.exists()


def test_beyond_what_was_learned_there_is_a_guess_without_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = forecasting(monkeypatch, tmp_path)(
        years=[LONGEST + 1], extrapolate=True, subjects=["p3"], pictures=0, floors=False
    )
    folder = ForecastFolder(read(verb.run()), "future")
    assert "6 years lie beyond the 5.0 years that the model learned from: read them as a guess." in folder.summary
    assert folder.regions[["low_50", "high_90"]].isna().all(axis=None)
    assert read(verb.out).waivers == ("extrapolate=True",)


def test_a_person_with_a_diagnosis_that_the_model_never_saw_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = forecasting(monkeypatch, tmp_path)
    strangers = write_people(tmp_path / "strangers", 3, ("FTD", "CN"))
    with pytest.raises(UserError, match=r"sub-p0_ses-3: diagnosis=FTD: the model knows AD, CN"):
        verb(prepared=strangers).plan()


def test_a_run_without_errors_of_people_never_seen_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = forecasting(monkeypatch, tmp_path, errors=errors_of().iloc[:0])
    with pytest.raises(
        UserError, match=r"holds no errors of people whom its members never saw, so no interval can be made"
    ):
        verb().plan()


def test_a_run_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cohorts import write_cohort
    from tests.runs import fit

    cohort = write_cohort(tmp_path / "controls", 10, 2)
    run = fit(cohort, tmp_path / "voxelwise")
    verb = forecasting(monkeypatch, tmp_path / "known")
    monkeypatch.undo()
    _OPENED.clear()
    with pytest.raises(
        UserError, match=r"voxelwise: a voxelwise does not forecast; give a run of `gen3d train` with model\.kind="
    ):
        verb(run=run).plan()


def test_scans_of_another_plan_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.forecast.world as world
    from gen3d.imaging.plan import plan_grid

    verb = forecasting(monkeypatch, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(world, "PLAN", plan_grid(3.5))
        other = write_people(tmp_path / "other", 2)
    with pytest.raises(
        UserError, match=r"weights of another plan: .*prepare the scans with the settings of the training cohort"
    ):
        verb(prepared=other).plan()


def test_spread_one_by_one_is_the_spread_of_all() -> None:
    draws = np.random.default_rng(0).standard_normal((7, 4)) + 100.0
    running = RunningSpread()
    for draw in draws:
        running.add(draw)
    np.testing.assert_allclose(running.variance, draws.var(axis=0, ddof=1))
    assert RunningSpread().variance == 0


def test_members_are_chosen_by_the_person_and_only_where_there_are_more_than_needed() -> None:
    assert chosen_members((2,), 3, ("00",)) == (2,)
    chosen = {chosen_members((0, 1, 2, 3), 2, (f"{number:04x}",)) for number in range(8)}
    assert chosen == {(0, 1), (1, 2), (2, 3), (0, 3)}


def test_the_export_names_horizon_model_and_coverage(future: Path, tmp_path: Path) -> None:
    out = Export.model_validate({"forecasts": future, "out": tmp_path / "bids"}).run()
    assert (out / "methods.md").is_file()
    if is_installed():
        assert bids_errors(out) == []
    folder = out / "sub-p1" / "ses-2" / "anat"
    start = "sub-p1_ses-2_space-MNI152NLin2009aSym_res-4mm_desc-forecast3y"
    np.testing.assert_array_equal(
        read_stored(folder / f"{start}_T1w.nii"), read_stored(volume_path(future, f"sub-p1_ses-2_{NAME}_3y", "t1w"))
    )
    import json

    sidecar = json.loads((folder / f"{start}_stat-sd_statmap.json").read_text())
    assert sidecar["YearsAhead"] == 3
    assert sidecar["Model"] == "Deformation rate" or "deformation" in sidecar["Model"].lower()
    assert [entry["level"] for entry in sidecar["IntervalCoverage"]] == [50, 80, 90]
    assert not (folder / f"{start.replace('3y', '0y')}_stat-sd_statmap.nii").exists()
    assert "better than copying the scan forward" in (out / "README").read_text()
    assert str(tmp_path) not in "".join(path.read_text() for path in out.rglob("*.json"))
    assert len(pd.read_csv(folder / "sub-p1_ses-2_desc-forecast_stats.tsv", sep="\t")) > 100


def test_the_export_takes_maps_or_forecasts_and_not_both(future: Path, tmp_path: Path) -> None:
    for keys in ({}, {"maps": future, "forecasts": future}):
        with pytest.raises(ValueError, match=r"give maps= .* or forecasts= .*, one of them"):
            Export.model_validate({"out": tmp_path, **keys})


def test_open_inputs_are_shared_by_calls_of_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = forecasting(monkeypatch, tmp_path)
    assert opened(verb()) is opened(verb())
    first = opened(verb())
    assert opened(verb(years=[2])) is not first
    assert known_run(verb().prepared[0])(verb().run_folder).judges(("00",)) == [0, 1]
