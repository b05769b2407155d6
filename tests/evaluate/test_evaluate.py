"""`gen3d evaluate` on maps whose statistics are known: Gaussian z with shifts in known voxels and regions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import norm

from gen3d.anomaly.folder import P_CONFORMAL, map_path
from gen3d.core.config import Folders, Verb
from gen3d.core.errors import UserError
from gen3d.core.output_folder import begin
from gen3d.evaluate.evaluate import Evaluate
from gen3d.evaluate.regions import paired_auc_difference
from gen3d.evaluate.truth import open_maps, open_truth
from gen3d.evaluate.voxels_and_people import ScoreHistogram, Settings, detection_limit, severity_groups
from gen3d.imaging.volume import write_nifti
from gen3d.maths.significance import burden
from gen3d.simulate.folder import TRUTH_REGIONS, TRUTH_VOLUMES, changed_path, log_jacobian_path, write_truth
from tests.maps_folder import write_tables
from tests.sealing import reseal

SHAPE = (16, 14, 12)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
REGIONS = ("left hippocampus", "right hippocampus", "cuneus")
LESION_SHIFT = -3.0
BIAS_PERCENT = 2.0
GROUPS = {
    "test": ("none", 24),
    "calibration": ("none", 20),
    "atrophy": ("ad", 24),
    "lesion": ("lesion", 10),
    "null": ("null", 16),
}


class Cohort(Verb):
    """Stand-in for the verb that simulates: only its record matters here."""

    seed: int = Field(0, description="seed")


class MadeFrom(Verb):
    """Stand-in for the verb that writes maps."""

    prepared: Folders = Field(description="cohorts")


def brain_mask() -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1:-1, 1:-1, 1:-1] = True
    return mask


def lesion_mask() -> NDArray[np.bool_]:
    lesion = np.zeros(SHAPE, dtype=bool)
    lesion[3:8, 3:8, 3:8] = True
    return lesion


def people() -> pd.DataFrame:
    rows = []
    for group, (condition, num) in GROUPS.items():
        for index in range(num):
            severity = (0.5, 1.0)[index % 2] if condition == "ad" else float(condition == "lesion")
            role = group if group in ("test", "calibration") else "evaluation"
            subject = f"{group}{index:02d}"
            rows.append((subject, "1", f"sub-{subject}_ses-1", condition, severity, role))
    return pd.DataFrame(rows, columns=["subject", "session", "key", "condition", "severity", "role"])


def write_cohort(folder: Path, seed: int = 0) -> Path:
    work = begin(Cohort(out=folder, seed=seed), "simulate", {})
    (folder / "truth").mkdir()
    write_nifti(folder / "mask.nii", brain_mask().astype(np.uint8), AFFINE)
    table = people()
    changes = []
    for row in table.itertuples():
        if row.condition == "lesion":
            write_nifti(changed_path(folder, row.key), lesion_mask().astype(np.uint8), AFFINE)
        if row.condition == "ad":
            log_jacobian = np.where(lesion_mask(), math.log(1 - 0.2 * row.severity), 0.01)
            write_nifti(log_jacobian_path(folder, row.key), log_jacobian, AFFINE)
            changes += [(row.key, region, -20 * row.severity) for region in REGIONS[:2]]
    frame = pd.DataFrame(changes, columns=list(TRUTH_REGIONS.columns))
    volumes = pd.DataFrame(columns=list(TRUTH_VOLUMES.columns))
    write_truth(folder, table.drop(columns="role"), frame, volumes)
    work.finish()
    return folder


def write_maps(folder: Path, cohort: Path, sees: bool, seed: int = 1) -> Path:
    """Maps that see what was planted, or maps of noise alone."""
    work = begin(MadeFrom(out=folder, prepared=(cohort,)), "anomaly", {"prepared": [cohort]})
    rng = np.random.default_rng(seed)
    table, mask, lesion = people(), brain_mask(), lesion_mask()
    regions = []
    for row in table.itertuples():
        for channel, condition in (("residual", "lesion"), ("deformation", "ad")):
            z = rng.standard_normal(SHAPE) * mask
            hit = sees and row.condition == condition
            z[lesion] += LESION_SHIFT * row.severity * hit
            write_nifti(map_path(folder, row.key, channel), z, AFFINE)
            table.loc[row.Index, f"score_{channel}"] = burden(z[mask])
            for region in REGIONS:
                change = -20 * row.severity * (hit and channel == "deformation" and region != "cuneus")
                z_region = change / 5 + rng.standard_normal()
                effect = change + BIAS_PERCENT + rng.normal(0, 1)
                regions.append((row.key, channel, region, effect / 100, effect, z_region, 2 * norm.sf(abs(z_region))))
    names = ["key", "channel", "region", "effect", "effect_percent", "z", P_CONFORMAL]
    told = table.drop(columns=["condition", "severity"]).assign(diagnosis="CN")
    write_tables(folder, told, pd.DataFrame(regions, columns=names))
    work.finish()
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("evaluate")
    cohort = write_cohort(base / "cohort")
    maps = {name: write_maps(base / name, cohort, sees=name == "vae") for name in ("blind", "vae")}
    out = Evaluate(maps=(maps["blind"], maps["vae"]), truth=cohort, out=base / "evaluation", bootstrap=300).run()
    return {"cohort": cohort, "out": out, "base": base, **maps}


def rows(folders: dict[str, Path], table: str, **chosen: str) -> pd.DataFrame:
    frame = pd.read_csv(
        folders["out"] / f"{table}.tsv", sep="\t", na_values=["n/a"], keep_default_na=False, dtype={"severity": str}
    )
    for column, value in chosen.items():
        frame = frame[frame[column] == value]
    return frame


def one(folders: dict[str, Path], table: str, **chosen: str) -> pd.Series:
    found = rows(folders, table, **chosen)
    assert len(found) == 1
    return found.iloc[0]


def test_voxel_auroc_equals_the_closed_form(folders: dict[str, Path]) -> None:
    """P(|N(d, 1)| > |N(0, 1)|) = Phi(d / sqrt 2)^2 + Phi(-d / sqrt 2)^2."""
    seen = one(folders, "voxels", maps="vae", channel="residual", condition="lesion", severity="all")
    chance = norm.cdf(LESION_SHIFT / math.sqrt(2))
    assert seen["auroc"] == pytest.approx(chance**2 + (1 - chance) ** 2, abs=0.01)
    assert seen["auroc_low"] < seen["auroc"] < seen["auroc_high"]
    assert seen["num"] == 10
    assert seen["prevalence"] == pytest.approx(125 / (14 * 12 * 10), abs=1e-6)
    blind = one(folders, "voxels", maps="blind", channel="residual", condition="lesion", severity="all")
    assert blind["auroc"] == pytest.approx(0.5, abs=0.03)
    assert blind["auprc"] == pytest.approx(blind["prevalence"], abs=0.02)


def test_threshold_lets_one_control_voxel_in_a_thousand_through(folders: dict[str, Path]) -> None:
    seen = one(folders, "voxels", maps="vae", channel="residual", condition="lesion", severity="all")
    assert seen["threshold"] == pytest.approx(norm.isf(0.0005), abs=0.1)
    expected_sensitivity = norm.sf(seen["threshold"] + LESION_SHIFT)
    assert seen["sensitivity_at_threshold"] == pytest.approx(expected_sensitivity, abs=0.05)
    assert seen["dice_at_threshold"] <= seen["dice_oracle"]
    assert 0.3 < seen["dice_at_threshold"] < 0.8


def test_deformation_is_measured_where_the_true_log_jacobian_exceeds_two_percent(folders: dict[str, Path]) -> None:
    all_rows = rows(folders, "voxels", maps="vae", channel="deformation", condition="ad")
    assert list(all_rows["severity"]) == ["all", "0.5", "1"]
    assert list(all_rows["num"]) == [24, 12, 12]
    assert (all_rows["prevalence"] - 125 / 1680).abs().max() < 1e-6
    assert all_rows["auroc"].iloc[1] < all_rows["auroc"].iloc[0] < all_rows["auroc"].iloc[2]
    assert rows(folders, "voxels", channel="deformation", condition="lesion").empty


def test_correlation_with_the_true_log_jacobian_is_signed_and_has_its_closed_form(folders: dict[str, Path]) -> None:
    """z = shift x indicator + N(0, 1): correlation = shift sd / sqrt(1 + shift^2 var) of the indicator's variance."""
    share = 125 / 1680
    variance = LESION_SHIFT**2 * share * (1 - share)
    seen = one(folders, "voxels", maps="vae", channel="deformation", condition="ad", severity="1")
    assert seen["correlation"] == pytest.approx(math.sqrt(variance / (1 + variance)), abs=0.02)
    blind = one(folders, "voxels", maps="blind", channel="deformation", condition="ad", severity="all")
    assert blind["correlation"] == pytest.approx(0, abs=0.02)
    assert math.isnan(
        one(folders, "voxels", maps="vae", channel="residual", condition="lesion", severity="all")["correlation"]
    )


