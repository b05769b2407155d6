"""A scan is known by its voxels: not by its name, its compression or the type of its numbers."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.scan_hash import file_voxel_hash, one_scan_of_two, refuse_one_scan_twice, voxel_hash
from gen3d.core.errors import UserError


def image(seed: int) -> nib.Nifti1Image:
    voxels = np.random.default_rng(seed).integers(0, 900, (9, 8, 7), dtype=np.int16)
    return nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0]))


def test_one_scan_has_one_hash_in_every_format(tmp_path: Path) -> None:
    original = image(0)
    turned = original.as_reoriented(
        nib.orientations.axcodes2ornt(("L", "S", "P"), (("L", "R"), ("P", "A"), ("I", "S")))
    )
    wide = nib.Nifti1Image(np.asarray(original.dataobj, dtype=np.float64)[..., None], original.affine)
    hashes = set()
    for name, copy in {
        "a.nii": original,
        "b.nii.gz": original,
        "c.mgz": original,
        "d.nii": turned,
        "e.nii": wide,
    }.items():
        saved = nib.MGHImage(np.asarray(copy.dataobj), copy.affine) if name.endswith("mgz") else copy
        nib.save(saved, tmp_path / name)
        hashes.add(file_voxel_hash(tmp_path / name))
    assert len(hashes) == 1
    assert hashes.pop().startswith("v")
    nib.save(image(1), tmp_path / "f.nii")
    assert file_voxel_hash(tmp_path / "f.nii") != file_voxel_hash(tmp_path / "a.nii")


def test_one_changed_voxel_and_another_shape_are_another_hash() -> None:
    voxels = np.arange(24.0).reshape(2, 3, 4)
    changed = voxels.copy()
    changed[1, 2, 3] += 1e-3
    assert len({voxel_hash(voxels), voxel_hash(changed), voxel_hash(voxels.reshape(4, 3, 2))}) == 3


def test_one_scan_of_two_people_is_refused_and_a_twin_is_none() -> None:
    table = pd.DataFrame({"key": list("abcd"), "scan_hash": ["v1", "v2", "v1", np.nan], "base": ["", "", "a", ""]})
    assert list(one_scan_of_two(table)) == []
    table["base"] = ""
    assert list(one_scan_of_two(table)) == [(0, 2)]
    with pytest.raises(UserError, match=r"a \(x\) and c \(z\) are one scan, voxel by voxel; keep the row"):
        refuse_one_scan_twice(table, list("xyzw"))
    refuse_one_scan_twice(table.drop(columns="scan_hash"), list("xyzw"))
