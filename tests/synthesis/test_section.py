"""The section on synthetic scans: the requested conditions, and the audit with its figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gen3d.core.errors import UserError
from gen3d.figures.blocks import Table, Text
from gen3d.report.open import open_context
from gen3d.synthesis import section as synthetic
from tests.world import audit_of, write_synthetic


def section_of(*folders: Path) -> Any:
    found = synthetic.section(open_context(folders, 0))
    assert found is not None
    return found


def text_of(section: Any) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


def test_the_requested_conditions_and_the_audit_are_reported(tmp_path: Path) -> None:
    section = section_of(write_synthetic(tmp_path / "synthetic", audit_of(False, 0.0)))
    assert "4 scans of people who do not exist, drawn by dpm_solver in 25 steps" in text_of(section)
    assert "The audit for copies of training people was passed" in text_of(section)
    assert "fails when it must" in text_of(section)
    asked, audit = (block for block in section.blocks if isinstance(block, Table))
    assert [list(row) for row in asked.rows] == [["age years", "70 to 80, mean 75", "1"], ["sex", "F 2, M 1", "1"]]
    assert [row[0] for row in audit.rows] == [title for _, title in synthetic.MEASURES]
    assert "30 training and 12 held-out people" in audit.caption
    picture = next(block for block in section.blocks if block.kind == "figure")
    assert Image.open(io.BytesIO(picture.png)).size == (8, 8)


def test_copies_and_waivers_are_said_first(tmp_path: Path) -> None:
    failed = write_synthetic(tmp_path / "failed", audit_of(True, 0.5, "for a class on privacy"))
    unaudited = write_synthetic(tmp_path / "unaudited", {"done": False, "waiver": "whom it saw is not known"})
    text = text_of(section_of(failed, unaudited))
    assert "The audit found copies of training people: 50.0" in text
    assert "released with a waiver: for a class on privacy" in text
    assert "not audited for copies of training people; the stated reason: whom it saw is not known" in text


def test_without_a_dataset_there_is_no_section(world: Any) -> None:
    assert synthetic.section(open_context([world["prepared"]], 0)) is None


def test_a_missing_picture_is_a_sentence(tmp_path: Path) -> None:
    folder = write_synthetic(tmp_path / "synthetic", audit_of(False, 0.0))
    (folder / "figures" / "samples.png").unlink()
    with pytest.raises(UserError, match=r"samples\.png: cannot be read .* run `gen3d sample` again"):
        section_of(folder)