def test_the_size_of_a_true_change_can_be_chosen(folders: dict[str, Path], tmp_path: Path) -> None:
    out = Evaluate(
        maps=folders["vae"], truth=folders["cohort"], out=tmp_path / "out", bootstrap=100, changed_log_jacobian=0.15
    ).run()
    assert list(rows({"out": out}, "voxels", channel="deformation", condition="ad")["num"]) == [12]


def test_differences_are_paired_against_the_first_maps(folders: dict[str, Path]) -> None:
    difference = one(folders, "differences", channel="residual", condition="lesion")
    assert (difference["maps"], difference["minus"], difference["num"]) == ("vae", "blind", 10)
    assert difference["auroc_low"] > 0.4


def test_both_sides_together_are_a_region_of_their_own(folders: dict[str, Path]) -> None:
    """The mean of two independent N(d, 1) against that of two N(0, 1): AUC = Phi(d), with d = mean z of the severity."""
    sides = [
        one(folders, "regions", maps="vae", channel="deformation", condition="ad", region=f"{side} hippocampus")
        for side in ("left", "right")
    ]
    both = one(folders, "regions", maps="vae", channel="deformation", condition="ad", region="hippocampus (both)")
    assert both["mean_z"] == pytest.approx(np.mean([side["mean_z"] for side in sides]))
    assert both["true_percent"] == pytest.approx(-15)
    assert both["bias_percent"] == pytest.approx(BIAS_PERCENT, abs=0.5)
    assert both["auc"] > min(side["auc"] for side in sides)
    assert math.isnan(both["share_p_conformal_5_percent"])
    names = [row["measure"] for row in json.loads((folders["out"] / "metrics.json").read_text())["headline"]]
    assert "detected at 5 % false positives by hippocampus (both) (-15.0 % planted)" in names


