"""Shared fixtures: small scans made from the template, and the folder of real scans where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans named by GEN3D_REAL_DATA; tests that need it are skipped without it."""
    folder = os.environ.get("GEN3D_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GEN3D_REAL_DATA names no folder of real scans")
    return Path(folder)


@pytest.fixture
def write_scan(tmp_path: Path) -> Callable[..., Path]:
    """Write a small NIfTI file: `write_scan(name, data=..., affine=...)`."""

    def write(
        name: str = "scan.nii.gz",
        data: np.ndarray | None = None,
        affine: np.ndarray | None = None,
        folder: Path = tmp_path,
    ) -> Path:
        if data is None:
            data = np.random.default_rng(0).random((12, 14, 10)).astype(np.float32)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine), path)
        return path

    return write
