"""One scan is one person's: a file, a copy of it, or its voxels in another file, for two people, is told with both names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.core.errors import UserError
from gen3d.prepare.prepare import Prepare
from gen3d.prepare.sources import ScanSource
from tests.prepare.test_sources import table


def verb(folder: Path, second: str) -> Prepare:
    path = table(folder / "t.csv", f"subject,group,file\nA,control,a.nii\nB,AD,{second}\n")
    return Prepare.model_validate({"source": path, "out": folder / "out"})


def test_one_file_for_two_people_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"scan")
    with pytest.raises(UserError, match=r"sub-A_ses-1 and sub-B_ses-1 are one scan \(\S*a\.nii\); keep the row"):
        verb(tmp_path, "a.nii").open_inputs()
    shutil.copy(tmp_path / "a.nii", tmp_path / "b.nii")
    with pytest.raises(UserError, match=r"are one scan \(\S*a\.nii and \S*b\.nii, byte by byte\)"):
        verb(tmp_path, "b.nii").open_inputs()
    (tmp_path / "b.nii").write_bytes(b"another scan")
    assert len(verb(tmp_path, "b.nii").open_inputs()[1]) == 2


def test_two_missing_files_are_not_one_scan(tmp_path: Path) -> None:
    assert len(verb(tmp_path, "b.nii").open_inputs()[1]) == 2


def test_the_same_voxels_in_two_files_are_refused_before_a_table_is_written(tmp_path: Path) -> None:
    frame = pd.DataFrame({"subject": ["A", "B"], "session": "1", "key": ["A", "B"], "source": ["a.nii", "b.nii.gz"]})
    frame = frame.assign(site="x", age_years=np.nan, sex="", diagnosis="", cdr=np.nan, mmse=np.nan)
    rows = pd.DataFrame({"key": ["A", "B"], "source": frame["source"], "scan_hash": "v1", "failure": "unusable"})
    request = Prepare.model_validate({"source": tmp_path, "out": tmp_path / "out", "spacing_mm": 4})
    with pytest.raises(UserError, match=r"A \(a\.nii\) and B \(b\.nii\.gz\) are one scan, voxel by voxel"):
        request._write_cohort(ScanSource(frame), rows, request.grid())
    assert not (tmp_path / "out").exists()