def test_one_region_detects_people_at_five_percent_false_positives(folders: dict[str, Path]) -> None:
    """Of 24 controls one may be as extreme, so a person must exceed the second lowest: P(N(-2 or -4, 1) < it)."""
    seen = one(folders, "regions", maps="vae", channel="deformation", condition="ad", region="left hippocampus")
    table = pd.read_csv(folders["vae"] / "regions.tsv", sep="\t")
    z = table[(table["channel"] == "deformation") & (table["region"] == "left hippocampus")].set_index("key")["z"]
    controls = np.sort(z[[f"sub-test{i:02d}_ses-1" for i in range(24)]].to_numpy())
    ill = z[[f"sub-atrophy{i:02d}_ses-1" for i in range(24)]].to_numpy()
    assert seen["sensitivity"] == pytest.approx(np.mean(ill < controls[0]), abs=1e-9)
    assert seen["sensitivity_low"] < seen["sensitivity"] < seen["sensitivity_high"]
    null = one(folders, "regions", maps="vae", channel="deformation", condition="null", region="left hippocampus")
    assert null["sensitivity"] <= 0.3


def test_regions_are_compared_between_models_on_the_same_people(folders: dict[str, Path]) -> None:
    difference = one(folders, "region_differences", condition="ad", region="hippocampus (both)")
    each = [
        one(folders, "regions", maps=name, channel="deformation", condition="ad", region="hippocampus (both)")["auc"]
        for name in ("vae", "blind")
    ]
    assert difference["auc"] == pytest.approx(each[0] - each[1], abs=1e-5)
    assert (difference["maps"], difference["minus"], difference["num"]) == ("vae", "blind", 24)
    assert 0 < difference["auc_low"] < difference["auc"] < difference["auc_high"]
    assert set(rows(folders, "region_differences")["region"]) == {*REGIONS[:2], "hippocampus (both)"}


