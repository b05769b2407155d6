"""The outline of a head: the largest piece, its holes filled, and nothing where nothing is."""

from __future__ import annotations

import numpy as np

from gen3d.imaging.outline import filled_outline


def test_the_largest_piece_is_taken_and_its_ventricle_filled() -> None:
    x, y = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    brain = (x - 18) ** 2 + (y - 20) ** 2 < 14**2
    ventricle = (x - 18) ** 2 + (y - 20) ** 2 < 4**2
    eye = (x - 37) ** 2 + (y - 4) ** 2 < 2**2
    picture = np.where(brain & ~ventricle, 1.0, 0.0) + 1.0 * eye
    assert np.array_equal(filled_outline(picture), brain)


def test_a_dark_picture_has_no_outline() -> None:
    assert not filled_outline(np.zeros((8, 8))).any()
    assert not filled_outline(np.full((8, 8), -1.0)).any()
