"""The verb from a BIDS folder to a cohort folder: what it writes, what it survives, what it does not do twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.cli import main
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.scan_hash import file_voxel_hash
from gen3d.core.artefact import read
from gen3d.core.errors import Unfinished, UserError
from gen3d.imaging.conform import conform
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import read_map, read_stored, read_volume, write_nifti
from gen3d.prepare import prepare as prepare_module
from gen3d.prepare.one_scan import find_mask
from gen3d.prepare.prepare import Prepare
from tests.phantoms import distance_mm, matrix, scan_of, write

TRUE = {"01": matrix(), "02": matrix((-12.0, 6.0, 0.0), (0.9, 1.0, 0.95), (-20.0, 30.0, 5.0))}
FAST = {"spacing_mm": 4.0, "workers": 1, "bias_correction": False}


def _bids(folder: Path, damaged: bool = False) -> Path:
    for subject, true in TRUE.items():
        write(folder / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz", scan_of(true, spacing_mm=4.0))
    rows = [
        "participant_id\tage\tsex\tgroup",
        "sub-01\t30\tF\tcontrol",
        "sub-02\t40\tM\tcontrol",
        "sub-09\t50\tM\tcontrol",
    ]
    if damaged:
        whole = (folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz").read_bytes()
        path = folder / "sub-03" / "anat" / "sub-03_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[: len(whole) // 2])
        rows.append("sub-03\t60\tM\tcontrol")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good scans and a truncated one, prepared."""
    folder = tmp_path_factory.mktemp("prepare")
    with pytest.raises(Unfinished, match="1 of 3 scans could not be used") as caught:
        Prepare(source=(_bids(folder / "bids", damaged=True),), out=folder / "prepared", **FAST).run()
    assert "sub-03_T1w.nii.gz" in str(caught.value)
    return folder / "prepared"


def test_a_truncated_file_does_not_stop_the_others(cohort: Path) -> None:
    verdicts = pd.read_csv(cohort / "verdicts.tsv", sep="\t").set_index("key")
    assert verdicts["verdict"].to_dict() == {"sub-01_ses-1": "keep", "sub-02_ses-1": "keep", "sub-03_ses-1": "exclude"}
    assert "truncated" in verdicts.loc["sub-03_ses-1", "reason"]
    prepared = open_prepared(cohort)
    assert prepared.manifest.set_index("key")["role"]["sub-03_ses-1"] == "excluded"
    assert "sub-09" not in set(prepared.manifest["subject"])
    assert "09" in (cohort / "unmatched.tsv").read_text()
    hashes = prepared.manifest.set_index("key")["scan_hash"]
    assert hashes["sub-01_ses-1"] == file_voxel_hash(Path(prepared.row("sub-01_ses-1")["source"]))
    assert hashes["sub-03_ses-1"] == ""


def test_volumes_are_where_and_what_the_layout_promises(cohort: Path) -> None:
    prepared = open_prepared(cohort)
    t1w, log_jacobian = prepared.load(["sub-01_ses-1"], ["t1w", "log_jacobian"])[0]
    assert t1w.shape == prepared.plan.shape
    assert (t1w[~prepared.mask] == 0).all()
    assert (log_jacobian[~prepared.mask] == 0).all()
    assert np.median(t1w[template_on(prepared.plan).wm > 0.95]) == pytest.approx(1.0, abs=0.02)
    # The phantom is the template itself; its 4 mm voxels, half filled at the surface, make it seem a little larger.
    assert abs(np.median(log_jacobian[prepared.mask])) < 0.15
    assert log_jacobian[prepared.mask].std() < 0.3
    assert (cohort / "figures" / "sub-01_ses-1.png").stat().st_size > 1000


