"""One person along a chain: the scan, what is made of it at every later stage, and the differences from the scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gen3d.figures import style

TILE_INCHES, TITLE_INCHES = 1.5, 0.35
LARGEST_DIFFERENCE = 0.5
"""Share of the intensity range at which a difference has the full colour."""


def middle_picture(stack: NDArray[np.floating], flat: bool) -> NDArray[np.floating]:
    """The middle picture of [S, H, W], or the middle axial slice of one volume [1, X, Y, Z]."""
    return stack[len(stack) // 2] if flat else stack[0][:, :, stack.shape[3] // 2]


def draw_chain(pictures: Sequence[NDArray[np.floating]], names: Sequence[str], title: str, brightest: float) -> bytes:
    """A PNG: pictures [H, W] from left to right, the scan first, and below each its difference from the scan."""
    num, ratio = len(pictures), pictures[0].shape[1] / pictures[0].shape[0]
    height = TITLE_INCHES + 2 * (TILE_INCHES * ratio + 0.22)
    with style.canvas(height, max(4.0, TILE_INCHES * num)) as figure:
        figure.text(0.01, 1 - 0.08 / height, title, va="top", fontsize=9, fontweight="bold")
        share = (TILE_INCHES * ratio) / height
        for place, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            top = 1 - (TITLE_INCHES + 0.2) / height
            axes = figure.add_axes((place / num, top - share, 0.97 / num, share))
            axes.imshow(picture.T[::-1], cmap="gray", vmin=0, vmax=brightest, aspect="equal")
            axes.set_title(name, fontsize=8, pad=2)
            axes.set_axis_off()
            below = figure.add_axes((place / num, top - 2 * share - 0.2 / height, 0.97 / num, share))
            below.set_axis_off()
            if place == 0:
                below.text(0.5, 0.5, "difference\nfrom the scan", ha="center", va="center", fontsize=8)
                continue
            limit = LARGEST_DIFFERENCE * brightest
            difference = (picture - pictures[0]).T[::-1]
            below.imshow(difference, cmap=style.DIVERGING, vmin=-limit, vmax=limit, aspect="equal")
        return style.png_bytes(figure)
