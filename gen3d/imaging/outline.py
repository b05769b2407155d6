"""The outline of a head in one picture: its largest bright piece, filled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BRIGHT_PERCENTILE, SHARE_OF_BRIGHT = 98.0, 0.15
"""Tissue is what exceeds this share of this percentile of the values above 0, as in `brainmask.stripped_mask`."""


def filled_outline(picture: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """The largest contour of a picture [H, W] or volume [X, Y, Z], filled; nothing where nothing is above 0.

    The largest connected piece above 15 % of the bright level, with all holes (ventricles, sulci) filled.
    """
    positive = picture[picture > 0]
    if not positive.size:
        return np.zeros(picture.shape, dtype=bool)
    bright = picture > SHARE_OF_BRIGHT * np.percentile(positive, BRIGHT_PERCENTILE)
    labels, num = ndimage.label(bright)
    if num > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        bright = labels == sizes.argmax()
    return np.asarray(ndimage.binary_fill_holes(bright), dtype=bool)
