"""Change between sessions against known truth: a planted change is detected, and unchanged people stay unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gen3d.anomaly.change import Change, pair_sessions
from gen3d.core.artefact import read, write_json
from gen3d.core.errors import UserError
from tests.maps_folder import write_tables

REGIONS = [f"region {number}" for number in range(40)]
CHANGED, LOSS = "region 7", -0.2
SD_PEOPLE, SD_SCAN = 0.08, 0.015


def write_maps(
    folder: Path,
    num_controls: int = 20,
    num_patients: int = 8,
    years: float = 0.0,
    twins: int = 0,
    seed: int = 0,
    loss: float = LOSS,
) -> Path:
    """A maps folder of people scanned twice: effects with known SDs between and within people, and a planted loss.

    Patients lose `loss` (log volume) in CHANGED; the first `twins` controls have a third row that is a planted copy.
    """
    generator = np.random.default_rng(seed)
    people, effects = [], []
    noise = SD_SCAN * np.linspace(0.6, 1.8, len(REGIONS))
    for number in range(num_controls + num_patients):
        patient = number >= num_controls
        own = generator.normal(0, SD_PEOPLE, len(REGIONS))
        for session in ("1", "2", "3twin") if number < twins else ("1", "2"):
            role = "evaluation" if patient or session == "3twin" else ("calibration", "test")[number % 2]
            key, value = f"sub-p{number}_ses-{session}", own + generator.normal(0, 1, len(REGIONS)) * noise
            if patient and session == "2":
                value[REGIONS.index(CHANGED)] += loss
            if session == "3twin":
                value -= 5.0
            base = f"sub-p{number}_ses-1" if session == "3twin" else ""
            people.append((key, f"p{number}", session, role, 60.0 + years * (session == "2"), base))
            for channel, scale in (("residual", 0.1), ("deformation", 1.0)):
                effects += [(key, channel, r, scale * v, 0.0) for r, v in zip(REGIONS, value, strict=True)]
    folder.mkdir(parents=True)
    subjects = pd.DataFrame(people, columns=["key", "subject", "session", "role", "age_years", "base"])
    table = pd.DataFrame(effects, columns=["key", "channel", "region", "effect", "z"])
    write_tables(folder, subjects, table)
    record = {"gen3d": "0", "verb": "anomaly", "key": f"maps {folder.name} {seed}", "status": "finished", "inputs": {}}
    write_json(folder / "artefact.json", {**record, "config": {}, "summary": {}, "finished_at": ""})
    return folder


def change(**keys: object) -> pd.DataFrame:
    folder = Change.model_validate({"figures": False, **keys}).run()
    return pd.read_csv(folder / "change.tsv", sep="\t", na_values="n/a", dtype={"session_1": str, "session_2": str})


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_maps(tmp_path_factory.mktemp("world") / "maps", twins=3, years=1.5)


@pytest.fixture(scope="module")
def out(maps: Path) -> Path:
    change(maps=maps, out=maps.parent / "change")
    return maps.parent / "change"


@pytest.fixture(scope="module")
def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "change.tsv", sep="\t", na_values="n/a", dtype={"session_1": str, "session_2": str})


def test_a_planted_loss_is_found_with_its_size(table: pd.DataFrame) -> None:
    patients = table[table["subject"].isin([f"p{n}" for n in range(20, 28)]) & (table["channel"] == "deformation")]
    planted = patients[patients["region"] == CHANGED]
    assert len(planted) == 8
    assert (planted["q"] < 0.05).all()
    assert planted["change_percent"].mean() == pytest.approx(100 * np.expm1(LOSS), abs=2)
    assert planted["change_per_year"].mean() == pytest.approx(LOSS / 1.5, abs=0.02)
    assert ((patients["q"] < 0.05) & (patients["region"] != CHANGED)).mean() < 0.02


def test_where_nothing_changed_5_percent_exceed_1_96(table: pd.DataFrame) -> None:
    null = table[table["subject"].isin([f"p{n}" for n in range(20)]) | (table["region"] != CHANGED)]
    assert 0.035 < (null["z_change"].abs() > 1.96).mean() < 0.065
    assert null["z_change"].std() == pytest.approx(1, abs=0.06)


def test_twins_are_never_sessions(table: pd.DataFrame) -> None:
    assert set(table["session_2"]) == {"2"}
    assert table["change"].abs().max() < 1


def test_twins_are_known_from_the_cohort_table_too(table: pd.DataFrame, tmp_path: Path) -> None:
    """Where subjects.tsv does not say which scans are twins, the prepared folder's table does."""
    copy = write_maps(tmp_path / "maps", twins=3, years=1.5)
    subjects = pd.read_csv(copy / "subjects.tsv", sep="\t", dtype=str, keep_default_na=False)
    cohort = subjects.assign(site="a", sex="F", diagnosis="control", cdr="n/a", mmse="n/a")
    (tmp_path / "cohort").mkdir()
    cohort.assign(role="evaluation").to_csv(tmp_path / "cohort" / "manifest.tsv", sep="\t", index=False)
    subjects.drop(columns="base").to_csv(copy / "subjects.tsv", sep="\t", index=False)
    record = {"gen3d": "0", "verb": "anomaly", "key": "maps 2", "status": "finished", "config": {}, "summary": {}}
    inputs = {"prepared": [{"path": str(tmp_path / "cohort"), "verb": "prepare", "key": "c"}]}
    write_json(tmp_path / "cohort" / "artefact.json", {"verb": "prepare", "key": "c", "status": "finished"})
    write_json(copy / "artefact.json", {**record, "inputs": inputs, "finished_at": ""})
    again = change(maps=copy, out=tmp_path / "change")
    pd.testing.assert_frame_equal(again, table)


