"""Simulated cohorts: the truth that is written down is the truth that is in the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.regions import all_regions, find
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.volume import read_map
from gen3d.simulate.anatomy import AnatomySpace, ageing_effect, cohort_space, healthy_anatomy, healthy_targets
from gen3d.simulate.appearance import lesion_fraction, make_sites
from gen3d.simulate.conditions import EFFECTS, Condition
from gen3d.simulate.lesion_masks import LesionMask
from gen3d.simulate.making import simulate_all
from gen3d.simulate.people import design
from gen3d.simulate.person import make_person, stream
from gen3d.simulate.simulate import Simulate

SPACING_MM = 4.0
CONDITIONS = {
    "ad": Condition(kind="ad", count=1),
    "shrunken": Condition(kind="atrophy", count=1, changes={"left hippocampus": -24}),
    "lesion": Condition(kind="lesion", count=1, severity=(12.0,)),
    "null": Condition(kind="null", count=1),
}


@pytest.fixture(scope="module")
def space() -> AnatomySpace:
    return cohort_space(plan_grid(SPACING_MM))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "out"
    verb = Simulate(out=out, subjects=7, spacing_mm=SPACING_MM, conditions=CONDITIONS, workers=1, figures=False)
    return verb.run()


def truth_of(cohort: Path, condition: str) -> tuple[str, pd.Series]:
    table = pd.read_csv(cohort / "truth" / "truth.tsv", sep="\t", keep_default_na=False)
    row = table[table["condition"] == condition].iloc[0]
    regions = pd.read_csv(cohort / "truth" / "truth_regions.tsv", sep="\t")
    return row["key"], regions[regions["key"] == row["key"]].set_index("region")["percent_change"]


def test_the_folder_is_a_prepared_cohort(cohort: Path) -> None:
    prepared = open_prepared(cohort)
    assert len(prepared.manifest) == 7
    assert set(prepared.manifest["diagnosis"]) == {"control", "AD", "atrophy", "lesion", "null"}
    controls = prepared.manifest["diagnosis"] == "control"
    assert set(prepared.manifest.loc[controls, "role"]) <= {"train", "calibration", "test"}
    assert set(prepared.manifest.loc[~controls, "role"]) == {"evaluation"}
    scans = prepared.load(prepared.manifest["key"].tolist(), ["t1w", "log_jacobian"])
    assert np.isfinite(scans).all()
    assert not scans[:, :, ~prepared.mask].any()
    white = np.isin(prepared.regions, find("cerebral white matter"))
    assert np.median(scans[:, 0][:, white], axis=1) == pytest.approx(np.ones(7), abs=0.06)
    assert set(prepared.region_table["name"]) == {region.name for region in all_regions()}
    assert pd.read_csv(cohort / "verdicts.tsv", sep="\t")["verdict"].isin(["keep", "warn"]).all()
    assert read(cohort, ("simulate",)).summary["largest_volume_error_percent"] < 1


def test_planted_volume_changes_are_met_within_one_percent(cohort: Path) -> None:
    _, changes = truth_of(cohort, "ad")
    for structure, effect in EFFECTS.items():
        for label in find(structure):
            relative = (100 + changes[all_regions()[label - 1].name]) / (100 + effect.ad)
            assert relative == pytest.approx(1, abs=0.01), structure
    key, changes = truth_of(cohort, "shrunken")
    assert changes["left hippocampus"] == pytest.approx(-24, abs=0.8)
    assert abs(changes["right hippocampus"]) < 1
    log_jacobian = read_map(cohort / "truth" / f"{key}_log_jacobian.nii.gz")
    regions = open_prepared(cohort).regions
    assert log_jacobian[regions == find("left hippocampus")[0]].mean() == pytest.approx(np.log(0.76), abs=0.06)
    assert abs(log_jacobian[regions == find("right hippocampus")[0]].mean()) < 0.01


def test_lesion_has_the_volume_asked_for_and_is_dark(cohort: Path) -> None:
    key, _ = truth_of(cohort, "lesion")
    changed = read_map(cohort / "truth" / f"{key}_changed.nii.gz") > 0.5
    assert changed.sum() * SPACING_MM**3 / 1000 == pytest.approx(12, abs=SPACING_MM**3 / 1000)
    t1w = open_prepared(cohort).volume(key, "t1w")
    assert t1w[changed].mean() < 0.65
    where = np.ones((20, 20, 20), bool)
    fraction = lesion_fraction(3.21, where, 2.0, np.random.default_rng(0))
    assert fraction.sum() * 0.008 == pytest.approx(3.21, rel=1e-5)
    with pytest.raises(ValueError, match="does not fit"):
        lesion_fraction(100.0, where, 2.0, np.random.default_rng(0))


def test_lesions_of_given_masks_are_planted_in_simulated_people(space: AnatomySpace) -> None:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-44, -20, 20)
    mask = LesionMask("cube", np.ones((6, 6, 6), bool), affine, 13.8)
    condition, site = Condition(kind="lesion", masks=Path("unread")), make_sites(1, 1.0, 0)[0]
    made = make_person(space, site, 63.0, condition, 5.0, seed=5, person=2, session=1, masks=(mask,))
    assert made.truth.lesion_ml == pytest.approx(5.0, rel=1e-4)
    assert made.truth.lesion_mask.startswith("cube")
    assert made.noiseless[made.truth.changed].mean() < 0.65


def test_null_differs_by_nothing_and_a_condition_only_by_its_truth(space: AnatomySpace) -> None:
    site = make_sites(1, 1.0, 0)[0]

    def person(condition: Condition | None, session: int = 1) -> np.ndarray:
        made = make_person(space, site, 63.0, condition, 8.0, seed=5, person=2, session=session)
        changed = made.truth.changed
        return np.stack([made.noiseless, made.scan, changed])

    healthy, null = person(None), person(Condition(kind="null"))
    np.testing.assert_array_equal(null, healthy)
    assert not null[2].any()
    lesion = person(Condition(kind="lesion"))
    near = lesion[2] > 0
    different = np.abs(lesion[0] - healthy[0]) > 0.05
    assert near.sum() > 50
    assert (different & near).sum() > 0.8 * near.sum()
    assert (different & ~near).sum() < 0.8 * near.sum()
    again = person(None, session=2)
    assert np.corrcoef(again[0][space.mask], healthy[0][space.mask])[0, 1] > 0.98
    assert np.abs(again[1] - healthy[1])[space.mask].std() > 0.005


def test_the_planted_age_slope_is_in_the_true_volumes(space: AnatomySpace) -> None:
    ages = np.linspace(45, 85, 400)
    drawn = [healthy_targets(space, age, stream(1, i, 0)) for i, age in enumerate(ages)]
    for name in ("left lateral ventricle", "left hippocampus", "right superior frontal"):
        label = find(name)[0]
        logs = np.array([targets[label] for targets in drawn])
        (slope, _), covariance = np.polyfit(ages, logs, 1, cov=True)
        planted = ageing_effect(label, 61.0) - ageing_effect(label, 60.0)
        assert abs(slope - planted) < 3.5 * np.sqrt(covariance[0, 0]), name
    assert ageing_effect(find("left lateral ventricle")[0], 80.0) > 0.4
    reached = healthy_anatomy(space, drawn[0], stream(1, 0, 1))
    errors = [abs(reached.log_changes[label] - drawn[0][label]) for label in drawn[0]]
    assert np.median(errors) < 0.02
    assert max(errors) < 0.3
    assert np.exp(reached.log_jacobian).min() > 0


def test_regions_vary_and_correlate_as_planted(space: AnatomySpace) -> None:
    drawn = pd.DataFrame([healthy_targets(space, 60.0, stream(2, i, 0)) for i in range(500)])
    left, right = find("hippocampus")
    amygdala, cuneus = find("left amygdala")[0], find("left cuneus")[0]
    assert drawn[left].std() == pytest.approx(np.log(1.09), rel=0.25)
    assert 0.6 < drawn[left].corr(drawn[right]) < 0.9
    assert 0.25 < drawn[left].corr(drawn[amygdala]) < 0.6
    assert abs(drawn[left].corr(drawn[cuneus])) < 0.25


def test_an_interrupted_cohort_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = Simulate(out=tmp_path / "out", subjects=2, spacing_mm=SPACING_MM, conditions={}, workers=1, figures=False)

    def interrupted(*arguments: object) -> object:
        yield next(simulate_all(*arguments))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gen3d.simulate.simulate.simulate_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            verb.run()
    first = next((tmp_path / "out" / "volumes").glob("*_t1w.nii"))
    written = first.stat().st_mtime_ns
    verb.run()
    assert first.stat().st_mtime_ns == written
    assert len(list((tmp_path / "out" / "volumes").glob("*_t1w.nii"))) == 2
    verb.run()
    with pytest.raises(UserError, match="seed was 0 and is now 1"):
        verb.model_copy(update={"seed": 1}).run()


def test_the_design_balances_groups_and_gives_second_sessions() -> None:
    conditions = {"ad": Condition(kind="ad", share=0.25, severity=(0.5, 1.5)), "ds": Condition(kind="ds", count=4)}
    table = design(80, conditions, ["siteA", "siteB"], (50.0, 80.0), longitudinal=0.25, seed=1)
    first = table[table["session"] == "1"]
    assert (first["condition"] == "ad").sum() == 20
    assert first[first["condition"] == "ad"]["severity"].value_counts().to_dict() == {0.5: 10, 1.5: 10}
    for _, group in first.groupby("condition"):
        assert abs((group["site"] == "siteA").sum() - len(group) / 2) <= 1
        assert abs(group["age_years"].mean() - 65) < 4
    both = table[table["subject"].duplicated(keep=False)]
    assert both["subject"].nunique() == 20
    change = both.groupby("subject")["age_years"].agg(lambda ages: ages.iloc[1] - ages.iloc[0])
    assert change.between(1, 3).all()
    assert first.loc[first["condition"] == "ds", "mmse"].isna().all()
    pd.testing.assert_frame_equal(table, design(80, conditions, ["siteA", "siteB"], (50.0, 80.0), 0.25, 1))


def test_new_people_are_scanned_at_the_sites_of_another_cohort(tmp_path: Path) -> None:
    first, others = Simulate(out=tmp_path, seed=3), Simulate(out=tmp_path, seed=4)
    same = Simulate(out=tmp_path, seed=4, site_seed=3)
    assert same.scanners() == first.scanners() != others.scanners()
    assert set(same.people()["subject"]).isdisjoint(first.people()["subject"])
    pd.testing.assert_frame_equal(same.people(), others.people())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"age_years": (80, 50)}, "youngest and the oldest age"),
        ({"conditions": {"none": {"kind": "null"}}}, "name of the healthy people"),
        ({"conditions": {"a": {"kind": "atrophy"}}}, "needs changes"),
        ({"conditions": {"a": {"kind": "atrophy", "changes": {"hippocampus": -95}}}}, "percent of volume"),
        ({"conditions": {"a": {"kind": "lesion", "severity": [0]}}}, "above 0"),
        ({"conditions": {"a": {"kind": "lesion", "changes": {"hippocampus": -5}}}}, "changes no volume"),
        ({"conditions": {"a": {"kind": "flu"}}}, "lesion"),
        ({"spacing_mm": 9}, "less than or equal to 4"),
        ({"longitudinal": 0.5, "base": "somewhere"}, "simulated anatomy"),
        ({"base": "somewhere", "conditions": {"a": {"kind": "null", "count": 3}}}, "one twin of each condition"),
        ({"base": "somewhere", "conditions": {"a-1": {"kind": "null"}, "a1": {"kind": "null"}}}, "letters and digits"),
        ({"conditions": {"a": {"kind": "null", "masks": "folder"}}}, "those of a lesion"),
        ({"conditions": {"a": {"kind": "lesion", "sizes_ml": [3, 8]}}}, "give masks"),
        ({"conditions": {"a": {"kind": "lesion", "level": [0.5, 1.5]}}}, "between 0 and 1"),
        ({"conditions": {"a": {"kind": "atrophy", "changes": {"x": -5}, "labels": "folder"}}}, "belong together"),
        (
            {"conditions": {"a": {"kind": "atrophy", "changes": {"x": -5}, "labels": "f", "label_names": "t"}}},
            "of real scans",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Simulate.model_validate({"out": tmp_path, **settings})


def test_unknown_regions_too_many_people_and_yaml_null(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nearest name is 'hippocampus'"):
        Condition(kind="atrophy", changes={"hipocampus": -10})
    crowded = Simulate(out=tmp_path, subjects=5, conditions={"null": Condition(kind="null", count=6)})
    with pytest.raises(UserError, match="need 6 people but subjects=5"):
        crowded.plan()
    word = Simulate.model_validate({"out": tmp_path, "conditions": {None: {"kind": None, "count": 1}}})
    assert word.conditions["null"].kind == "null"
    assert any("null 1" in line for line in word.plan())
