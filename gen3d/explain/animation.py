"""A map over a brain, slice by slice in three planes at once, as one small file that any browser plays."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gen3d.figures import style
from gen3d.figures.brain import AXES, BLACK, WHITE, DisplaySpace

FRAMES = 40
"""At most; every plane goes once from one end of the brain to the other."""
MILLISECONDS = 90
GAP = 4
"""Pixels between planes."""
MOST_BYTES = 3_000_000
QUALITIES = (80, 60, 40, 20)
LEAST_PIXELS = 2
"""Pixels per voxel, at least so many that a plane is `SIDE` high."""
SIDE = 140


@dataclass(frozen=True)
class Painted:
    """A map to animate: strength [X, Y, Z] over anatomy (white matter 1), opaque at `limit` and gone below `threshold`."""

    strength: NDArray[np.floating]
    anatomy: NDArray[np.floating]
    threshold: float
    limit: float
    colour: str


def animated(painted: Painted, space: DisplaySpace, kind: str) -> bytes:
    """Axial, coronal and sagittal slices side by side, moving together, as WebP, APNG or GIF that repeats.

    WebP is compressed more where the file would be larger than 3 MB.
    """
    frames = [Image.fromarray(frame) for frame in _frames(painted, space)]
    if kind != "webp":
        return _saved(frames, "PNG" if kind == "apng" else "GIF", {})
    content = b""
    for quality in QUALITIES:
        content = _saved(frames, "WEBP", {"quality": quality, "method": 4})
        if len(content) <= MOST_BYTES:
            break
    return content


def _saved(frames: list[Image.Image], form: str, options: dict[str, int]) -> bytes:
    stream = io.BytesIO()
    frames[0].save(
        stream, format=form, save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, **options
    )
    return stream.getvalue()


def _frames(painted: Painted, space: DisplaySpace) -> list[NDArray[np.uint8]]:
    box = space.cropped()
    coloured = _coloured(painted, space)[box]
    num = min(FRAMES, max(coloured.shape[:3]))
    zoom = max(LEAST_PIXELS, round(SIDE / max(coloured.shape[:3])))
    shares = (np.arange(num) + 0.5) / num
    return [_side_by_side([_slice(coloured, axis, share, zoom) for axis in AXES.values()][::-1]) for share in shares]


def _slice(coloured: NDArray[np.uint8], axis: int, share: float, zoom: int) -> NDArray[np.uint8]:
    flat = np.take(coloured, int(share * coloured.shape[axis]), axis=axis)
    upright = np.flip(flat.transpose(1, 0, 2), axis=0)
    return upright.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _side_by_side(planes: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = max(plane.shape[0] for plane in planes)
    width = sum(plane.shape[1] for plane in planes) + GAP * (len(planes) - 1)
    frame, left = np.full((height, width, 3), 255, np.uint8), 0
    for plane in planes:
        top = (height - plane.shape[0]) // 2
        frame[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
        left += plane.shape[1] + GAP
    return frame


def _coloured(painted: Painted, space: DisplaySpace) -> NDArray[np.uint8]:
    """Colours of every voxel [X, Y, Z, 3]; white outside the brain."""
    grey = np.clip((painted.anatomy - BLACK) / (WHITE - BLACK), 0, 1)[..., None]
    alpha = style.opacity(painted.strength, painted.threshold, painted.limit)[..., None]
    mixed = grey * (1 - alpha) + alpha * np.asarray(style.rgb(painted.colour))
    mixed[~space.mask] = 1.0
    return np.asarray(np.rint(255 * mixed), dtype=np.uint8)
