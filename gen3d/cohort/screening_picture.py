"""The picture a person checks a preparation by: the aligned scan under the template's outline, and its log-Jacobian."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.plan import GridPlan

SLICES_MM = (
    (0, 4.0),
    (0, 26.0),
    (1, -20.0),
    (1, 12.0),
    (2, -14.0),
    (2, 14.0),
)  # axis and place: midline, hippocampus, front, base
OUTLINE = np.array([1.0, 0.55, 0.1])
BRIGHTEST = 1.25  # intensity drawn white; white matter is 1
LOG_JACOBIAN_RANGE = 0.6  # drawn at full colour: a volume change of -45 % (blue) or +82 % (red)
HEIGHT_PIXELS = 200


def draw(
    path: Path,
    t1w: NDArray[np.float32],
    log_jacobian: NDArray[np.float32] | None,
    mask: NDArray[np.bool_],
    plan: GridPlan,
) -> None:
    """Write a PNG: six slices of the scan with the template's brain outlined, and below them the log-Jacobian if there is one.

    Args:
        t1w, log_jacobian, mask: [X, Y, Z] on the plan's grid.
    """
    zoom = max(1, round(HEIGHT_PIXELS / mask.shape[2]))
    grey = np.repeat(np.clip(t1w / BRIGHTEST, 0, 1)[..., None], 3, axis=-1)
    rows = [_row(grey, mask, plan, zoom, outlined=True)]
    if log_jacobian is not None:
        level = (log_jacobian / LOG_JACOBIAN_RANGE + 1) / 2
        colour = matplotlib.colormaps["RdBu_r"](np.clip(level, 0, 1))[..., :3] * mask[..., None]
        rows.append(_row(colour, mask, plan, zoom, outlined=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, np.concatenate(rows))


def _row(
    colours: NDArray[np.floating], mask: NDArray[np.bool_], plan: GridPlan, zoom: int, outlined: bool
) -> NDArray[np.floating]:
    tiles = []
    for axis, place_mm in SLICES_MM:
        index = round((place_mm - float(plan.matrix[axis, 3])) / plan.spacing_mm)
        index = min(max(index, 0), mask.shape[axis] - 1)
        tile = _enlarged(np.take(colours, index, axis=axis), zoom)
        if outlined:
            inside = _enlarged(np.take(mask, index, axis=axis), zoom)
            tile[inside & ~ndimage.binary_erosion(inside)] = OUTLINE
        tiles.append(tile.swapaxes(0, 1)[::-1])
    height = max(tile.shape[0] for tile in tiles)
    return np.concatenate([np.pad(tile, ((height - tile.shape[0], 0), (0, 0), (0, 0))) for tile in tiles], axis=1)


def _enlarged(tile: NDArray[np.generic], zoom: int) -> NDArray[np.generic]:
    return tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