def test_a_control_is_compared_with_other_controls(tmp_path: Path) -> None:
    """A bad second scan of a control would be hidden if it entered the SD that it is compared with."""
    maps = write_maps(tmp_path / "maps", num_controls=10, num_patients=0)
    regions = pd.read_csv(maps / "regions.tsv", sep="\t")
    regions.loc[regions["key"] == "sub-p0_ses-2", "effect"] += 0.3
    regions.to_csv(maps / "regions.tsv", sep="\t", index=False)
    found = change(maps=maps, out=tmp_path / "change")
    own = found[(found["subject"] == "p0") & (found["channel"] == "deformation")]
    assert own["z_change"].median() > 5
    others = found[(found["subject"] != "p0") & (found["channel"] == "deformation")]
    assert others["z_change"].abs().median() < 0.3  # p0 is among those who make their SD


def test_retest_table_holds_the_known_agreement(out: Path) -> None:
    found = pd.read_csv(out / "retest.tsv", sep="\t", na_values="n/a")
    volume = found[found["channel"] == "deformation"]
    assert (found["num_pairs"] == 20).all()
    expected = SD_SCAN * np.linspace(0.6, 1.8, len(REGIONS))
    assert np.corrcoef(volume["sd_within"], expected)[0, 1] > 0.8
    assert (volume["sd_within"] / expected).mean() == pytest.approx(1, abs=0.08)
    true = SD_PEOPLE**2 / (SD_PEOPLE**2 + expected**2)
    assert (volume["icc"] - true).mean() == pytest.approx(0, abs=0.03)
    assert (volume["icc_low"] < volume["icc"]).all()
    assert ((volume["icc_low"] < true) & (true < volume["icc_high"])).mean() > 0.85
    assert found.loc[found["channel"] == "residual", "sd_within_percent"].isna().all()


def test_a_picture_per_person(out: Path, tmp_path: Path) -> None:
    few = write_maps(tmp_path / "few", num_controls=0, num_patients=2)
    change(maps=few, out=tmp_path / "change", retest=out / "retest.tsv", figures=True, regions_shown=5)
    files = sorted((tmp_path / "change" / "figures").glob("*.png"))
    assert [path.name for path in files] == ["p0_1_2.png", "p1_1_2.png"]
    for path in files:
        with Image.open(path) as image:
            assert image.width > 2 * image.height
            assert np.asarray(image.convert("L")).std() > 10


def test_too_few_controls_are_refused_or_helped_by_a_table(maps: Path, out: Path, tmp_path: Path) -> None:
    few = write_maps(tmp_path / "few", num_controls=4, seed=9)
    with pytest.raises(UserError, match="only 4 controls in these maps were scanned twice"):
        change(maps=few, out=tmp_path / "change")
    assert not (tmp_path / "change").exists()
    found = change(maps=few, out=tmp_path / "change", retest=out / "retest.tsv")
    planted = (found["region"] == CHANGED) & found["subject"].isin([f"p{n}" for n in range(4, 12)])
    assert (found.loc[planted & (found["channel"] == "deformation"), "q"] < 0.05).all()
    assert 0.03 < (found.loc[~planted, "z_change"].abs() > 1.96).mean() < 0.07


def test_a_retest_table_without_a_region_is_refused(out: Path, tmp_path: Path) -> None:
    few = write_maps(tmp_path / "few", num_controls=4)
    lacking = pd.read_csv(out / "retest.tsv", sep="\t").query("region != 'region 3'")
    lacking.to_csv(tmp_path / "retest.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="no positive sd_within for region 3"):
        change(maps=few, out=tmp_path / "change", retest=tmp_path / "retest.tsv")


def test_long_intervals_against_scans_weeks_apart_are_warned_of(
    tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = write_maps(tmp_path / "few", num_controls=0, years=2.0)
    change(maps=few, out=tmp_path / "change", retest=out / "retest.tsv")
    assert "not necessarily beyond normal ageing" in " ".join(capfd.readouterr().err.split())


def test_maps_without_repeated_scans_are_refused(tmp_path: Path) -> None:
    maps = write_maps(tmp_path / "maps", num_controls=3, num_patients=0)
    subjects = pd.read_csv(maps / "subjects.tsv", sep="\t", dtype=str).query("session == '1'")
    subjects.to_csv(maps / "subjects.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="no person in these maps was scanned twice"):
        change(maps=maps, out=tmp_path / "change")


def test_sessions_are_ordered_by_age_then_number() -> None:
    scans = pd.DataFrame(
        [("a", "10", 61.0), ("a", "2", 61.0), ("a", "1", 63.0), ("b", "1", 50.0)],
        columns=["subject", "session", "age_years"],
    ).assign(role="test")
    scans["key"] = scans["subject"] + scans["session"]
    pairs = pair_sessions(scans)
    assert pairs[["session_1", "session_2"]].to_numpy().tolist() == [["2", "10"], ["2", "1"]]
    assert pairs["years"].tolist() == [0.0, 2.0]


def test_finished_work_is_left_alone(maps: Path, out: Path) -> None:
    before = (out / "change.tsv").stat().st_mtime_ns
    Change(maps=maps, out=out, figures=False).run()
    assert (out / "change.tsv").stat().st_mtime_ns == before
    summary = read(out, ("change",)).summary
    assert summary["num_controls"] == 20
    assert summary["deformation"]["num_people_changed"] >= 8
