"""One scan's file: what cannot be opened is its own failure, and all that determines its result is in its identity."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from gen3d.imaging.orientation import OrientationRule
from gen3d.imaging.plan import plan_grid
from gen3d.prepare.one_scan import ScanTask, find_mask, make_tasks, prepare_scan
from tests.imaging.foreign_files import AFFINE, FORMATS, nifti, values

PLAN = plan_grid(4.0, channels=("t1w",))


def _tasks(folder: Path, *paths: str, rule: OrientationRule | None = None, mask: str = "") -> list[ScanTask]:
    rows = [{"key": f"sub-{n}_ses-1", "source": path, "mask": mask} for n, path in enumerate(paths)]
    method = "given" if mask else "auto"
    return make_tasks(pd.DataFrame(rows), [folder], folder / "out", PLAN, method, False, rule or OrientationRule())


def test_a_path_that_cannot_be_opened_is_the_failure_of_its_row_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe_T1w.nii.gz")
    (tmp_path / "folder_T1w.nii.gz").mkdir()
    (tmp_path / "link_T1w.nii").symlink_to(tmp_path / "gone")
    wrong = {
        "pipe_T1w.nii.gz": "named pipe",
        "folder_T1w.nii.gz": "is a folder",
        "link_T1w.nii": "no such file",
        "a\0b.nii": "NUL byte",
        "a\nb.nii": "no such file",
        "undecodable\udcff.nii": "no such file",
        "a" * 5000 + ".nii": "cannot be opened",
    }
    tasks = _tasks(tmp_path, *(str(tmp_path / name) for name in wrong), "/dev/zero")
    rows = [prepare_scan(task) for task in tasks]
    for row, sentence in zip(rows, [*wrong.values(), "is a device"], strict=True):
        assert sentence in str(row["failure"])
        for text in (str(row["failure"]), str(row["source"])):
            assert text.isprintable()
            assert text.encode()
        assert len(str(row["failure"])) < 500


@pytest.mark.parametrize("named", ["a\0b.nii", "a" * 5000, "pipe.nii.gz", "."])
def test_a_mask_that_cannot_be_opened_stops_nobody(named: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    scan = nifti(tmp_path / "sub-1_T1w.nii", values())
    assert find_mask(scan, named, [tmp_path]) == tmp_path / named
    assert len(_tasks(tmp_path, str(scan), mask=named)) == 1


def test_both_files_of_a_pair_and_what_was_said_of_its_sides_determine_the_result(tmp_path: Path) -> None:
    path = FORMATS["pair"](tmp_path / "a.nii", values(), AFFINE)

    def identity(rule: OrientationRule | None = None, suffix: str = ".img") -> str:
        return _tasks(tmp_path, str(path.with_suffix(suffix)), rule=rule)[0].identity

    first = identity()
    assert identity() == identity(suffix=".hdr") == first
    assert len({first, identity(OrientationRule(assume="RAS")), identity(OrientationRule(prefer="sform"))}) == 3
    for suffix in (".img", ".hdr"):
        file = path.with_suffix(suffix)
        content = file.read_bytes()
        file.write_bytes(content[:-1] + b"\7")
        assert identity() != first
        file.write_bytes(content)
    assert identity() == first
