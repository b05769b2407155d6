"""Verdicts: wrong brains are excluded by their numbers, odd ones are named, good ones are left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from gen3d.cohort.screening import LIMITS, judge
from gen3d.core.errors import UserError
from gen3d.imaging.brainmask import check_tool, looks_stripped, template_mask, tool_mask
from gen3d.imaging.conform import conform
from gen3d.imaging.orientation import OrientationRule
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.resample import sample
from gen3d.imaging.template import full_template
from gen3d.imaging.volume import Volume, write_nifti
from tests.phantoms import distance_mm, matrix, scan_of, write

PLAN = plan_grid(4.0, channels=("t1w",))
TRUE = matrix()


def _row(**changes: object) -> dict[str, object]:
    names = ("mutual_information", "correlation", "mask_dice", "remains_percent", "volume_scale", "coverage_percent")
    names += ("stretch", "tissue_ratio", "correlation_after", "folded_percent", "log_jacobian_sd")
    good = dict(zip(names, (0.9, 0.85, 0.95, 0.3, 0.7, 100.0, 1.15, 0.65, 0.9, 0.0, 0.3), strict=True))
    return {"failure": ""} | good | changes


def _wrong_brains() -> dict[str, np.ndarray]:
    shape = (64, 64, 64)
    places = np.stack(np.meshgrid(*(np.arange(64) - 32.0,) * 3, indexing="ij")) * 3
    radius = np.sqrt((places**2).sum(axis=0))
    noise = np.random.default_rng(0).random(shape)
    return {
        "sphere": np.where(radius < 70, 300, 0),
        "smooth noise in a sphere": np.where(radius < 70, 3000 * ndimage.gaussian_filter(noise, 3) - 1350, 0).clip(0),
    }


@pytest.mark.parametrize("name", list(_wrong_brains()))
def test_what_is_no_brain_is_excluded(name: str, tmp_path: Path) -> None:
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    path = write(tmp_path / "wrong.nii.gz", Volume(_wrong_brains()[name].astype(np.float32), affine))
    try:
        row = {"failure": "", **conform(path, PLAN, bias_correction=False).measures}
    except UserError as error:
        row = {"failure": str(error)}
    verdict = judge(pd.DataFrame([row])).iloc[0]
    assert verdict["verdict"] == "exclude"
    assert verdict["reason"]


def test_a_slab_is_excluded_for_what_it_is(tmp_path: Path) -> None:
    whole = scan_of(TRUE)
    affine = whole.affine.copy()
    affine[:3, 3] += whole.affine[:3, :3] @ [0, 0, 36]
    slab = write(tmp_path / "slab.nii.gz", Volume(whole.data[:, :, 36:50], affine))
    verdict = judge(pd.DataFrame([{"failure": "", **conform(slab, PLAN, bias_correction=False).measures}])).iloc[0]
    assert verdict["verdict"] == "exclude"
    assert "this is a slab" in verdict["reason"]


def test_a_stripped_brain_and_a_whole_head_are_kept(tmp_path: Path) -> None:
    rows = []
    for name, head in (("brain", False), ("head", True)):
        done = conform(write(tmp_path / f"{name}.nii.gz", scan_of(TRUE, head=head)), PLAN, bias_correction=False)
        assert done.measures["brain_mask"] == ("template" if head else "stripped")
        assert distance_mm(done.template_to_scan, TRUE) < 1.5
        rows.append({"failure": "", **done.measures})
    assert judge(pd.DataFrame(rows))["verdict"].tolist() == ["keep", "keep"]


def test_the_templates_mask_finds_the_brain_in_a_head() -> None:
    head, brain = scan_of(TRUE, head=True), scan_of(TRUE)
    assert not looks_stripped(head)
    assert looks_stripped(brain)
    template = full_template()
    true = (
        sample(
            Volume(template.mask.astype(np.float32), template.affine),
            np.linalg.inv(TRUE) @ head.affine,
            head.data.shape,
        )
        > 0.5
    )
    found = template_mask(head, TRUE)
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.95


def test_each_absolute_limit_excludes_and_says_which() -> None:
    for limit in LIMITS:
        worse = limit.lowest - 0.01 if limit.lowest is not None else limit.highest + 0.01
        verdict = judge(pd.DataFrame([_row(**{limit.column: worse}), _row()]))
        assert verdict["verdict"].tolist() == ["exclude", "keep"]
        assert limit.name in verdict["reason"][0]
        assert limit.meaning in verdict["reason"][0]


def test_an_outlier_of_the_cohort_is_named_only_where_there_is_a_cohort() -> None:
    generator = np.random.default_rng(0)
    odd = _row(correlation=0.79)
    cohort = [_row(correlation=0.9 + 0.01 * generator.standard_normal()) for _ in range(30)]
    large = judge(pd.DataFrame([odd, *cohort]))
    assert large["verdict"][0] == "warn"
    assert "unusual in this cohort" in large["reason"][0]
    assert (large["verdict"][1:] == "keep").mean() > 0.9
    assert judge(pd.DataFrame([odd, *cohort[:5]]))["verdict"][0] == "keep"


def test_a_failure_excludes_with_its_sentence_and_does_not_move_the_limits() -> None:
    rows = pd.DataFrame([_row() for _ in range(12)] + [{"failure": "a.nii: truncated"}])
    verdict = judge(rows)
    assert verdict.iloc[-1].tolist() == ["exclude", "a.nii: truncated"]
    assert (verdict["verdict"][:-1] == "keep").all()


@pytest.mark.parametrize(("works", "name"), [(True, "scan.nii.gz"), (True, "scan.nii"), (False, "scan.nii.gz")])
def test_an_external_program_is_run_on_the_scan(
    works: bool, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    brain = scan_of(TRUE, spacing_mm=4.0)
    path = write(tmp_path / name, scan_of(TRUE, spacing_mm=4.0, head=True))
    write_nifti(tmp_path / "mask.nii.gz", (brain.data > 40).astype(np.uint8), brain.affine)
    program = tmp_path / "mri_synthstrip"  # stands in for the real one: -i SCAN -m MASK
    body = (
        f'test "${{2%.gz}}" != "$2" && cp {tmp_path / "mask.nii.gz"} "$4"' if works else "echo no licence >&2; exit 1"
    )
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if works:
        assert (tool_mask("synthstrip", path, brain) == (brain.data > 40)).all()
        assumed = replace(brain, assumed=True)  # it gets a copy that says how the scan lies
        assert (tool_mask("synthstrip", path, assumed, OrientationRule(assume="RAS")) == (brain.data > 40)).all()
    else:
        with pytest.raises(UserError, match=r"`mri_synthstrip` failed \(no licence\)"):
            tool_mask("synthstrip", path, brain)


def test_a_missing_program_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="mri_synthstrip"):
        check_tool("synthstrip")
    check_tool("auto")


def test_a_scan_is_compared_with_those_of_its_own_site_where_there_are_ten() -> None:
    values = np.linspace(-0.01, 0.01, 12)
    rows = [_row(tissue_ratio=0.60 + step) for step in values] + [_row(tissue_ratio=0.80 + step) for step in values]
    rows += [_row(tissue_ratio=0.70)]
    sites = ["a"] * 12 + ["b"] * 12 + ["a"]
    alone = judge(pd.DataFrame(rows))
    assert alone["verdict"].iloc[-1] == "keep", "in the middle of all"
    by_site = judge(pd.DataFrame(rows), sites)
    assert by_site["verdict"].tolist() == ["keep"] * 24 + ["warn"]
    assert "unusual at the site a (median 0.601)" in by_site["reason"].iloc[-1]
    few = judge(pd.DataFrame(rows[:12] + rows[-1:]), ["a"] * 12 + ["c"])
    assert "unusual in this cohort" in few["reason"].iloc[-1], "a site of one scan has nothing to compare with"