def test_paired_interval_of_auc_covers_zero_where_models_are_equal_and_draws_a_person_with_the_twin() -> None:
    rng = np.random.default_rng(3)
    people = np.array([f"p{i}" for i in range(40)], dtype=object)
    settings = Settings(0.05, 400, 0, 0.1)
    covered = 0
    for _ in range(60):
        shared = rng.normal(size=(2, 40))
        scores = [shared + 0.5 * rng.normal(size=(2, 40)) for _ in range(2)]
        wins = [(ill[:, None] > well[None, :]).astype(float) for ill, well in scores]
        interval = paired_auc_difference(wins[0], wins[1], people, people, settings)
        covered += interval.low <= 0 <= interval.high
    assert 51 <= covered <= 60
    unknown = np.full((2, 3), np.nan)
    assert paired_auc_difference(unknown, unknown, people[:2], people[:3], settings).num == 0


def test_regions(folders: dict[str, Path]) -> None:
    hippocampus = one(folders, "regions", maps="vae", channel="deformation", condition="ad", region="left hippocampus")
    assert hippocampus["changed"]
    assert hippocampus["true_percent"] == pytest.approx(-15)
    assert hippocampus["auc"] > 0.9
    assert hippocampus["bias_percent"] == pytest.approx(BIAS_PERCENT, abs=0.6)
    assert hippocampus["bias_percent_low"] < BIAS_PERCENT < hippocampus["bias_percent_high"]
    assert hippocampus["recovered"] == pytest.approx((-15 + BIAS_PERCENT) / -15, abs=0.05)
    assert hippocampus["spearman"] > 0.5
    spared = one(folders, "regions", maps="vae", channel="deformation", condition="ad", region="cuneus")
    assert not spared["changed"]
    assert spared["auc_low"] < 0.5 < spared["auc_high"]
    assert math.isnan(
        one(folders, "regions", maps="vae", channel="residual", condition="ad", region="cuneus")["bias_percent"]
    )


def test_people_are_detected_where_there_is_something_and_not_elsewhere(folders: dict[str, Path]) -> None:
    seen = one(folders, "detection", maps="vae", score="largest region deformation", condition="ad", severity="1")
    assert seen["sensitivity"] > 0.7
    assert (seen["num"], seen["num_controls"]) == (12, 24)
    for condition, score in (("null", "largest region deformation"), ("lesion", "largest region deformation")):
        spared = one(folders, "detection", maps="vae", score=score, condition=condition, severity="all")
        assert spared["sensitivity_low"] < 0.07
        assert spared["auc_low"] < 0.5 < spared["auc_high"]
    assert (
        one(folders, "detection", maps="vae", score="burden residual", condition="lesion", severity="all")["auc"] > 0.95
    )


def test_calibration_of_people_with_nothing_planted(folders: dict[str, Path]) -> None:
    for group, num in (("test controls", 24), ("calibration controls", 20), ("null condition", 16)):
        row = one(folders, "calibration", maps="vae", channel="residual", group=group)
        assert row["num"] == num
        assert row["share_beyond_1_96"] == pytest.approx(0.05, abs=0.006)
        assert row["sd_z"] == pytest.approx(1.0, abs=0.02)
        assert row["share_people_fdr_positive_low"] <= 0.05


