"""Several prepared folders opened as one cohort, and what must not be joined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cohort.folder import open_prepared
from gen3d.core.artefact import digest
from gen3d.core.errors import UserError
from gen3d.imaging.plan import read_plan
from tests.cohorts import write_cohort
from tests.runs import fit


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sites")
    near = write_cohort(folder / "near", num_controls=32, num_patients=2, sites=("near",), prefix="n")
    far = write_cohort(folder / "far", num_controls=32, num_patients=2, sites=("far",), prefix="f", seed=1)
    return near, far


def test_two_folders_are_one_cohort(two_sites: tuple[Path, Path]) -> None:
    one, both = open_prepared(two_sites[0]), open_prepared(two_sites)
    assert len(both.manifest) == 68
    assert both.key != one.key
    np.testing.assert_array_equal(both.volume("sub-n000_ses-1", "t1w"), one.volume("sub-n000_ses-1", "t1w"))
    loaded = both.load(["sub-n000_ses-1", "sub-f000_ses-1"], ["t1w", "log_jacobian"])
    assert loaded.shape == (2, 2, *both.plan.shape)
    np.testing.assert_array_equal(loaded[1, 1], both.volume("sub-f000_ses-1", "log_jacobian"))


def test_training_and_maps_of_two_folders(two_sites: tuple[Path, Path], tmp_path: Path) -> None:
    run = fit(list(two_sites), tmp_path / "run")  # type: ignore[arg-type]
    keys = {"prepared": list(two_sites), "run": run, "out": tmp_path / "maps", "channels": ["deformation"]}
    folder = Anomaly.model_validate(keys).run()
    record = json.loads((folder / "calibration.json").read_text())["deformation"]
    assert set(record["sites"]) == {"near", "far"}
    assert "site near" in record["columns"] or "site far" in record["columns"]
    subjects = pd.read_csv(folder / "subjects.tsv", sep="\t")
    assert subjects["score_deformation"].notna().all()
    assert set(subjects["site"]) == {"near", "far"}


def test_the_same_scan_twice_is_refused(two_sites: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="the same subject and session in two prepared folders"):
        open_prepared([two_sites[0], two_sites[0]])


def test_plans_that_differ_are_refused(two_sites: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_cohort(tmp_path / "other", num_controls=4, num_patients=0, prefix="o")
    plan = json.loads((other / "plan.json").read_text())
    (other / "plan.json").write_text(json.dumps({**plan, "degrees_of_freedom": 6}))
    with pytest.raises(UserError, match="degrees_of_freedom 12 against 6"):
        open_prepared([two_sites[0], other])


def test_scans_aligned_by_different_versions_are_not_mixed(two_sites: tuple[Path, Path], tmp_path: Path) -> None:
    """A plan without the field is of the first registration, whose keys stay those that its folders were made under."""
    other = write_cohort(tmp_path / "other", num_controls=4, num_patients=0, prefix="o", seed=1)
    old = json.loads((other / "plan.json").read_text())
    del old["registration"]
    (other / "plan.json").write_text(json.dumps(old))
    first = read_plan(other / "plan.json")
    assert first.registration == 1
    assert first.key == digest(old)
    with pytest.raises(UserError, match=r"registration 2 against 1; they were prepared by different versions of gen3d"):
        open_prepared([two_sites[0], other])


def test_a_person_with_two_roles_over_two_folders_is_refused(two_sites: tuple[Path, Path], tmp_path: Path) -> None:
    again = write_cohort(tmp_path / "again", num_controls=32, num_patients=2, sites=("near",), prefix="n")
    path = again / "manifest.tsv"
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    frame["session"] = "9"
    frame["key"] = frame["key"].str.replace("ses-1", "ses-9")
    frame["role"] = frame["role"].replace({"train": "test", "test": "train"})
    frame.to_csv(path, sep="\t", index=False)
    with pytest.raises(UserError, match="sessions of one person have different roles"):
        open_prepared([two_sites[0], again])


def test_a_map_is_kept_only_of_volumes_that_are_read_again(two_sites: tuple[Path, Path]) -> None:
    cohort = open_prepared(two_sites[0])
    first, second = (str(key) for key in cohort.manifest["key"][:2])
    once = cohort.stored(first, "t1w")
    assert cohort.stored(second, "t1w") is not cohort.stored(second, "t1w")
    again = cohort.stored(first, "t1w")
    assert again is not once
    assert cohort.stored(first, "t1w") is again
    np.testing.assert_array_equal(again, once)
