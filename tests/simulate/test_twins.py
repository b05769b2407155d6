"""The truth bench: every control of a prepared folder has one twin per condition, and a twin differs by its truth alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.regions import find
from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import read_map, write_nifti
from gen3d.simulate.conditions import Condition
from gen3d.simulate.label_maps import labels_on_plan, open_label_maps
from gen3d.simulate.scan_noise import pseudo_residual, white_matter
from gen3d.simulate.simulate import Simulate
from gen3d.simulate.twins import twin_table
from tests.sealing import reseal

CONDITIONS = {
    "null": Condition(kind="null"),
    "blob": Condition(kind="lesion", severity=(8.0,)),
    "put-30": Condition(kind="atrophy", changes={"left putamen": -30}),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "out"
    conditions = {"null": Condition(kind="null", count=1)}
    settings = {"subjects": 4, "spacing_mm": 4, "conditions": conditions, "workers": 1, "figures": False}
    return Simulate(out=out, longitudinal=0.25, **settings).run()


@pytest.fixture(scope="module")
def bench(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-44, -20, 20)
    write_nifti(folder / "masks" / "cube.nii", np.ones((6, 6, 6), np.uint8), affine)
    conditions = CONDITIONS | {"given": Condition(kind="lesion", masks=folder / "masks", level=(0.2, 0.2))}
    settings = {"base": cohort, "subjects": 2, "workers": 1, "figures": False}
    return Simulate(out=folder / "out", conditions=conditions, **settings).run()


def truth_of(bench: Path) -> pd.DataFrame:
    return pd.read_csv(
        bench / "truth" / "truth.tsv", sep="\t", keep_default_na=False, na_values=["n/a"], dtype={"session": str}
    )


def twin(bench: Path, condition: str) -> tuple[str, str]:
    """Key of the first twin with a condition, and of its base."""
    row = truth_of(bench).set_index("condition").loc[condition].iloc[0]
    return str(row["key"]), str(row["base"])


def test_every_control_has_one_twin_per_condition(cohort: Path) -> None:
    bases = open_prepared(cohort)
    table = twin_table(bases, CONDITIONS, ("train", "calibration", "test"), None, 0)
    controls = bases.manifest[bases.manifest["diagnosis"] == "control"].drop_duplicates("subject")
    assert len(table) == 3 * len(controls) == 9
    assert set(table["base"]) == set(controls["key"])
    assert set(table["role"]) == {"evaluation"}
    assert set(table["session"]) == {"1tnull", "1tblob", "1tput30"}
    shared = table.merge(controls, on="subject", suffixes=("", "_base"))
    assert shared["age_years"].equals(shared["age_years_base"])
    assert shared["site"].equals(shared["site_base"])
    assert set(table.loc[table["condition"] == "put-30", "diagnosis"]) == {"atrophy"}
    assert set(twin_table(bases, CONDITIONS, ("train",), None, 0)["base"]) < set(table["base"])
    graded = {"a": Condition(kind="lesion", severity=(1.0, 2.0, 3.0))}
    assert sorted(twin_table(bases, graded, ("train", "calibration", "test"), None, 0)["severity"]) == [1, 2, 3]


def test_bench_and_cohort_are_opened_together(cohort: Path, bench: Path) -> None:
    both = open_prepared([cohort, bench])
    assert len(both.manifest) == 5 + 8
    assert (both.manifest["base"].fillna("") != "").sum() == 8
    with pytest.raises(UserError, match="holds no control with the role"):
        twin_table(open_prepared(bench), CONDITIONS, ("train",), None, 0)


def test_a_null_twin_differs_from_its_base_by_noise_alone(cohort: Path, bench: Path) -> None:
    key, base = twin(bench, "null")
    before, after = open_prepared(cohort), open_prepared(bench)
    one, two = before.volume(base, "t1w"), after.volume(key, "t1w")
    core = white_matter(one, template_on(before.plan))
    difference = (two - one)[before.mask]
    assert abs(np.median(difference)) < 0.01
    assert 0.005 < difference.std() < 0.05
    assert pseudo_residual(two)[core].std() == pytest.approx(pseudo_residual(one)[core].std(), rel=0.25)
    assert not read_map(bench / "truth" / f"{key}_changed.nii.gz").any()
    first, second = before.volume(base, "log_jacobian"), after.volume(key, "log_jacobian")
    assert abs((second - first)[before.mask].mean()) < 0.02
    assert np.corrcoef(first[before.mask], second[before.mask])[0, 1] > 0.9


def test_twins_of_one_base_have_noise_of_their_own(bench: Path) -> None:
    prepared = open_prepared(bench)
    null, lesion = (prepared.volume(twin(bench, name)[0], "t1w") for name in ("null", "blob"))
    changed = read_map(bench / "truth" / f"{twin(bench, 'blob')[0]}_changed.nii.gz") > 0.5
    spared = prepared.mask & ~ndimage.binary_dilation(changed, iterations=2) & (null > 0.3)
    assert (lesion - null)[spared].std() > 0.005
    assert (null - lesion)[changed].mean() > 0.15
    assert changed.sum() * 0.064 == pytest.approx(8, abs=0.5)


def test_a_given_mask_is_planted_where_it_lies_and_as_dark_as_asked_for(bench: Path) -> None:
    table = truth_of(bench).set_index("condition").loc["given"]
    assert table["severity"].tolist() == pytest.approx(table["lesion_ml"].tolist(), rel=1e-3)
    prepared = open_prepared(bench)
    for row in table.itertuples():
        changed = read_map(bench / "truth" / f"{row.key}_changed.nii.gz") > 0.5
        left = np.argwhere(changed)[:, 0].mean() < prepared.plan.shape[0] / 2
        assert row.lesion_mask == ("cube" if left else "cube (mirrored)")
        assert 5 < changed.sum() * 0.064 < 13.9
        inside = ndimage.binary_erosion(changed)
        assert np.median(prepared.volume(row.key, "t1w")[inside]) == pytest.approx(0.2, abs=0.06)


def test_atrophy_is_exact_and_moves_the_log_jacobian(cohort: Path, bench: Path) -> None:
    key, base = twin(bench, "put-30")
    regions = pd.read_csv(bench / "truth" / "truth_regions.tsv", sep="\t")
    percent = regions[regions["key"] == key].set_index("region")["percent_change"]
    assert percent["left putamen"] == pytest.approx(-30, abs=0.7)
    assert abs(percent["right putamen"]) < 3
    left, right = find("putamen")
    before, after = open_prepared(cohort), open_prepared(bench)
    moved = after.volume(key, "log_jacobian") - before.volume(base, "log_jacobian")
    assert moved[after.regions == left].mean() < -0.08
    assert abs(moved[after.regions == right].mean()) < 0.06
    truth = read_map(bench / "truth" / f"{key}_log_jacobian.nii.gz")
    assert truth[after.regions == left].mean() == pytest.approx(np.log(0.7), abs=0.12)


def test_a_twin_does_not_depend_on_who_else_is_made(cohort: Path, bench: Path, tmp_path: Path) -> None:
    out = Simulate(
        out=tmp_path / "one", base=cohort, subjects=1, conditions={"blob": CONDITIONS["blob"]}, workers=1, figures=False
    ).run()
    key = truth_of(out)["key"].iloc[0]
    for file in (f"volumes/{key}_t1w.nii", f"truth/{key}_changed.nii.gz"):
        np.testing.assert_array_equal(read_map(out / file), read_map(bench / file))


def write_label_maps(folder: Path, bases: Prepared, keys: list[str], shift_mm: float = 0.0) -> Path:
    """Label maps at 2 mm in each base's own space: label 7 and 9 are the putamina of the template, moved there."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-90, -126, -72)
    for key in keys:
        labels = np.zeros(bases.plan.shape, np.float32)
        for own, label in zip((7, 9), find("putamen"), strict=True):
            labels[bases.regions == label] = own
        to_plan = np.linalg.inv(bases.plan.matrix) @ np.linalg.inv(MATRIX) @ affine
        moved = ndimage.affine_transform(labels, to_plan[:3, :3], to_plan[:3, 3], output_shape=(91, 109, 91), order=0)
        shifted = affine.copy()
        shifted[2, 3] += shift_mm
        nib.save(nib.Nifti1Image(moved.astype(np.int16), shifted), folder / f"{key}.nii.gz")
    (folder / "names.tsv").write_text("label\tname\n7\tLeft-Putamen\n9\tRight-Putamen\n11\tLeft-Elsewhere\n")
    return folder


