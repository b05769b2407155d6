"""Maps against known truth: planted changes are detected, healthy people are not, and every scored person is held out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly import compare as compare_module
from gen3d.anomaly.anomaly import Anomaly
from gen3d.cohort.manifest import Split
from gen3d.core.errors import UserError
from gen3d.imaging.volume import store
from tests.cohorts import EFFECT, PLANTED, write_cohort
from tests.runs import fit


def anomaly(**keys: object) -> Path:
    return Anomaly.model_validate({"native": False, **keys}).run()


@pytest.fixture(scope="module")
def maps(cohort: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return anomaly(prepared=cohort, run=run, out=tmp_path_factory.mktemp("maps") / "maps")


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.tsv", sep="\t", na_values="n/a")


def test_planted_region_is_found_with_its_size(maps: Path) -> None:
    regions = table(maps, "regions")
    patients = table(maps, "subjects").query("role == 'evaluation'")["key"]
    found = regions[regions["key"].isin(patients) & (regions["channel"] == "deformation")]
    planted = found[found["region"] == PLANTED]
    other = found[found["region"] != PLANTED]
    assert planted["effect_percent"].mean() == pytest.approx(100 * np.expm1(EFFECT), abs=5)
    assert (planted["z"] < -3).all()
    assert (planted["p_conformal"] == planted["p_conformal"].min()).all()
    assert other["z"].abs().mean() < 2


def test_planted_voxels_are_found_and_others_are_not(maps: Path, cohort: Path) -> None:
    key = table(maps, "subjects").query("role == 'evaluation'")["key"].iloc[0]
    labels = np.asarray(nib.load(cohort / "regions.nii").dataobj)
    mask = np.asarray(nib.load(cohort / "mask.nii").dataobj) > 0
    for channel in ("residual", "deformation"):
        image = nib.load(maps / "maps" / f"{key}_desc-{channel}_zmap.nii.gz")
        z = np.asarray(image.dataobj)
        np.testing.assert_allclose(image.affine, nib.load(cohort / "mask.nii").affine)
        assert z[labels == 1].mean() < -2.5
        assert abs(z[mask & (labels == 0)].mean()) < 0.6
        assert not z[~mask].any()
        significant = np.asarray(nib.load(maps / "maps" / f"{key}_desc-{channel}_significant.nii.gz").dataobj) > 0
        assert significant[labels == 1].mean() > 0.1
        assert significant[mask & (labels == 0)].mean() < 0.05
    clusters = table(maps, "clusters").query("key == @key and channel == 'deformation'")
    assert clusters["region"].iloc[0] == PLANTED
    assert clusters["peak_z"].iloc[0] < -4
    assert clusters["p_cluster"].iloc[0] == pytest.approx(1 / 22)


def test_clusters_of_healthy_people_are_not_large_among_the_largest(maps: Path) -> None:
    clusters, subjects = table(maps, "clusters"), table(maps, "subjects")
    test = subjects.loc[subjects["role"] == "test", "key"]
    smallest = clusters.groupby(["channel", "key"])["p_cluster"].min()
    for channel in ("residual", "structural", "deformation"):
        p = smallest[channel].reindex(test).fillna(1.0)
        assert (p <= 0.1).mean() <= 0.34
        assert p.min() >= 1 / 22 - 1e-6


def test_z_of_healthy_people_is_calibrated(maps: Path) -> None:
    calibration = json.loads((maps / "calibration.json").read_text())
    for channel in ("residual", "structural", "deformation"):
        test = calibration[channel]["test"]
        assert test["num_people"] == 12
        assert abs(test["mean"]) < 0.15
        assert test["sd"] == pytest.approx(1, abs=0.1)
        assert 0.035 < test["share_beyond_1.96"] < 0.07
        assert test["share_people_fdr_positive"] <= 1 / 12
        assert calibration[channel]["conformal_resolution"] == pytest.approx(1 / 22)


def test_scores_and_percentiles(maps: Path) -> None:
    subjects = table(maps, "subjects")
    patients, controls = subjects[subjects["role"] == "evaluation"], subjects[subjects["role"] != "evaluation"]
    assert patients["region_score_deformation"].min() > controls["region_score_deformation"].median()
    assert (patients["region_percentile_deformation"] >= 95).all()
    assert 30 < controls["percentile_deformation"].mean() < 70


def test_null_patients_stay_null(tmp_path: Path) -> None:
    prepared = write_cohort(tmp_path / "null", effect=0.0, num_patients=8, seed=3)
    folder = anomaly(prepared=prepared, run=fit(prepared, tmp_path / "run"), out=tmp_path / "maps")
    patients = table(folder, "subjects").query("role == 'evaluation'")
    assert (patients["voxels_fdr_deformation"] > 0).sum() <= 1
    assert 20 < patients["percentile_deformation"].mean() < 80


def test_train_people_get_no_z(maps: Path) -> None:
    assert "train" not in set(table(maps, "subjects")["role"])


def test_a_second_scan_of_a_calibration_person_is_calibrated_without_that_person(maps: Path) -> None:
    subjects = table(maps, "subjects")
    calibration = json.loads((maps / "calibration.json").read_text())["residual"]["num_controls"]
    people = subjects[subjects["role"] == "calibration"]
    assert people["subject"].nunique() == calibration
    again = people[people["subject"].duplicated()]
    assert len(again)
    assert again["percentile_residual"].between(0, 100).all()


def test_a_planted_copy_is_calibrated_without_its_base(cohort: Path, run: Path, maps: Path, tmp_path: Path) -> None:
    """Two copies of a calibration scan: one unchanged, which gets the z of its base, one with a block taken out."""
    subjects = table(maps, "subjects")
    base = subjects[(subjects["role"] == "calibration") & (subjects["session"] == 1)].iloc[-1]["key"]
    bench = tmp_path / "bench"
    shutil.copytree(cohort, bench)
    frame = pd.read_csv(bench / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    row = frame[frame["key"] == base].iloc[0]
    labels = np.asarray(nib.load(cohort / "regions.nii").dataobj)
    rows = []
    for session, effect in (("null", 0.0), ("lesion", EFFECT)):
        key = f"sub-{row['subject']}_ses-{session}"
        rows.append({**row, "session": session, "key": key, "role": "evaluation", "base": base})
        for channel in ("t1w", "log_jacobian"):
            image = nib.load(cohort / "volumes" / f"{base}_{channel}.nii")
            store(bench / "volumes" / f"{key}_{channel}.nii", image.get_fdata() + effect * (labels == 2), image.affine)
    pd.DataFrame(rows).to_csv(bench / "manifest.tsv", sep="\t", index=False)
    record = json.loads((bench / "artefact.json").read_text())
    (bench / "artefact.json").write_text(json.dumps({**record, "key": "bench"}))
    found = anomaly(prepared=[cohort, bench], run=run, out=tmp_path / "maps", channels=["deformation"])
    before, after = table(maps, "regions"), table(found, "regions")
    before = before[before["channel"] == "deformation"].set_index(["key", "region"])
    after = after[after["channel"] == "deformation"].set_index(["key", "region"])
    null, lesion = rows[0]["key"], rows[1]["key"]
    for column in ("z", "p_conformal", "p_max"):
        expected = before.loc[base, column].to_numpy()
        np.testing.assert_allclose(after.loc[base, column], expected, rtol=1e-4)
        np.testing.assert_allclose(after.loc[null, column], expected, rtol=2e-3, atol=2e-3)
    assert after.loc[(lesion, "right block"), "z"] < after.loc[(base, "right block"), "z"] - 3
    calibration = json.loads((found / "calibration.json").read_text())["deformation"]
    assert (
        calibration["num_controls"]
        == json.loads((maps / "calibration.json").read_text())["deformation"]["num_controls"]
    )
    clusters = table(found, "clusters").set_index("key").loc[[lesion]]
    assert clusters["p_cluster"].iloc[0] == pytest.approx(1 / calibration["num_controls"])


def test_cross_fitting_calibrates_on_train_people_too(cohort: Path, tmp_path: Path) -> None:
    folder = anomaly(prepared=cohort, run=fit(cohort, tmp_path / "run", cross_fit=4), out=tmp_path / "maps")
    calibration = json.loads((folder / "calibration.json").read_text())
    assert calibration["residual"]["num_controls"] == 36
    assert calibration["residual"]["columns"] == ["intercept"]
    assert 0.035 < calibration["residual"]["test"]["share_beyond_1.96"] < 0.07


def test_people_who_were_trained_on_do_not_calibrate(
    cohort: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(cohort, mixed)
    frame = pd.read_csv(mixed / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    trained = frame.loc[frame["role"] == "train", "subject"].unique()[:2]
    frame.loc[frame["subject"].isin(trained), "role"] = "calibration"
    frame.to_csv(mixed / "manifest.tsv", sep="\t", index=False)
    folder = anomaly(prepared=mixed, run=run, out=tmp_path / "maps", channels=["deformation"])
    assert json.loads((folder / "calibration.json").read_text())["deformation"]["num_controls"] == 21
    assert not set(trained) & set(table(folder, "subjects")["subject"])
    assert f"({', '.join(trained)}) were seen by every member of" in capfd.readouterr().err


def test_a_site_without_controls_gets_no_map_but_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepared = write_cohort(tmp_path / "c", lone_site="far", num_patients=2)
    folder = anomaly(prepared=prepared, run=fit(prepared, tmp_path / "run"), out=tmp_path / "maps")
    far = table(folder, "subjects").query("site == 'far'")
    assert len(far) == 2
    assert far["score_residual"].isna().all()
    assert far["flags"].str.contains("no z map").all()
    assert not list((folder / "maps").glob(f"{far['key'].iloc[0]}*"))
    assert (
        "2 scans get no z map: site far has no calibration control of its own and 3 are needed"
        in capfd.readouterr().err
    )


def test_age_outside_the_calibrated_range_is_flagged(tmp_path: Path, cohort: Path, run: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(cohort, older)
    path = older / "manifest.tsv"
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    row = frame.index[frame["role"] == "evaluation"][0]
    frame.loc[row, "age_years"] = "93"
    frame.to_csv(path, sep="\t", index=False)
    folder = anomaly(prepared=older, run=run, out=tmp_path / "maps", channels=["deformation"])
    flags = table(folder, "subjects").set_index("key").loc[frame.loc[row, "key"], "flags"]
    assert "age 93 outside the calibrated" in flags


def test_interrupted_goes_on_and_ends_the_same(
    cohort: Path, pca_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"prepared": cohort, "run": pca_run, "channels": ["residual"]}
    whole = anomaly(**keys, out=tmp_path / "whole")
    real, seen = compare_module.track, []

    def stop_after_five(rows, description, total=None):  # type: ignore[no-untyped-def]
        for item in real(rows, description, total=total):
            if len(seen) == 5:
                raise KeyboardInterrupt
            seen.append(item)
            yield item

    monkeypatch.setattr(compare_module, "track", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        anomaly(**keys, out=tmp_path / "broken")
    rest: list[int] = []

    def count(rows, description, total=None):  # type: ignore[no-untyped-def]
        for item in real(rows, description, total=total):
            rest.append(item)
            yield item

    monkeypatch.setattr(compare_module, "track", count)
    broken = anomaly(**keys, out=tmp_path / "broken")
    assert not set(rest) & set(seen[:5])
    for name in ("subjects.tsv", "regions.tsv", "calibration.json"):
        assert (whole / name).read_text() == (broken / name).read_text()
    assert not list(broken.glob(".values-*"))


def test_mistakes(cohort: Path, run: Path, tmp_path: Path) -> None:
    few = write_cohort(tmp_path / "few", num_controls=12, num_patients=1)
    with pytest.raises(UserError, match="only 5 controls can calibrate"):
        anomaly(prepared=few, run=fit(few, tmp_path / "r"), out=tmp_path / "m1")
    with pytest.raises(UserError, match="was written by `gen3d prepare`"):
        anomaly(prepared=cohort, run=cohort, out=tmp_path / "m2")
    finished = anomaly(prepared=cohort, run=run, out=tmp_path / "m3", channels=["residual"])
    with pytest.raises(UserError, match="holds a result of other settings"):
        anomaly(prepared=cohort, run=run, out=finished, channels=["residual"], smoothing_mm=9)
    other = tmp_path / "other"
    shutil.copytree(cohort, other)
    plan = json.loads((other / "plan.json").read_text())
    (other / "plan.json").write_text(json.dumps({**plan, "intensity": "percentile"}))
    with pytest.raises(UserError, match="weights of another plan"):
        anomaly(prepared=other, run=run, out=tmp_path / "m4")


def test_a_cohort_without_held_out_people_is_refused(tmp_path: Path) -> None:
    prepared = write_cohort(
        tmp_path / "c", num_controls=20, num_patients=0, split=Split(train=1, calibration=0, test=0)
    )
    with pytest.raises(UserError, match="nobody is left"):
        anomaly(prepared=prepared, run=fit(prepared, tmp_path / "r"), out=tmp_path / "m")
