"""Whom a norm can judge and whom not, each in a sentence; and one raw file from the command line to its page."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.norm.by_norm import subject_of
from gen3d.anomaly.norm.folder import open_norm
from gen3d.anomaly.norm.norm import Norm
from gen3d.cli import main
from gen3d.cohort.regions import region_table, regions_on
from gen3d.core.tables import write_table
from gen3d.imaging.plan import GridPlan, read_plan, write_plan
from gen3d.imaging.volume import write_nifti
from gen3d.prepare.prepare import Prepare
from tests.anomaly.norm.test_norm import table
from tests.cohorts import write_cohort
from tests.phantoms import matrix, scan_of, write
from tests.runs import fit
from tests.sealing import reseal


def on_the_grid(cohort: Path, plan: GridPlan) -> None:
    """Give a cohort a plan of the same grid, and the package's own regions."""
    write_plan(cohort / "plan.json", plan)
    write_nifti(cohort / "regions.nii", regions_on(plan), plan.matrix)
    write_table(cohort / "regions.tsv", region_table())


@pytest.fixture(scope="module")
def norm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a cohort on the grid that `gen3d prepare spacing_mm=4` makes."""
    home = tmp_path_factory.mktemp("by_norm")
    cohort = write_cohort(home / "cohort", 60, 0, sites=("a", "b"), seed=3)
    on_the_grid(cohort, Prepare(source=(cohort,), out=home, spacing_mm=4).grid())
    run = fit(cohort, home / "run")
    return Norm.model_validate({"prepared": cohort, "run": run, "out": home / "norm"}).run()


@pytest.fixture(scope="module")
def scan(norm: Path) -> Path:
    return write(norm.parent / "raw" / "sub-K7_T1w.nii.gz", scan_of(matrix(), 3.0))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said to a call of `gen3d anomaly` that is refused."""
    assert main(["anomaly", *words]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return " ".join((said.err + said.out).split())


def test_one_raw_file_becomes_maps_tables_and_a_page(norm: Path, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    words = [f"norm={norm}", f"scan={scan}", "age_years=61", "sex=F", "site=a", f"out={out}"]
    assert main(["anomaly", *words]) == 0
    subjects = table(out, "subjects")
    assert subjects[["subject", "age_years", "sex", "site"]].iloc[0].tolist() == ["K7", 61, "F", "a"]
    assert np.isfinite(subjects[[name for name in subjects if "score" in name]].to_numpy(dtype=float)).all()
    assert len(list((out / "maps").glob("*_zmap.nii.gz"))) == 3
    assert len(list((out / "native").glob("*_zmap.nii.gz"))) == 2, "in the scan's own space"
    assert table(out, "regions")["z"].notna().all()
    page = (out / "page" / "index.html").read_text()
    assert "K7" in page
    assert "Not included" not in page
    assert main(["anomaly", *words]) == 0, "a finished call has nothing to do"


def test_a_scan_of_an_unknown_site_gets_a_sentence_and_no_map(
    norm: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(
        capsys, f"norm={norm}", f"scan={scan}", "age_years=61", "sex=F", "site=elsewhere", f"out={tmp_path / 'm'}"
    )
    assert "cannot judge scans of site 'elsewhere', it has controls of a and b" in said
    assert "gen3d norm adapt=" in said
    assert not (tmp_path / "m").exists()


def test_scans_of_known_and_unknown_sites_together(norm: Path, tmp_path: Path) -> None:
    new = write_cohort(tmp_path / "new", 6, 0, sites=("a", "z"), seed=4, prefix="n")
    on_the_grid(new, read_plan(norm / "plan.json"))
    out = tmp_path / "maps"
    assert main(["anomaly", f"norm={norm}", f"prepared={new}", f"out={out}"]) == 0
    subjects = table(out, "subjects")
    unknown = subjects["site"] == "z"
    assert subjects.loc[unknown, "flags"].str.contains("no z map: site z has no calibration control").all()
    assert subjects.loc[unknown, "score_residual"].isna().all()
    assert subjects.loc[~unknown, "score_residual"].notna().all()


def test_ages_outside_are_judged_and_flagged(norm: Path, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    words = [f"norm={norm}", f"scan={scan}", "age_years=99", "sex=F", "site=b", f"out={out}", "page=false"]
    assert main(["anomaly", *words]) == 0
    assert "age 99 outside the calibrated" in table(out, "subjects")["flags"].iloc[0]


def test_scans_on_another_grid(norm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_cohort(tmp_path / "other", 6, 0, sites=("a",), prefix="n")
    said = refused(capsys, f"norm={norm}", f"prepared={other}", f"out={tmp_path / 'm'}")
    assert "prepare the scans with the norm's settings" in said


def test_no_raw_scan_is_aligned_otherwise_than_the_controls(
    norm: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen3d.imaging.plan.REGISTRATION", 3)
    said = refused(capsys, f"norm={norm}", f"scan={scan}", "age_years=60", "sex=F", "site=a", f"out={tmp_path / 'm'}")
    assert "aligned by registration 2, this version of gen3d has registration 3" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sex=x"], "`sex`: input should be '', 'F' or 'M'"),
        (["age_years=230"], "`age_years`: input should be less than or equal to 120"),
        (["smoothing_mm=8"], "`smoothing_mm` was fixed when the norm was fitted"),
        (["run=runs/other"], "`run` was fixed when the norm was fitted"),
        (["prepared=new"], "prepared=FOLDER, or one raw T1w file as scan=FILE"),
    ],
)
def test_settings_that_a_norm_does_not_take(
    words: list[str], sentence: str, norm: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"norm={norm}", f"scan={scan}", "site=a", f"out={tmp_path / 'm'}", *words]
    assert sentence in refused(capsys, *given)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["scan=x.nii"], "`scan` needs a norm to judge by"),
        (["age_years=3"], "`age_years` needs a norm to judge by"),
        (["prepared=x"], "`run` is missing"),
        (["norm=x"], "prepared=FOLDER, or one raw T1w file as scan=FILE"),
        (["norm=x", "prepared=y", "age_years=50"], "`age_years` is of a raw scan"),
    ],
)
def test_calls_that_are_neither_way(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refused(capsys, f"out={tmp_path / 'm'}", *words)


def test_a_file_that_is_not_there_or_no_scan(norm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, f"norm={norm}", f"scan={tmp_path / 'none.nii'}", "site=a", f"out={tmp_path / 'm'}")
    assert "no such file" in said
    (tmp_path / "text.nii").write_text("no image")
    said = refused(capsys, f"norm={norm}", f"scan={tmp_path / 'text.nii'}", "site=a", f"out={tmp_path / 'n'}")
    assert "text.nii" in said
    assert "It is the only scan" in said


@pytest.mark.parametrize("what", ["folder", "zip", "file"])
def test_dicom_files_are_sent_to_prepare(
    what: str, norm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(series / "1.dcm")
    given = {"folder": series, "zip": tmp_path / "export.zip", "file": series / "1.dcm"}[what]
    said = refused(capsys, f"norm={norm}", f"scan={given}", "site=a", f"out={tmp_path / 'm'}")
    assert f"gen3d prepare source={given if what == 'zip' else series} spacing_mm=4.0 " in said
    assert "give prepared=prepared in place of scan=" in said
    assert not (tmp_path / "m").exists()


def test_an_edited_norm_is_noticed_and_a_truncated_one_too(
    norm: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (f"scan={scan}", "site=a", f"out={tmp_path / 'm'}")
    for name in ("norm.json", "channels/deformation_voxels.npz", "channels/residual_regions.npz", "seen.json"):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(norm, copy)
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[:-40] + bytes(40))
        assert "was changed after `gen3d norm` finished" in refused(capsys, f"norm={copy}", *given)
        (copy / name).write_bytes(whole[: len(whole) // 2])
        reseal(copy)
        assert "damaged" in refused(capsys, f"norm={copy}", *given), name
        (copy / name).unlink()
        reseal(copy)
        assert "missing" in refused(capsys, f"norm={copy}", *given), name


def test_numbers_that_no_norm_has(norm: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (f"scan={scan}", "site=a", f"out={tmp_path / 'm'}")
    copy = tmp_path / "copy"
    shutil.copytree(norm, copy)
    path = copy / "channels" / "deformation_voxels.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    for wrong in ({"sd": -arrays["sd"]}, {"sd": arrays["sd"][:5]}, {"coefficients": arrays["coefficients"] * np.nan}):
        np.savez(path, **{**arrays, **wrong})
        reseal(copy)
        assert "damaged" in refused(capsys, f"norm={copy}", *given)


def test_another_model_in_a_norm_is_noticed(
    norm: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(norm, tmp_path / "copy")
    shutil.rmtree(copy / "runs" / "0")
    fit(norm.parent / "cohort", copy / "runs" / "0", kind="pca", num_components=2)
    said = refused(capsys, f"norm={copy}", f"scan={scan}", "site=a", f"out={tmp_path / 'm'}")
    assert "not the models that the norm was fitted with" in said


def test_too_few_controls_make_no_norm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = write_cohort(tmp_path / "few", 12, 0)
    run = fit(few, tmp_path / "run")
    assert main(["norm", f"prepared={few}", f"run={run}", f"out={tmp_path / 'norm'}"]) == 2
    assert "controls can calibrate" in capsys.readouterr().err


def test_people_whom_a_norm_saw_are_known_by_their_scans_too(norm: Path) -> None:
    seen = open_norm(norm).seen
    manifest = pd.read_csv(norm.parent / "cohort" / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    renamed = manifest.assign(subject="someone" + manifest["subject"].str[1:])
    calibrating = manifest["role"] == "calibration"
    known = np.array(seen.seen_by(renamed)) != ""
    assert known[calibrating].all()
    assert not known[~calibrating].any()


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-012_T1w.nii.gz", "012"),
        ("T1w.nii", "scan"),
        ("my brain.nii.gz", "mybrain"),
        ("sub-1_ses-2_T1w.nii", "1ses2"),
    ],
)
def test_the_id_of_a_file(name: str, subject: str) -> None:
    assert subject_of(Path(name)) == subject