def test_profiles_rank_regions_within_people(folders: dict[str, Path]) -> None:
    assert one(folders, "profiles", maps="vae", channel="deformation", condition="ad", severity="1")["spearman"] > 0.5
    assert rows(folders, "profiles", condition="null").empty


def test_metrics_are_json_with_a_headline(folders: dict[str, Path]) -> None:
    metrics = json.loads((folders["out"] / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert set(metrics["maps"]) == {"blind", "vae"}
    assert metrics["conditions"] == {"none": 44, "ad": 24, "null": 16, "lesion": 10}
    assert all({"maps", "measure", "value", "low", "high", "num"} <= set(row) for row in metrics["headline"])
    named = [row["measure"] for row in metrics["headline"] if row["maps"] == "vae" and row["condition"] == "ad"]
    assert any("hippocampus (-15.0 % planted)" in name for name in named)


def test_running_again_changes_nothing_and_other_settings_are_refused(folders: dict[str, Path]) -> None:
    before = (folders["out"] / "metrics.json").stat().st_mtime_ns
    settings = {"maps": (folders["blind"], folders["vae"]), "truth": folders["cohort"], "out": folders["out"]}
    Evaluate(**settings, bootstrap=300).run()
    assert (folders["out"] / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings"):
        Evaluate(**settings, bootstrap=500).run()


def test_plan_says_what_would_be_measured(folders: dict[str, Path], tmp_path: Path) -> None:
    lines = Evaluate(maps=folders["vae"], truth=folders["cohort"], out=tmp_path / "out").plan()
    assert lines[0] == "measures vae (residual, deformation) in 94 scans, thresholds from 24 held-out controls"
    assert lines[1] == "conditions: ad, lesion, null"
    assert not (tmp_path / "out").exists()


def test_twins_of_a_bench_are_measured_with_the_controls_of_its_cohort(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Maps of prepared=[cohort, bench]: the truth lists the twins only; controls are recognised by role and count once."""
    bench = write_cohort(tmp_path / "bench")
    planted = pd.read_csv(bench / "truth" / "truth.tsv", sep="\t", dtype=str, keep_default_na=False)
    planted[planted["condition"] != "none"].to_csv(bench / "truth" / "truth.tsv", sep="\t", index=False)
    reseal(bench)
    maps = write_maps(tmp_path / "maps", bench, sees=True)
    table = pd.read_csv(maps / "subjects.tsv", sep="\t", dtype=str)
    again = table[table["role"] == "test"].head(5).assign(session="2")
    again["key"] = again["key"].str.replace("ses-1", "ses-2")
    patient = table.head(1).assign(subject="ill", key="sub-ill_ses-1", role="evaluation")
    pd.concat([table, again, patient]).to_csv(maps / "subjects.tsv", sep="\t", index=False)
    reseal(maps)
    (opened,) = open_maps([maps], open_truth(bench))
    assert opened.subjects["condition"].value_counts().to_dict() == {"none": 44, "ad": 24, "null": 16, "lesion": 10}
    assert len(opened.test_controls) == 24
    assert not opened.subjects["key"].str.contains("ses-2|ill").any()
    out = Evaluate(maps=maps, truth=bench, out=tmp_path / "out", bootstrap=100).run()
    for name in ("voxels", "regions", "detection"):
        first = pd.read_csv(folders["out"] / f"{name}.tsv", sep="\t", dtype={"severity": str})
        second = pd.read_csv(out / f"{name}.tsv", sep="\t", dtype={"severity": str})
        values = [name for name in ("auroc", "auc") if name in first]
        expected = first[first["maps"] == "vae"][values].reset_index(drop=True)
        pd.testing.assert_frame_equal(second[values], expected)


def test_wrong_inputs_are_sentences(folders: dict[str, Path], tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", seed=7)
    with pytest.raises(UserError, match="of another cohort"):
        Evaluate(maps=folders["vae"], truth=other, out=tmp_path / "a").run()
    with pytest.raises(UserError, match="was written by `gen3d anomaly`"):
        Evaluate(maps=folders["vae"], truth=folders["blind"], out=tmp_path / "b").run()
    with pytest.raises(UserError, match="given twice"):
        Evaluate(maps=(folders["vae"], folders["vae"]), truth=folders["cohort"], out=tmp_path / "c").run()
    real = tmp_path / "real"
    begin(Cohort(out=real), "prepare", {}).finish()
    with pytest.raises(UserError, match="written by `gen3d prepare`"):
        Evaluate(maps=folders["vae"], truth=real, out=tmp_path / "d").run()
    maps = write_maps(tmp_path / "maps", other, sees=False)
    table = pd.read_csv(maps / "subjects.tsv", sep="\t", dtype=str)
    table.assign(key="x" + table["key"]).to_csv(maps / "subjects.tsv", sep="\t", index=False)
    reseal(maps)
    with pytest.raises(UserError, match="no scan of"):
        Evaluate(maps=maps, truth=other, out=tmp_path / "e").run()
    table.to_csv(maps / "subjects.tsv", sep="\t", index=False)
    key = table["key"].iloc[0]
    write_nifti(maps / "maps" / f"{key}_desc-residual_zmap.nii.gz", np.zeros((9, 9, 9)), AFFINE)
    reseal(maps)
    with pytest.raises(UserError, match="its grid"):
        Evaluate(maps=maps, truth=other, out=tmp_path / "f").run()
    (other / "truth" / "truth.tsv").unlink()
    reseal(other)
    with pytest.raises(UserError, match="no such table"):
        Evaluate(maps=maps, truth=other, out=tmp_path / "g").run()


def test_few_controls_leave_sensitivities_empty(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = write_maps(tmp_path / "maps", folders["cohort"], sees=True)
    table = pd.read_csv(maps / "subjects.tsv", sep="\t", dtype=str)
    healthy = table["role"].isin(["test", "calibration"])
    kept = table[~healthy | (healthy.cumsum() <= 10)]
    kept.to_csv(maps / "subjects.tsv", sep="\t", index=False)
    reseal(maps)
    out = Evaluate(maps=maps, truth=folders["cohort"], out=tmp_path / "out", bootstrap=100).run()
    assert "10 held-out controls; with fewer than 19 no person" in capsys.readouterr().err
    few = rows({"out": out}, "detection", score="burden residual", condition="lesion")
    assert few["sensitivity"].isna().all()
    assert (few["num_controls"] == 10).all()
    assert few["auc"].notna().all()


def test_many_severities_become_thirds() -> None:
    frame = pd.DataFrame({"severity": np.linspace(0, 1, 20)})
    groups = list(severity_groups(frame))
    assert [len(group) for _, _, group in groups] == [20, 7, 7, 6]
    assert groups[1][0] == "0 to 0.316"
    assert len(list(severity_groups(frame.head(1)))) == 1


def test_detection_limit_needs_all_greater_severities() -> None:
    def table(sensitivities: list[float]) -> pd.DataFrame:
        graded = [
            {"severity": str(i), "mean_severity": float(i), "auc_low": 0.8, "sensitivity": value}
            for i, value in enumerate(sensitivities)
        ]
        return pd.DataFrame([{"severity": "all", "mean_severity": 1.0, "auc_low": 0.9, "sensitivity": 1.0}, *graded])

    assert detection_limit(table([0.1, 0.85, 0.9])) == 1.0
    assert detection_limit(table([0.9, 0.1, 0.9])) == 2.0
    assert detection_limit(table([0.9, 0.9, 0.1])) is None


def test_score_histogram_gives_the_quantile() -> None:
    histogram, values = ScoreHistogram(), np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    histogram.add(values[:50_000])
    histogram.add(values[50_000:])
    threshold = histogram.threshold(0.001)
    assert threshold == pytest.approx(np.quantile(values, 0.999), abs=0.004)
    assert np.mean(values > threshold) <= 0.001
    assert math.isnan(ScoreHistogram().threshold(0.001))
    assert Settings(0.05, 100, 0, 0.02).interval([]).num == 0
