"""Lesion masks: read in world coordinates, refused where they cannot be right, scaled to an exact volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gen3d.core.errors import UserError
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import write_nifti
from gen3d.simulate.lesion_masks import deal, masks_of_size, on_plan, read_lesion_masks

PLAN = plan_grid(3.0)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = (-90, -126, -72)


def write_ball(folder: Path, name: str, centre_mm: tuple[float, float, float], radius_mm: float) -> Path:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (91, 109, 91)), indexing="ij"), axis=-1) * 2 + AFFINE[:3, 3]
    ball = np.linalg.norm(grid - np.array(centre_mm), axis=-1) < radius_mm
    write_nifti(folder / name, ball.astype(np.uint8), AFFINE)
    return folder / name


def test_a_mask_keeps_its_place_and_volume_on_another_grid(tmp_path: Path) -> None:
    write_ball(tmp_path, "a.nii.gz", (-30, 20, 30), 15)
    (mask,) = read_lesion_masks(tmp_path)
    assert mask.volume_ml == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.05)
    fraction = on_plan(mask.data, mask.affine, PLAN)
    assert fraction.sum() * 0.027 == pytest.approx(mask.volume_ml, rel=0.01)
    centre = np.argwhere(fraction > 0.5).mean(axis=0) @ PLAN.matrix[:3, :3] + PLAN.matrix[:3, 3]
    assert centre == pytest.approx((-30, 20, 30), abs=0.5)


def test_dealing_mirrors_scales_and_cuts_to_tissue(tmp_path: Path) -> None:
    write_ball(tmp_path, "a.nii.gz", (-30, 20, 30), 15)
    masks, template = read_lesion_masks(tmp_path), template_on(PLAN)
    where = template.mask & (template.t1w > 0.6)
    sides = set()
    for seed in range(6):
        name, as_it_is = deal(masks, None, where, PLAN, np.random.default_rng(seed))
        _, scaled = deal(masks, 1.1, where, PLAN, np.random.default_rng(seed))
        assert scaled.sum() * 0.027 == pytest.approx(1.1, rel=1e-4)
        assert 0.5 * 14.1 < as_it_is.sum() * 0.027 <= 1.01 * masks[0].volume_ml
        assert not (scaled[~where]).any()
        left = np.argwhere(as_it_is > 0.5)[:, 0].mean() < PLAN.shape[0] / 2
        assert left == (name == "a")
        assert left == (np.argwhere(scaled > 0.5)[:, 0].mean() < PLAN.shape[0] / 2)
        sides.add(left)
    assert sides == {True, False}
    with pytest.raises(ValueError, match="no mask leaves enough tissue"):
        deal(masks, 5000.0, where, PLAN, np.random.default_rng(0))
    with pytest.raises(ValueError, match="no mask leaves enough tissue"):
        deal(masks, None, np.zeros_like(where), PLAN, np.random.default_rng(0))


def test_masks_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    def refused(name: str, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            read_lesion_masks(tmp_path / name)

    refused("nowhere", "no such folder")
    (tmp_path / "bare").mkdir()
    refused("bare", "holds no mask")
    write_ball(tmp_path / "other", "a.nii", (-30, 20, 110), 15)
    refused("other", "it is in another space")
    write_nifti(tmp_path / "empty" / "a.nii", np.zeros((9, 9, 9), np.uint8), AFFINE)
    refused("empty", "the mask is empty")
    write_nifti(tmp_path / "many" / "a.nii", np.ones((9, 9, 9, 2), np.uint8), AFFINE)
    refused("many", "has 4 dimensions")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.nii").write_bytes(b"no image")
    refused("broken", "not a readable NIfTI")


def test_masks_are_chosen_by_their_volume(tmp_path: Path) -> None:
    write_ball(tmp_path, "large.nii", (-30, 20, 30), 15)
    write_ball(tmp_path, "small.nii", (-30, 20, 30), 8)
    assert [mask.name for mask in masks_of_size(tmp_path, None)] == ["large", "small"]
    assert [mask.name for mask in masks_of_size(tmp_path, (1, 5))] == ["small"]
    with pytest.raises(UserError, match="none of its 2 masks has between 50 and 90 ml"):
        masks_of_size(tmp_path, (50, 90))
