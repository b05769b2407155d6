"""A stripped scan is told from a head that was cut close to the brain: only one has a skull inside."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.brainmask import SKULL_SHARE, dark_layer, looks_stripped
from gen3d.imaging.volume import Volume
from tests.phantoms import matrix, scan_of

SPACINGS_MM = (3.0, 4.0)


def _cut(scan: Volume, brain: NDArray[np.bool_], margin_mm: float) -> Volume:
    """The scan with 0 farther from the brain than this."""
    distance = ndimage.distance_transform_edt(~brain, scan.spacing_mm)
    return Volume(np.where(distance <= margin_mm, scan.data, 0).astype(np.float32), scan.affine)


@pytest.fixture(scope="module", params=SPACINGS_MM)
def head(request: pytest.FixtureRequest) -> tuple[Volume, NDArray[np.bool_]]:
    """A small head with skull and scalp, and its brain."""
    small = matrix(scales=(0.85, 0.82, 0.8))
    brain = scan_of(small, request.param).data > 0
    return scan_of(small, request.param, head=True), ndimage.binary_fill_holes(brain)


@pytest.mark.parametrize("margin_mm", [10.0, 14.0, 30.0])
def test_a_head_that_was_cut_close_is_no_stripped_scan(
    head: tuple[Volume, NDArray[np.bool_]], margin_mm: float
) -> None:
    scan = _cut(*head, margin_mm)
    assert dark_layer(scan) > 2 * SKULL_SHARE
    assert not looks_stripped(scan)


@pytest.mark.parametrize("margin_mm", [0.0, 2.0])
def test_a_brain_and_one_with_a_rim_are_stripped(head: tuple[Volume, NDArray[np.bool_]], margin_mm: float) -> None:
    scan = _cut(*head, margin_mm)
    assert dark_layer(scan) < 0.5 * SKULL_SHARE
    assert looks_stripped(scan)


def test_emptied_or_wide_ventricles_are_no_skull(head: tuple[Volume, NDArray[np.bool_]]) -> None:
    scan, brain = head
    depth_mm = ndimage.distance_transform_edt(brain, scan.spacing_mm)
    for value in (0.0, 20.0):
        wide = Volume(np.where(depth_mm > 32, value, _cut(scan, brain, 0).data).astype(np.float32), scan.affine)
        assert looks_stripped(wide)


def test_a_slab_through_the_ventricles_is_stripped(head: tuple[Volume, NDArray[np.bool_]]) -> None:
    scan, brain = head
    depth_mm = ndimage.distance_transform_edt(brain, scan.spacing_mm)
    middle, half = int(np.argwhere(depth_mm == depth_mm.max())[0][2]), round(16 / scan.spacing_mm[2])
    slab = Volume(_cut(scan, brain, 0).data[:, :, middle - half : middle + half], scan.affine)
    assert dark_layer(slab) < SKULL_SHARE
    assert looks_stripped(slab)


def test_what_fills_the_whole_image_and_what_is_empty_have_no_dark_layer() -> None:
    assert dark_layer(Volume(1 + np.arange(9**3, dtype=np.float32).reshape(9, 9, 9), np.eye(4))) < SKULL_SHARE
    assert dark_layer(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4))) == 0