def test_the_transform_brings_maps_back_to_the_scan(cohort: Path) -> None:
    for subject, true in TRUE.items():
        record = json.loads((cohort / "transforms" / f"sub-{subject}_ses-1.json").read_text())
        assert distance_mm(np.array(record["affine_template_to_scan"]), true) < 1.5
        scan = read_volume(Path(record["scan"]))
        assert tuple(record["scan_shape"]) == scan.data.shape
        assert np.allclose(record["scan_affine"], scan.affine)
        assert record["dof"] == 12


def test_a_finished_folder_is_left_alone_and_other_settings_are_refused(cohort: Path) -> None:
    settings = json.loads((cohort / "artefact.json").read_text())["config"]
    before = {path: path.stat().st_mtime_ns for path in cohort.rglob("*.nii")}
    with pytest.raises(Unfinished):
        Prepare.model_validate(settings).run()
    assert before == {path: path.stat().st_mtime_ns for path in cohort.rglob("*.nii")}
    with pytest.raises(UserError, match="degrees_of_freedom was 12 and is now 6"):
        Prepare.model_validate(settings | {"degrees_of_freedom": 6}).run()


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = Prepare(source=(_bids(tmp_path / "bids"),), out=tmp_path / "out", deformation_channel=False, **FAST)

    def stop_after_the_first(
        rows: Iterator[dict[str, object]], *_: object, **__: object
    ) -> Iterator[dict[str, object]]:
        yield next(rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "track", stop_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            verb.run()
    first = tmp_path / "out" / "volumes" / "sub-01_ses-1_t1w.nii"
    written = first.stat().st_mtime_ns
    assert not (tmp_path / "out" / "manifest.tsv").exists()
    verb.run()
    assert first.stat().st_mtime_ns == written
    assert len(open_prepared(tmp_path / "out").manifest) == 2
    changed = write(
        tmp_path / "bids" / "sub-02" / "anat" / "sub-02_T1w.nii.gz", scan_of(TRUE["02"], spacing_mm=4.0, seed=1)
    )
    with pytest.raises(UserError, match="other inputs"):
        verb.run()
    assert changed.is_file()


def test_a_path_that_no_table_can_hold_leaves_a_cohort_that_opens(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("subject,file,group\n1,a\0b.nii,=1+1\n2,gone.nii,CN\n")
    with pytest.raises(Unfinished, match="2 of 2 scans could not be used"):
        Prepare(source=(tmp_path / "t.csv",), out=tmp_path / "out", **FAST).run()
    manifest = open_prepared(tmp_path / "out").manifest
    assert manifest["source"].iloc[0].endswith("a\\x00b.nii")
    assert manifest["diagnosis"].tolist() == ["=1+1", "CN"]
    assert "'=1+1" in (tmp_path / "out" / "manifest.tsv").read_text()


def test_other_roles_cost_no_preparation(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again"
    shutil.copytree(cohort, out)
    settings = json.loads((cohort / "artefact.json").read_text())["config"] | {"out": str(out)}
    volumes = {path: path.stat().st_mtime_ns for path in (out / "volumes").iterdir()}
    before = read(out)
    other = settings | {"split": {"train": 0, "calibration": 0, "test": 1, "seed": 0}}
    assert Prepare.model_validate(other).outlook() == (
        False,
        f"{out}: what is there already is kept, and the rest is written anew.",
    )
    with pytest.raises(Unfinished):
        Prepare.model_validate(other).run()
    said = capsys.readouterr()
    assert "scans that were prepared before are kept" in said.out
    assert "split.calibration was 0.25 and is now 0.0" in " ".join(said.err.split())
    assert volumes == {path: path.stat().st_mtime_ns for path in (out / "volumes").iterdir()}
    assert set(open_prepared(out).manifest["role"]) == {"test", "excluded"}
    assert read(out).key != before.key, "what was made from the folder notices"
    assert Prepare.model_validate(other).outlook() == (True, f"{out}: finished before, nothing to do.")
    with pytest.raises(UserError, match=r"spacing_mm was 4\.0 and is now 3\.0"):
        Prepare.model_validate(other | {"spacing_mm": 3.0}).outlook()


def test_a_dry_run_refuses_the_folder_that_the_run_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _bids(tmp_path / "bids")
    command = ["prepare", f"source={source}", "spacing_mm=4", "--dry-run"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for out, sentence in (
        ("full", "not empty and not written by gen3d"),
        ("file", "cannot be written"),
        ("file/x", "no folder"),
    ):
        assert main([*command, f"out={tmp_path / out}"]) == 2
        assert sentence in capsys.readouterr().err
    assert main([*command, f"out={tmp_path / 'new'}"]) == 0
    text = capsys.readouterr().out
    assert "participants.tsv: 3 rows; read subject from participant_id" in text
    assert "1 entry does not match up: row in participants.tsv without a scan (1)" in text
    assert not (tmp_path / "new").exists()


def test_the_times_of_a_plan_are_those_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = Prepare(source=(_bids(tmp_path / "bids"),), out=tmp_path / "out", spacing_mm=2.0, workers=1)

    def seconds(slowness: float) -> list[int]:
        monkeypatch.setattr(prepare_module, "slowness", lambda: slowness)
        line = next(line for line in verb.plan() if line.startswith("takes about"))
        return [int(number) for number in re.findall(r"([0-9]+) s\b", line)]

    low, high = seconds(1.0)
    assert 2 * 2 < low < high < 2 * 8, "of two scans, as measured on real ones"
    assert seconds(1.5) == pytest.approx([1.5 * low, 1.5 * high], abs=1)


def test_a_plan_says_what_would_happen_and_writes_nothing(tmp_path: Path) -> None:
    verb = Prepare(source=(_bids(tmp_path / "bids"),), out=tmp_path / "out", spacing_mm=2.0)
    text = "\n".join(verb.plan())
    assert "2 scans of 2 people" in text
    assert "80 x 96 x 80 voxels of 2 mm" in text
    assert "MB" in text
    assert not (tmp_path / "out").exists()


def test_a_given_mask_is_used_and_its_absence_is_a_sentence(tmp_path: Path) -> None:
    scan = scan_of(TRUE["01"], spacing_mm=4.0, head=True)
    path = write(tmp_path / "sub-01_T1w.nii.gz", scan)
    plan = plan_grid(4.0, channels=("t1w",))
    with pytest.raises(UserError, match="there is no mask"):
        conform(path, plan, brain_mask="given", mask_path=find_mask(path, "", []))
    brain = scan_of(TRUE["01"], spacing_mm=4.0)
    write_nifti(tmp_path / "sub-01_desc-brain_mask.nii.gz", (brain.data > 40).astype(np.uint8), brain.affine)
    mask_path = find_mask(path, "", [])
    done = conform(path, plan, brain_mask="given", bias_correction=False, mask_path=mask_path)
    assert done.measures["brain_mask"] == "given"
    assert float(done.measures["mask_dice"]) > 0.93


def test_mask_and_regions_are_on_the_grid(cohort: Path) -> None:
    prepared = open_prepared(cohort)
    assert read_map(cohort / "mask.nii").shape == prepared.plan.shape
    assert set(np.unique(prepared.regions)) <= {0, *prepared.region_table["label"]}
    assert read_stored(prepared.path("sub-02_ses-1", "t1w")).max() <= 2.001


@pytest.mark.real
@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("t1w_2mm/malf_1128_T1w.nii.gz", "stripped"),  # the oldest brain, on which a plain registration fails
        ("t1w_2mm/ds000011_sub-07_T1w.nii.gz", "template"),  # a whole head
        ("t1w_2mm/ds002748_sub-45_T1w.nii.gz", "stripped, remains removed"),  # scalp and neck left by the stripping
    ],
)
def test_difficult_real_scans_are_aligned(real_data: Path, scan: str, mask: str) -> None:
    measures = conform(real_data / scan, plan_grid(4.0, channels=("t1w",))).measures
    assert measures["brain_mask"] == mask
    assert float(measures["mutual_information"]) > 0.75
    assert float(measures["mask_dice"]) > 0.92
