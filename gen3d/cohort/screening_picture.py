"""The picture a person checks a preparation by: the aligned scan under the template's outline, and its log-Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
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
PNG_EFFORT = 4  # of 9: more takes longer than it saves on the disk


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
    from PIL import Image

    zoom = max(1, round(HEIGHT_PIXELS / mask.shape[2]))
    rows = [_row(lambda cut: _grey(t1w[cut]), mask, plan, zoom, outlined=True)]
    if log_jacobian is not None:
        rows.append(_row(lambda cut: _coloured(log_jacobian[cut], mask[cut]), mask, plan, zoom, outlined=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.concatenate(rows) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, format="PNG", compress_level=PNG_EFFORT)


def _grey(t1w: NDArray[np.float32]) -> NDArray[np.floating]:
    return np.repeat(np.clip(t1w / BRIGHTEST, 0, 1)[..., None], 3, axis=-1)


def _coloured(log_jacobian: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.floating]:
    import matplotlib  # here, because it takes as long as all else that a command imports

    level = np.clip((log_jacobian / LOG_JACOBIAN_RANGE + 1) / 2, 0, 1)
    colours: NDArray[np.floating] = matplotlib.colormaps["RdBu_r"](level)[..., :3] * mask[..., None]
    return colours


Cut = tuple[slice | int, ...]


def _row(
    painted: Callable[[Cut], NDArray[np.floating]], mask: NDArray[np.bool_], plan: GridPlan, zoom: int, outlined: bool
) -> NDArray[np.floating]:
    """The six slices side by side; ``painted`` gives the colours [., ., 3] of one."""
    tiles = []
    for axis, place_mm in SLICES_MM:
        index = round((place_mm - float(plan.matrix[axis, 3])) / plan.spacing_mm)
        cut: list[slice | int] = [slice(None)] * 3
        cut[axis] = min(max(index, 0), mask.shape[axis] - 1)
        tile = _enlarged(painted(tuple(cut)), zoom)
        if outlined:
            inside = _enlarged(mask[tuple(cut)], zoom)
            tile[inside & ~ndimage.binary_erosion(inside)] = OUTLINE
        tiles.append(tile.swapaxes(0, 1)[::-1])
    height = max(tile.shape[0] for tile in tiles)
    return np.concatenate([np.pad(tile, ((height - tile.shape[0], 0), (0, 0), (0, 0))) for tile in tiles], axis=1)


def _enlarged(tile: NDArray[np.generic], zoom: int) -> NDArray[np.generic]:
    return tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
