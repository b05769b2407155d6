"""The synthetic dataset: quarantine until it is released, valid names, and a description of every column."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.regions import region_table, regions_on
from gen3d.cohort.structures import structure_names
from gen3d.core.disk import PARTIAL
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import SLOPE
from gen3d.prepare.sources import read_sources
from gen3d.synthesis.folder import Atlas, SyntheticDataset, key_of, measure_all, subject_of
from gen3d.synthesis.tables import cohort_table, write_bids, write_image, write_prepared
from tests.validator import bids_errors, is_installed

NAME = re.compile(r"sub-[0-9A-Za-z]+/anat/sub-[0-9A-Za-z]+_space-MNI152NLin2009aSym_desc-synthetic_T1w\.nii\.gz")


@pytest.fixture(scope="module")
def plan() -> GridPlan:
    return plan_grid(4.0)


def filled(out: Path, plan: GridPlan, num: int = 3) -> SyntheticDataset:
    """Scans that are the template at different brightness, with an out-of-range voxel."""
    dataset, template = SyntheticDataset(out, plan), template_on(plan)
    for sample in range(num):
        t1w = template.t1w * (1 + 0.05 * sample)
        t1w[20, 20, 20], t1w[21, 20, 20] = -1.0, 5.0
        dataset.keep(sample, {"t1w": t1w, "log_jacobian": np.full(plan.shape, 0.5, np.float32)}, True)
    return dataset


def requested(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_ids_are_labels_and_sort_by_number() -> None:
    assert subject_of(42) == "syn00042"
    assert key_of(0) == "sub-syn00000_ses-1"
    assert subject_of(123456) == "syn123456"


def test_scans_stay_in_quarantine_until_they_are_released(tmp_path: Path, plan: GridPlan) -> None:
    dataset = filled(tmp_path, plan)
    assert dataset.missing(range(5)) == [3, 4]
    names = {path.name for path in (tmp_path / "quarantine" / "volumes").iterdir()}
    assert names == {f"{key_of(k)}_{c}.nii" for k in range(3) for c in ("t1w", "generated_log_jacobian")}
    assert not list(tmp_path.rglob("*_T1w.nii*")), "no reader takes a scan in quarantine for one"
    (tmp_path / "quarantine" / "volumes" / f"{PARTIAL}a1b2.nii").write_bytes(b"cut short")
    dataset.release()
    dataset.release()
    assert {path.name for path in (tmp_path / "volumes").iterdir()} == names
    assert dataset.missing(range(5)) == [3, 4]
    assert not (tmp_path / "quarantine").exists()
    assert dataset.path(0, "t1w") == tmp_path / "volumes" / "sub-syn00000_ses-1_t1w.nii"
    assert dataset.drawn(0, "log_jacobian").name == "sub-syn00000_ses-1_generated_log_jacobian.nii"


def test_measuring_the_template_gives_its_own_volumes(tmp_path: Path, plan: GridPlan) -> None:
    """The template registered to itself at another brightness does not move, so that structures have their size on the grid."""
    dataset = filled(tmp_path, plan, 2)
    rows = list(measure_all(dataset, Atlas.on(plan), [0, 1], 1))
    labels, table = regions_on(plan), region_table()
    for structure in ("hippocampus", "thalamus"):
        own = table.loc[table["structure"] == structure, "label"]
        wanted = np.isin(labels, own).sum() * 4.0**3 / 1000
        assert rows[1][f"{structure}_ml"] == pytest.approx(wanted, rel=0.05)
    assert rows[1]["registration_correlation"] > 0.99
    before = dataset.path(1, "log_jacobian").stat().st_mtime_ns
    assert list(measure_all(dataset, Atlas.on(plan), [0, 1], 1)) == rows, "rows of an earlier call are kept"
    assert dataset.path(1, "log_jacobian").stat().st_mtime_ns == before
    (dataset.rows.folder / f"{key_of(1)}.json").write_text("{")
    assert next(measure_all(dataset, Atlas.on(plan), [1], 1)) == rows[1], "a damaged row is measured again"


def test_what_is_written_is_bids_and_every_column_is_described(tmp_path: Path, plan: GridPlan) -> None:
    dataset = filled(tmp_path, plan)
    asked = requested(
        age_years=[61.25, np.nan, 70.0], sex=["F", "M", np.nan], hippocampus_ml=[7.0, 6.5, np.nan], mmse=[29.0, 30, 28]
    )
    rows = list(measure_all(dataset, Atlas.on(plan), range(3), 1))
    table = cohort_table(asked, rows, [False, True, None], "abc")
    dataset.release()
    write_prepared(dataset, Atlas.on(plan), table, template_on(plan).mask)
    for sample in range(3):
        write_image(dataset, sample)
    write_bids(dataset, table, "latent_diffusion")
    images = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.nii.gz"))
    assert len(images) == 3
    assert all(NAME.fullmatch(image) for image in images), images
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "gen3d"
    people = pd.read_csv(tmp_path / "participants.tsv", sep="\t", na_values=["n/a"], keep_default_na=False)
    sidecar = json.loads((tmp_path / "participants.json").read_text())
    assert list(people.columns) == list(sidecar)
    assert people.columns[0] == "participant_id"
    assert all(sidecar[name]["Units"] == "ml" for name in structure_names(region_table()))
    assert "not a measure of this region's volume" in sidecar["caudate_ml"]["Description"]
    assert "not a measure" not in sidecar["lateral_ventricle_ml"]["Description"]
    assert sidecar["age"]["Units"] == sidecar["requested_age_years"]["Units"] == "year"
    assert sidecar["requested_hippocampus_ml"]["Units"] == "ml"
    assert sidecar["mmse"]["Description"]
    assert list(people["audit_copy"].astype(str).str.lower()) == ["false", "true", "unknown"]
    assert list(people["requested_hippocampus_ml"].isna()) == [False, False, True]
    t1w_sidecar = json.loads(next(tmp_path.glob("space-*_T1w.json")).read_text())
    assert t1w_sidecar["SkullStripped"] is True
    if is_installed():
        assert bids_errors(tmp_path) == []


def test_images_have_the_plans_affine_and_the_stored_values(tmp_path: Path, plan: GridPlan) -> None:
    dataset = filled(tmp_path, plan, 1)
    write_image(dataset, 0)
    image: Any = nib.load(dataset.image(0))
    np.testing.assert_allclose(image.affine, plan.matrix)
    assert image.header.get_xyzt_units()[0] == "mm"
    values = np.asarray(image.dataobj)
    assert values[20, 20, 20] == 0
    assert values[21, 20, 20] == pytest.approx(2, abs=SLOPE)
    template = np.asarray(template_on(plan).t1w)
    elsewhere = np.ones(plan.shape, bool)
    elsewhere[20:22, 20, 20] = False
    np.testing.assert_allclose(values[elsewhere], np.clip(template, 0, 2)[elsewhere], atol=SLOPE)


def test_the_source_readers_find_every_scan_with_sex_and_age(tmp_path: Path, plan: GridPlan) -> None:
    folder = tmp_path / "synthetic"
    dataset = filled(folder, plan)
    table = cohort_table(
        requested(age_years=[61.25, 55, 70.0], sex=["F", "M", np.nan], diagnosis=["DS", "control", "DS"]),
        [],
        [None] * 3,
        "abc",
    )
    dataset.release()
    for sample in range(3):
        write_image(dataset, sample)
    write_bids(dataset, table, "latent_diffusion")
    found = read_sources([folder])
    assert found.unmatched == [("volumes", "not read: named in .bidsignore")]
    frame = found.frame
    assert list(frame["subject"]) == [subject_of(k) for k in range(3)]
    assert list(frame["sex"]) == ["F", "M", ""]
    assert list(frame["age_years"]) == [61.25, 55, 70]
    assert list(frame["diagnosis"]) == ["DS", "control", "DS"]
    assert set(frame["site"]) == {"synthetic"}
    assert list(frame["key"]) == [key_of(k) for k in range(3)]
