from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.imaging.deformation import exponential, identity_grid, random_velocity
from gen3d.imaging.native import inverse_of, read_native_space, undeformed, write_native
from gen3d.imaging.plan import plan_grid


def test_a_map_returns_to_the_place_it_came_from(tmp_path: Path) -> None:
    """A blob at a template point must appear at that point's place in the scan, whatever the scan's axes."""
    plan = plan_grid(4)
    template_to_scan = np.eye(4)
    angle = np.deg2rad(15)
    template_to_scan[:2, :2] = 1.1 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    template_to_scan[:3, 3] = (5, -7, 11)
    scan_affine = np.array([[-1.5, 0, 0, 110], [0, -1.5, 0, 120], [0, 0, 1.5, -110], [0, 0, 0, 1.0]])
    record = {
        "affine_template_to_scan": template_to_scan.tolist(),
        "scan": "scan.nii.gz",
        "scan_affine": scan_affine.tolist(),
        "scan_shape": [150, 160, 150],
    }
    (tmp_path / "transforms").mkdir()
    (tmp_path / "transforms" / "sub-1_ses-1.json").write_text(json.dumps(record))
    point = np.array([-26.0, -22.0, -14.0, 1.0])
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in plan.shape], indexing="ij"), -1)
    world = grid @ plan.matrix[:3, :3].T + plan.matrix[:3, 3]
    blob = np.exp(-((world - point[:3]) ** 2).sum(-1) / (2 * 8.0**2)).astype(np.float32)
    native = read_native_space(tmp_path, "sub-1_ses-1")
    assert native is not None
    write_native(tmp_path / "native.nii.gz", native, blob, plan.matrix)
    image = nib.load(tmp_path / "native.nii.gz")
    data = np.asarray(image.dataobj)
    weights = np.clip(data - 0.5, 0, None)
    centre = np.array([np.average(axis, weights=weights) for axis in np.indices(data.shape)] + [1.0])
    np.testing.assert_allclose(image.affine @ centre, template_to_scan @ point, atol=0.5)


@pytest.mark.parametrize("centre", [(15, 20, 18), (22, 26, 14), (12, 15, 22)])
def test_a_map_of_the_template_lands_where_the_deformation_says(centre: tuple[int, int, int]) -> None:
    """phi takes the template's voxel x to x + u(x): a blob at x must be seen there, not at x."""
    shape = (36, 44, 36)
    velocity = random_velocity(shape, 5.0, 3.0, np.random.default_rng(4), np.ones(shape, dtype=bool))
    displacement = exponential(velocity)
    grid = identity_grid(shape)
    blob = np.exp(-sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) / (2 * 1.5**2)).astype(np.float32)
    moved = undeformed(blob, inverse_of(displacement))
    weights = np.clip(moved - 0.5 * moved.max(), 0, None)
    found = np.array([np.average(axis, weights=weights) for axis in grid])
    expected = np.array(centre) + displacement[(slice(None), *centre)]
    assert np.linalg.norm(expected - centre) > 1.5  # leaving the map where it is would be wrong by this much
    assert np.linalg.norm(found - expected) < 0.5


def test_labels_of_the_template_keep_their_numbers() -> None:
    shape = (24, 24, 24)
    displacement = exponential(random_velocity(shape, 4.0, 1.5, np.random.default_rng(0), np.ones(shape, dtype=bool)))
    labels = np.zeros(shape, dtype=np.float32)
    labels[6:12, 6:18, 6:18], labels[12:18, 6:18, 6:18] = 3, 7
    assert set(np.unique(undeformed(labels, inverse_of(displacement), order=0))) == {0, 3, 7}


def test_simulated_scans_have_no_native_space(tmp_path: Path) -> None:
    assert read_native_space(tmp_path, "sub-1_ses-1") is None


def test_damaged_transform(tmp_path: Path) -> None:
    (tmp_path / "transforms").mkdir()
    (tmp_path / "transforms" / "k.json").write_text('{"scan": "x"}')
    with pytest.raises(UserError, match="damaged"):
        read_native_space(tmp_path, "k")