MATRIX = np.diag([0.9, 0.95, 0.92, 1.0])


def test_labels_drawn_in_the_scans_own_space_say_what_shrinks(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(cohort, tmp_path / "cohort")
    bases = open_prepared(tmp_path / "cohort")
    table = twin_table(bases, CONDITIONS, ("train", "calibration", "test"), None, 0)
    keys = list(dict.fromkeys(table["base"]))
    for key in keys:
        write_json(tmp_path / "cohort" / "transforms" / f"{key}.json", {"affine_template_to_scan": MATRIX.tolist()})
    reseal(tmp_path / "cohort")
    drawn = write_label_maps(tmp_path / "labels", bases, keys[:1])
    labels = labels_on_plan(drawn / f"{keys[0]}.nii.gz", MATRIX, [7, 9], bases.mask, bases.plan)
    truth = np.where(
        bases.regions == find("left putamen")[0], 7, np.where(bases.regions == find("right putamen")[0], 9, 0)
    )
    assert 2 * ((labels == truth) & (truth > 0)).sum() / ((labels > 0).sum() + (truth > 0).sum()) > 0.85
    condition = {"kind": "atrophy", "labels": drawn, "label_names": drawn / "names.tsv"}
    conditions = {"drawn": Condition.model_validate({**condition, "changes": {"left putamen": -25}})}
    settings = {"base": tmp_path / "cohort", "workers": 1, "figures": False}
    out = Simulate(out=tmp_path / "bench", conditions=conditions, **settings).run()
    assert "have no label map" in capsys.readouterr().err
    assert truth_of(out)["base"].tolist() == keys[:1]
    regions = pd.read_csv(out / "truth" / "truth_regions.tsv", sep="\t").set_index("region")["percent_change"]
    assert regions["left putamen"] == pytest.approx(-25, abs=0.7)

    def refused(sentence: str, **changed: object) -> None:
        wrong = {"drawn": Condition.model_validate({**condition, "changes": {"putamen": -25}, **changed})}
        with pytest.raises(UserError, match=sentence):
            Simulate(out=tmp_path / "wrong", conditions=wrong, **settings).run()
        shutil.rmtree(tmp_path / "wrong", ignore_errors=True)

    refused("no region 'putamin'; the nearest name is 'putamen'", changes={"putamin": -10})
    refused("label 11 fills no voxel", changes={"elsewhere": -10})
    refused("no such folder", labels=tmp_path / "nowhere")
    refused("no such table", label_names=tmp_path / "nowhere.tsv")
    for shift_mm in (65, 300):
        write_label_maps(tmp_path / "shifted", bases, keys[:1], shift_mm)
        refused("it is in another space", labels=tmp_path / "shifted")
    (tmp_path / "bare").mkdir()
    refused("a label map of none of the 3 bases", labels=tmp_path / "bare")


def test_names_of_labels_are_read_from_common_tables(tmp_path: Path) -> None:
    table = tmp_path / "names.csv"
    table.write_text(
        "Label Number,Label Name,Class\n47,Right Hippocampus,GM\n48,Left Hippocampus,GM\n4,3rd Ventricle,CSF\n"
    )
    maps = open_label_maps(tmp_path, table)
    assert sorted(maps.find("hippocampus")) == [47, 48]
    assert maps.find("Left-Hippocampus") == [48]
    assert maps.find("3rd ventricle") == [4]
    for rows, reason in (("x,y", "x"), ("1.5,y", "1.5 is no whole number"), ("1,y\n1.0,z", "label 1 is given twice")):
        table.write_text(f"a,b\n{rows}\n")
        with pytest.raises(UserError, match=f"not a table of labels and names .*{reason}"):
            open_label_maps(tmp_path, table)


def test_what_cannot_be_planted_says_what_would_work(cohort: Path, tmp_path: Path) -> None:
    settings = {"base": cohort, "workers": 1, "figures": False, "subjects": 1}
    extreme = {"flat": Condition(kind="atrophy", severity=(3.0,), changes={"thalamus": 200})}
    with pytest.raises(
        UserError, match=r"conditions\.flat cannot be made at 4 mm .*largest change that works is about \+"
    ):
        Simulate(out=tmp_path / "a", conditions=extreme, **settings).run()
    assert not (tmp_path / "a").exists()
    write_nifti(tmp_path / "masks" / "a.nii", np.ones((9, 9, 9), np.uint8), np.eye(4))
    huge = {"huge": Condition(kind="lesion", severity=(2000.0,), masks=tmp_path / "masks")}
    with pytest.raises(UserError, match=r"no mask leaves enough tissue .*nor in any other base"):
        Simulate(out=tmp_path / "b", conditions=huge, **settings).run()
    with pytest.raises(UserError, match="3 usable control people but subjects=50"):
        Simulate(out=tmp_path / "c", conditions=CONDITIONS, **settings | {"subjects": 50}).run()
    with pytest.raises(UserError, match="needs conditions="):
        Simulate(out=tmp_path / "d", conditions={}, **settings).run()
