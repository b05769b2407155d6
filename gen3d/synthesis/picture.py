"""A picture of the first scans of a synthetic dataset in three planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.figures import style
from gen3d.imaging.plan import GridPlan

PLANES = ((0, 8.0), (1, -18.0), (2, 4.0))
"""Axis and world coordinate (mm): next to the midline, through the hippocampus, through the ventricles."""

WINDOW: dict[str, Any] = {"vmin": 0.0, "vmax": 1.2, "origin": "lower"}  # white matter of prepared volumes is at 1
TILE_INCHES, TEXT_INCHES, GAP_INCHES, HEAD_INCHES, DOTS_PER_INCH = 1.5, 0.34, 0.08, 0.5, 110
PEOPLE_PER_ROW = 2


def draw_samples(volumes: Sequence[NDArray[np.float32]], names: Sequence[str], title: str, plan: GridPlan) -> bytes:
    """A PNG of T1w scans: one block per scan with a sagittal, a coronal and an axial slice, its name above.

    Args:
        volumes: [X, Y, Z] each, on the plan's grid; left of the image is left of the brain.
        names: a line per scan.
    """
    num_rows = -(-len(volumes) // PEOPLE_PER_ROW)
    block_width = len(PLANES) * TILE_INCHES + 2 * GAP_INCHES
    width = PEOPLE_PER_ROW * block_width
    side = max(plan.shape)
    height = HEAD_INCHES + num_rows * (TILE_INCHES + TEXT_INCHES)
    with style.canvas(height, width) as figure:
        figure.text(0.01, 1 - 0.12 / height, title, va="top", fontsize=10, fontweight="bold")
        for number, (volume, name) in enumerate(zip(volumes, names, strict=True)):
            row, column = divmod(number, PEOPLE_PER_ROW)
            top = height - HEAD_INCHES - row * (TILE_INCHES + TEXT_INCHES)
            left = column * block_width + GAP_INCHES
            figure.text(left / width, (top - 0.04) / height, name, va="top")
            for place, (axis, position_mm) in enumerate(PLANES):
                corner = ((left + place * TILE_INCHES) / width, (top - TEXT_INCHES + 0.12 - TILE_INCHES) / height)
                axes = figure.add_axes((*corner, TILE_INCHES / width, TILE_INCHES / height))
                tile = squared(slice_of(volume, axis, position_mm, plan), side)
                axes.imshow(tile, cmap="gray", **WINDOW)
                axes.set_axis_off()
        return style.png_bytes(figure, DOTS_PER_INCH)


def slice_of(volume: NDArray[np.float32], axis: int, position_mm: float, plan: GridPlan) -> NDArray[np.float32]:
    """The slice nearest to a world coordinate, rows from bottom to top (or back to front)."""
    index = round((position_mm - float(plan.matrix[axis, 3])) / plan.spacing_mm)
    chosen: NDArray[np.float32] = np.take(volume, min(max(index, 0), volume.shape[axis] - 1), axis=axis)
    return chosen.T


def squared(tile: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The slice in the middle of a black square."""
    missing = [side - length for length in tile.shape]
    return np.pad(tile, [(count // 2, count - count // 2) for count in missing])
