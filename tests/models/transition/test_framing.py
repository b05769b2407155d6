"""What a transition sees of a volume: the right slices, averaged, padded, and back where they were."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.models.transition.framing import Frame, middle_positions
from gen3d.models.transition.transition import mean_pictures


def test_slices_lie_over_the_middle_of_the_brain() -> None:
    mask = np.zeros((4, 4, 40), bool)
    mask[:, :, 10:31] = True
    assert middle_positions(mask, 2, 1) == (20,)
    assert middle_positions(mask, 2, 3) == (16, 20, 24)
    assert middle_positions(np.zeros_like(mask), 2, 1) == (20,)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pictures_are_the_slices_and_go_back_to_their_places(axis: int) -> None:
    volume = np.arange(12 * 14 * 16, dtype=np.float32).reshape(12, 14, 16)
    frame = Frame((12, 14, 16), axis, (2, 5), 1)
    pictures = frame.pictures(volume)
    kept = [side for place, side in enumerate(volume.shape) if place != axis]
    assert pictures.shape == (2, 16, 16)
    assert np.array_equal(pictures[1, : kept[0], : kept[1]], np.take(volume, 5, axis=axis))
    assert np.array_equal(pictures[:1], frame.pictures(volume, [0]))
    back, affine = frame.as_volume(pictures, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert np.array_equal(back, np.take(volume, [2, 5], axis=axis))
    assert affine[axis, axis] == 6  # slices 2 and 5 of 2 mm are 6 mm apart
    assert affine[axis, 3] == 4  # and the first lies at 2 * 2 mm


def test_voxels_are_averaged_and_a_volume_is_seen_whole() -> None:
    volume = np.random.default_rng(0).random((16, 20, 24)).astype(np.float32)
    frame = Frame((16, 20, 24), 2, None, 2)
    pictures = frame.pictures(volume)
    assert pictures.shape == (1, 8, 16, 16)
    assert pictures[0, 1, 2, 3] == pytest.approx(volume[2:4, 4:6, 6:8].mean(), abs=1e-6)
    _, affine = frame.as_volume(pictures, np.diag([4.0, 4.0, 4.0, 1.0]))
    assert affine[0, 0] == 8
    assert affine[0, 3] == 2  # the middle of two voxels of 4 mm


def test_every_person_counts_once_in_the_mean_whatever_the_number_of_scans() -> None:
    values = {0: 1.0, 1: 3.0, 2: 8.0}

    def load(row: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((1, 2, 2), values[row], np.float32), np.ones((1, 2, 2), np.float32)

    mean, quantiles = mean_pictures(load, [[0, 1], [2]])
    assert (mean == 5.0).all()  # (mean of 1 and 3, and 8), not the mean of three scans
    assert np.allclose(quantiles, 5.0)
