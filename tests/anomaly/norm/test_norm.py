"""A norm judges new people as the cohort it came from would, without their images; null people stay null."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.norm.folder import open_norm
from gen3d.anomaly.norm.norm import Norm
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.manifest import Split
from gen3d.core.errors import UserError
from tests.cohorts import PLANTED, write_cohort
from tests.runs import fit


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.tsv", sep="\t", na_values="n/a")


TABLES = ("subjects", "regions", "clusters")


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("norm") / "controls", 60, 0, sites=("a", "b"), seed=3)


@pytest.fixture(scope="module")
def run(controls: Path) -> Path:
    return fit(controls, controls.parent / "run")


@pytest.fixture(scope="module")
def norm(controls: Path, run: Path) -> Path:
    return Norm.model_validate({"prepared": controls, "run": run, "out": controls.parent / "adult"}).run()


@pytest.fixture(scope="module")
def new(controls: Path) -> Path:
    split = Split(train=0, calibration=0, test=1)
    return write_cohort(controls.parent / "new", 8, 4, sites=("a", "b"), seed=9, prefix="n", split=split)


@pytest.fixture(scope="module")
def judged(norm: Path, new: Path) -> Path:
    return Anomaly.model_validate({"norm": norm, "prepared": new, "out": new.parent / "judged"}).run()


@pytest.fixture(scope="module")
def together(controls: Path, run: Path, new: Path) -> Path:
    """The same people judged in one cohort with the controls."""
    keys = {"prepared": [controls, new], "run": run, "out": new.parent / "together"}
    return Anomaly.model_validate(keys).run()


def test_maps_and_tables_equal_those_of_a_cohort_with_the_same_controls(
    judged: Path, together: Path, new: Path
) -> None:
    keys = list(open_prepared(new).manifest["key"])
    for key in keys:
        for channel in ("residual", "structural", "deformation"):
            name = f"maps/{key}_desc-{channel}_zmap.nii.gz"
            mine, theirs = (np.asarray(nib.load(folder / name).dataobj) for folder in (judged, together))
            np.testing.assert_allclose(mine, theirs, atol=1e-4)
    for name in TABLES:
        mine = table(judged, name)
        theirs = table(together, name)
        theirs = theirs[theirs["key"].isin(keys)].reset_index(drop=True)
        assert list(mine.columns) == list(theirs.columns)
        pd.testing.assert_frame_equal(mine, theirs, rtol=1e-4, atol=1e-4, check_dtype=False)


def test_nothing_planted_stays_nothing_and_what_is_planted_is_found(judged: Path, norm: Path) -> None:
    regions = table(judged, "regions")
    subjects = table(judged, "subjects")
    patients = subjects.loc[subjects["role"] == "evaluation", "key"]
    in_deformation = (regions["channel"] == "deformation") & (regions["region"] == PLANTED)
    planted = regions[in_deformation & regions["key"].isin(patients)]
    assert (planted["z"] < -3).all()
    healthy = subjects[subjects["role"] == "test"]
    assert (healthy[[name for name in subjects if name.startswith("voxels_fdr")]] == 0).mean(axis=None) > 0.9
    record = json.loads((norm / "calibration.json").read_text())
    for channel in ("residual", "structural", "deformation"):
        assert record[channel]["calibration_held_out"]["share_beyond_1.96"] == pytest.approx(0.05, abs=0.012)
        assert record[channel]["test"]["num_people"] > 5


def test_a_norm_works_without_its_cohort_and_away_from_its_place(
    norm: Path, new: Path, judged: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(norm, moved)
    hidden = norm.parent / "hidden"
    (norm.parent / "controls").rename(hidden)
    try:
        again = Anomaly.model_validate({"norm": moved, "prepared": new, "out": tmp_path / "maps"}).run()
    finally:
        hidden.rename(norm.parent / "controls")
    for name in TABLES:
        assert (again / f"{name}.tsv").read_text() == (judged / f"{name}.tsv").read_text()
    assert not list(moved.rglob("*.nii*")), "no image of anybody"


def test_no_person_is_named_in_a_norm(norm: Path, controls: Path) -> None:
    ids = set(open_prepared(controls).manifest["subject"])
    for path in norm.rglob("*"):
        if path.suffix in {".json", ".md", ".tsv"} and "runs" not in path.parts:
            assert not [name for name in ids if name in path.read_text()], path


def test_people_whom_the_norm_saw_are_left_out(norm: Path, controls: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"were seen by the norm .*calibration"):
        Anomaly.model_validate(
            {"norm": norm, "prepared": only(controls, "calibration", tmp_path), "out": tmp_path / "m"}
        ).run()


def only(cohort: Path, role: str, tmp_path: Path) -> Path:
    """A copy of a cohort whose other people are excluded."""
    folder = tmp_path / role
    shutil.copytree(cohort, folder)
    manifest = pd.read_csv(folder / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    manifest.loc[manifest["role"] != role, "role"] = "excluded"
    manifest.to_csv(folder / "manifest.tsv", sep="\t", index=False)
    return folder


def test_an_anonymous_norm_keeps_no_single_score(
    norm: Path, controls: Path, run: Path, new: Path, judged: Path, tmp_path: Path
) -> None:
    keys = {"prepared": controls, "run": run, "out": tmp_path / "anonymous", "anonymous": True}
    anonymous = Norm.model_validate(keys).run()
    scores = open_norm(anonymous).regions("deformation").scores
    exact = open_norm(norm).regions("deformation").scores
    _, counts = np.unique(scores.largest, return_counts=True)
    assert counts.min() >= 5
    assert (scores.largest >= exact.largest).all()
    assert all(row["num"] >= 5 for row in open_norm(anonymous).record.who)
    maps = Anomaly.model_validate({"norm": anonymous, "prepared": new, "out": tmp_path / "maps"}).run()
    mine, theirs = table(maps, "regions"), table(judged, "regions")
    np.testing.assert_allclose(mine["z"], theirs["z"], atol=1e-5)
    assert (mine["p_conformal"] >= theirs["p_conformal"] - 1e-9).all(), "never more certain than with every score"


def test_an_anonymous_norm_hides_the_one_whose_age_is_unknown(run: Path, controls: Path, tmp_path: Path) -> None:
    """A group of one person has sums that are that person's map."""
    cohort = tmp_path / "cohort"
    shutil.copytree(controls, cohort)
    manifest = pd.read_csv(cohort / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    manifest.loc[manifest.index[manifest["role"] == "calibration"][0], "age_years"] = "n/a"
    manifest.to_csv(cohort / "manifest.tsv", sep="\t", index=False)
    keys = {"prepared": cohort, "run": run, "channels": ["deformation"], "age_variance": ["deformation"]}
    open_, hidden = (
        Norm.model_validate({**keys, "out": tmp_path / str(anonymous), "anonymous": anonymous}).run()
        for anonymous in (False, True)
    )
    assert min(open_norm(open_).record.covariates.num) == 1
    assert (open_ / "statistics" / "deformation_voxels.npz").is_file()
    record = open_norm(hidden).record
    assert record.covariates.num.tolist() == [open_norm(open_).record.covariates.num_people]
    assert not record.covariates.gram.any()
    assert not list((hidden / "statistics").glob("*"))
    for part in ("voxels", "regions"):
        kept = record.channels["deformation"][part]
        assert all(of[0] >= 5 for of in [*kept["squares"].values(), *kept["age_variance"]["sites"].values()])
    with pytest.raises(UserError, match="keeps no sums over people"):
        Norm.model_validate({"merge": [hidden, open_], "out": tmp_path / "merged"}).run()
