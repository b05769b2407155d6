"""People who come several times: true volumes change as planned, the null cohort does not, and every scan is a fresh one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.regions import all_regions, find
from gen3d.cohort.visits import pairs_of, refuse_backward_diagnoses, visits_of
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.volume import read_map
from gen3d.simulate import rates
from gen3d.simulate.anatomy import AnatomySpace, cohort_space, healthy_targets
from gen3d.simulate.appearance import make_sites
from gen3d.simulate.conditions import EFFECTS, Condition
from gen3d.simulate.people import design
from gen3d.simulate.person import PACE, stream
from gen3d.simulate.simulate import Simulate
from gen3d.simulate.visit_table import design_visits, jittered
from gen3d.simulate.visits import Comer, Course, RepeatedPerson, pose, scan_at

SPACING_MM = 4.0
YEARS = (0.0, 1.2, 3.0)
CONDITIONS = {
    "ad": Condition(kind="ad", count=1),
    "mci": Condition(kind="mci", count=1, converting=1),
    "lesion": Condition(kind="lesion", count=1, severity=(12.0,)),
}
SETTINGS: dict[str, Any] = {
    "subjects": 4,
    "spacing_mm": SPACING_MM,
    "conditions": CONDITIONS,
    "visits": YEARS,
    "scanner_change": 0.5,
    "figures": False,
}


@pytest.fixture(scope="module")
def space() -> AnatomySpace:
    return cohort_space(plan_grid(SPACING_MM))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Simulate(out=tmp_path_factory.mktemp("visits") / "out", workers=1, **SETTINGS).run()


def volumes(folder: Path) -> pd.DataFrame:
    long = pd.read_csv(folder / "truth" / "truth_volumes.tsv", sep="\t")
    return long.pivot_table(index="key", columns="region", values="volume_ml")


def person_of(space: AnatomySpace, rows: pd.DataFrame, seed: int = 0, **course: Any) -> RepeatedPerson:
    row = rows.iloc[0]
    comer = Comer(
        int(row["index"]),
        row["first_age_years"],
        CONDITIONS.get(row["condition"]),
        row["first_severity"],
        bool(row["converts"]),
        row["last_years"],
    )
    return RepeatedPerson(space, comer, Course(**course), seed)


def test_true_volumes_change_as_planned_within_one_percent(cohort: Path, space: AnatomySpace) -> None:
    table, truth = Simulate(out=cohort, **SETTINGS).people(), np.log(volumes(cohort))
    written = pd.read_csv(cohort / "truth" / "truth.tsv", sep="\t")
    assert (written["attenuation"] == 1).all()
    names = {region.label: region.name for region in all_regions()}
    largest = 0.0
    for _, rows in table.groupby("subject"):
        person, first = person_of(space, rows), rows.iloc[0]["key"]
        assert person.wanted(0.0, person.group) == {}
        for _, row in rows.iloc[1:].iterrows():
            wanted = person.wanted(row["years"], person.group)
            assert len(wanted) == sum(region.structure in EFFECTS for region in all_regions())
            for label, log in wanted.items():
                assert truth.loc[row["key"], names[label]] - truth.loc[first, names[label]] == pytest.approx(
                    log, abs=0.01
                )
                largest = max(largest, abs(log))
    assert largest > 0.2, "an AD ventricle grows by a quarter in three years"


def test_rates_are_those_of_the_volumes(cohort: Path) -> None:
    table = pd.read_csv(cohort / "truth" / "truth_rates.tsv", sep="\t")
    assert len(table) == 4 * len(all_regions())
    logs = np.log(volumes(cohort))
    ages = open_prepared(cohort).manifest.set_index("key")["age_years"]
    for _, row in table.iterrows():
        first, last = (f"sub-{row['subject']}_ses-{session}" for session in (1, 3))
        change = logs.loc[last, row["region"]] - logs.loc[first, row["region"]]
        assert row["years"] == pytest.approx(ages[last] - ages[first], abs=2e-3)
        assert row["log_change"] == pytest.approx(change, abs=1e-4)
        assert row["percent_per_year"] == pytest.approx(100 * np.expm1(change / row["years"]), abs=0.02)


def test_the_cohort_is_one_of_visits(cohort: Path) -> None:
    prepared = open_prepared(cohort)
    visits = visits_of(prepared.manifest)
    refuse_backward_diagnoses(visits)
    pairs = pairs_of(visits)
    assert len(visits) == 12
    assert len(pairs) == 12
    assert set(prepared.manifest).isdisjoint(
        {"first_age_years", "first_severity", "last_years", "turns", "years", "index"}
    )
    converted = prepared.manifest[prepared.manifest["condition"] == "mci"].sort_values("session")
    assert converted["diagnosis"].iloc[0] == "MCI"
    assert converted["diagnosis"].iloc[-1] == "AD"
    assert converted["cdr"].is_monotonic_increasing
    moved = prepared.manifest.groupby("subject")["site"].nunique() > 1
    assert moved.sum() == 2
    for subject in moved.index[moved]:
        sites = prepared.manifest[prepared.manifest["subject"] == subject].sort_values("session")["site"]
        assert sites.iloc[0] != sites.iloc[1] == sites.iloc[2]


def test_a_controls_ageing_is_nothing_planted_and_a_lesion_stays_where_it_is(cohort: Path) -> None:
    table = pd.read_csv(cohort / "truth" / "truth.tsv", sep="\t", keep_default_na=False)
    regions = pd.read_csv(cohort / "truth" / "truth_regions.tsv", sep="\t")
    for _, row in table[table["condition"] == "none"].iterrows():
        assert not read_map(cohort / "truth" / f"{row['key']}_log_jacobian.nii.gz").any()
        assert row["key"] not in set(regions["key"])
    lesions = [
        read_map(cohort / "truth" / f"{key}_changed.nii.gz") > 0.5
        for key in table.loc[table["condition"] == "lesion", "key"]
    ]
    for later in lesions[1:]:
        assert 2 * (lesions[0] & later).sum() / (lesions[0].sum() + later.sum()) > 0.7
    hippocampus = regions[regions["region"] == "left hippocampus"].set_index("key")["percent_change"]
    keys = table.loc[table["condition"] == "ad", "key"].tolist()
    assert hippocampus[keys[0]] == pytest.approx(EFFECTS["hippocampus"].ad, abs=0.8)
    assert hippocampus[keys[2]] < hippocampus[keys[0]] - 2, "against a twin who aged as controls do"


def test_nothing_changes_in_a_null_cohort(tmp_path: Path) -> None:
    settings = SETTINGS | {"visits": (0, 2), "subjects": 3, "scanner_change": 0}
    out = Simulate(out=tmp_path / "out", progression=0, workers=1, **settings).run()
    rates_table = pd.read_csv(out / "truth" / "truth_rates.tsv", sep="\t")
    assert (rates_table["years"] > 1.8).all()
    assert not rates_table["log_change"].any()
    assert not rates_table["percent_per_year"].any()
    table = open_prepared(out).manifest
    assert (table.groupby("subject")["diagnosis"].nunique() == 1).all()
    assert (table.groupby("subject")["cdr"].nunique() == 1).all()
    scans = [
        open_prepared(out).volume(key, "t1w") for key in table[table["subject"] == table["subject"].iloc[0]]["key"]
    ]
    assert np.abs(scans[0] - scans[1]).mean() > 0, "but it is another scan"


def test_scans_do_not_depend_on_workers_or_on_being_stopped(cohort: Path, tmp_path: Path) -> None:
    verb = Simulate(out=tmp_path / "out", workers=2, **SETTINGS)
    again = verb.run()
    for key in open_prepared(cohort).manifest["key"]:
        for name in (f"volumes/{key}_t1w.nii", f"truth/{key}_log_jacobian.nii.gz"):
            np.testing.assert_array_equal(read_map(again / name), read_map(cohort / name))
    pd.testing.assert_frame_equal(volumes(again), volumes(cohort))


def test_one_visit_is_the_same_whoever_was_made_before(space: AnatomySpace) -> None:
    rows = Simulate(out=Path("unused"), **SETTINGS).people()
    mine = rows[rows["condition"] == "mci"]
    site = make_sites(1, 1.0, 0)[0]
    together, alone = person_of(space, mine), person_of(space, mine)
    scan_at(together, site, 1.2, 2)
    np.testing.assert_array_equal(scan_at(together, site, 3.0, 3).scan, scan_at(alone, site, 3.0, 3).scan)


# ------------------------------------------------------------------------------------------------------------ rates


def drawn(space: AnatomySpace, group: rates.Group, number: int, foreseeable: float = 0.4) -> pd.DataFrame:
    """Log volume changes of the first year [people, regions]."""
    rows = []
    for i in range(number):
        targets = healthy_targets(space, 65.0, stream(7, i, 0))
        pace = rates.paces(targets, 65.0, foreseeable, stream(7, i, PACE))
        rows.append(rates.log_changes(group, pace, 1.0, 1.0, acceleration=False))
    return pd.DataFrame(rows)


def test_groups_have_the_rates_of_their_papers(space: AnatomySpace) -> None:
    label = find("left hippocampus")[0]
    yearly = {group: 100 * np.expm1(drawn(space, group, 150)[label]) for group in rates.GROUPS}
    assert -5.40 < yearly["ad"].mean() < -3.92, "Barnes 2009"
    assert -2.30 < yearly["control"].mean() < -0.52, "Barnes 2009"
    means = [yearly[group].mean() for group in rates.GROUPS]
    assert means == sorted(means, reverse=True)
    assert yearly["ad"].std() == pytest.approx(0.6 * 2.3, rel=0.25)
    for group, ventricle in zip(rates.GROUPS, (4.2, 5.2, 8.2, 9.9), strict=True):
        assert rates.group_rates(group)[find("left lateral ventricle")[0]].mean == ventricle
    for name in ("brain-stem", "pericalcarine", "cerebellar cortex"):
        label = find(name)[0]
        assert rates.group_rates("ad")[label].mean == pytest.approx(EFFECTS[name].ageing), "AD spares it"
    control = rates.group_rates("control")
    assert control[find("precuneus")[0]].mean == pytest.approx(EFFECTS["precuneus"].ageing)


def test_regions_of_a_person_change_together_and_the_scan_foretells_as_much_as_asked(space: AnatomySpace) -> None:
    left, right = find("hippocampus")
    ventricle = find("left lateral ventricle")[0]
    for asked in (0.0, 0.9):
        changes = drawn(space, "ad", 200, asked)
        assert 0.65 < changes[left].corr(changes[right]) < 0.92
        assert -0.75 < changes[left].corr(changes[ventricle]) < -0.3
        sizes = pd.Series([healthy_targets(space, 65.0, stream(7, i, 0))[left] for i in range(200)])
        seen = changes[left].corr(sizes)
        assert abs(seen) < 0.2 if asked == 0 else seen > 0.35, "who is small loses faster"


def test_change_grows_with_time_and_faster_where_it_accelerates() -> None:
    pace = dict.fromkeys(range(1, len(all_regions()) + 1), 0.0)
    label, cuneus = find("left hippocampus")[0], find("left cuneus")[0]

    def change(years: float, acceleration: bool, progression: float = 1.0) -> dict[int, float]:
        return rates.log_changes("converting", pace, years, progression, acceleration)

    even, bent = change(4.0, False), change(4.0, True)
    assert even[label] == pytest.approx(4 * np.log1p(-0.035))
    assert bent[label] - even[label] == pytest.approx(-0.5 * 0.0022 * 16), "Leung 2013"
    assert bent[cuneus] == even[cuneus]
    assert change(4.0, True, 0.5)[label] == pytest.approx(bent[label] / 2)
    assert change(4.0, True, 0.0) == {}
    assert rates.log_changes("control", pace, 4.0, 1.0, True) == rates.log_changes("control", pace, 4.0, 1.0, False)


def test_who_has_whose_rates() -> None:
    mci = Condition(kind="mci")
    assert [rates.group_of(mci, converts) for converts in (True, False)] == ["converting", "stable"]
    assert rates.group_of(Condition(kind="ad"), False) == "ad"
    assert rates.group_of(None, False) == rates.group_of(Condition(kind="null"), False) == "control"


def test_a_change_that_the_grid_does_not_allow_is_made_milder_at_every_visit(space: AnatomySpace) -> None:
    comer = Comer(1, 84.0, Condition(kind="ad"), 2.0, False, 12.0)
    person = RepeatedPerson(space, comer, Course(progression=3.0), seed=0)
    assert 0 < person.attenuation < 1
    label = find("left hippocampus")[0]
    full = rates.log_changes("ad", person.pace, 6.0, 3.0, True)[label]
    assert person.wanted(6.0, "ad")[label] == pytest.approx(person.attenuation * full)


# ---------------------------------------------------------------------------------------------------- the scans


def test_every_visit_has_noise_bias_and_pose_of_its_own(space: AnatomySpace) -> None:
    site = make_sites(1, 1.0, 0)[0]
    comer = Comer(3, 62.0, None, 0.0, False, 2.0)

    def scan(session: int, years: float = 0.0, **course: Any) -> np.ndarray:
        person = RepeatedPerson(space, comer, Course(progression=0.0, **course), seed=4)
        return scan_at(person, site, years, session).noiseless

    first = scan(1)
    np.testing.assert_array_equal(scan(1, 2.0), first)
    moved = np.abs(scan(2) - first)[space.mask].mean()
    still = np.abs(
        scan(2, repositioning_mm=0.0, repositioning_degrees=0.0)
        - scan(1, repositioning_mm=0.0, repositioning_degrees=0.0)
    )
    assert 0 < still[space.mask].mean() < moved


def test_a_pose_is_rigid_and_as_large_as_asked(space: AnatomySpace) -> None:
    course = Course(repositioning_mm=2.0, repositioning_degrees=3.0)
    shifts, turns = [], []
    for seed in range(60):
        moved = pose(space, course, np.random.default_rng(seed)).astype(float)
        middle = [n // 2 for n in space.plan.shape]
        jacobian = np.stack(
            [np.gradient(moved, axis=axis)[:, middle[0], middle[1], middle[2]] for axis in (1, 2, 3)], axis=1
        ) + np.eye(3)
        assert jacobian @ jacobian.T == pytest.approx(np.eye(3), abs=1e-4)
        turns.append(np.rad2deg(np.arccos(np.clip((np.trace(jacobian) - 1) / 2, -1, 1))))
        shifts.append(moved.mean(axis=(1, 2, 3)) * SPACING_MM)
    assert np.std(shifts) == pytest.approx(2.0, rel=0.2)
    assert np.sqrt(np.mean(np.square(turns)) / 3) == pytest.approx(3.0, rel=0.25)
    assert not pose(space, Course(repositioning_mm=0.0, repositioning_degrees=0.0), np.random.default_rng(0)).any()


# ---------------------------------------------------------------------------------------------------- the table


def test_visits_are_near_their_times_and_in_order() -> None:
    times = jittered((0, 0.1, 3), 500, np.random.default_rng(0))
    assert not times[:, 0].any()
    assert times[:, 1] == pytest.approx(0.1, abs=0.0255)
    assert times[:, 2] == pytest.approx(3, abs=0.1005)
    assert (np.diff(times, axis=1) > 0.05).all()
    assert times[:, 2].std() > 0.04


def test_first_visits_are_those_of_a_cohort_without_visits() -> None:
    conditions = {"ad": Condition(kind="ad", share=0.3), "mci": Condition(kind="mci", share=0.3, converting=0.25)}
    plain = design(40, conditions, ["A", "B"], (50.0, 80.0), 0.0, 5)
    scans = design_visits(40, conditions, ["A", "B"], (50.0, 80.0), (0, 1, 2, 4), 0.5, 0.4, 1.0, 5)
    first = scans[scans["session"] == "1"].reset_index(drop=True)
    same = ["index", "subject", "key", "site", "age_years", "sex", "diagnosis", "condition", "intracranial_ml"]
    pd.testing.assert_frame_equal(first[same], plain[same])
    counts = scans["subject"].value_counts()
    assert counts.value_counts().to_dict() == {1: 20, 4: 20}
    assert scans[scans["session"] != "1"].groupby("subject")["site"].nunique().eq(1).all()
    converts = scans[scans["converts"] & (scans["session"] == "1")]
    assert len(converts) == 3
    assert set(converts["severity"]) == {1.3}
    assert set(scans.loc[scans["diagnosis"].eq("AD") & scans["condition"].eq("mci"), "subject"]) <= set(
        converts["subject"]
    )
    repeated = scans[scans["subject"].isin(counts.index[counts > 1])]
    for _, rows in repeated[repeated["converts"]].groupby("subject"):
        assert rows["diagnosis"].iloc[0] == "MCI"
        assert rows["diagnosis"].iloc[-1] == "AD"
    patients = repeated[repeated["condition"] == "ad"].groupby("subject")["mmse"]
    assert (patients.last() - patients.first()).mean() < -1.5


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"visits": [0]}, "0 first, then ascending"),
    ({"visits": [1, 2]}, "0 first, then ascending"),
    ({"visits": [0, 2, 1]}, r"they are \[0\.0, 2\.0, 1\.0\]"),
    ({"visits": [0, 20]}, "oldest person would be 105 years old at the last visit"),
    ({"visits": [0, 1], "base": "somewhere"}, "need simulated anatomy"),
    ({"visits": [0, 1], "sites": 1, "scanner_change": 0.1}, "needs another site"),
    ({"progression": 2}, "progression is a setting of visits"),
    ({"scanner_change": 0.2, "longitudinal": 0.5}, "scanner_change is a setting of visits"),
    ({"conditions": {"m": {"kind": "mci", "converting": 0.3}}}, r"conditions\.m\.converting needs later visits"),
    (
        {"conditions": {"a": {"kind": "ad", "converting": 0.3}}, "visits": [0, 1]},
        "converting is a share of people with MCI",
    ),
    ({"visits": [0, 1], "progression": 9}, "less than or equal to 3"),
)


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_visits_that_make_no_sense_are_refused(settings: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Simulate.model_validate({"out": tmp_path, **settings})
