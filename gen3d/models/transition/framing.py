"""Which part of a prepared scan a transition sees: some slices of one plane, or the whole volume, at a coarser grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gen3d.imaging.outline import filled_outline
from gen3d.nets.transition import MULTIPLE

Plane = Literal["sagittal", "coronal", "axial"]
AXIS: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
MIDDLE = (0.3, 0.7)
"""Shares of the brain's extent between which slices are taken."""

LEAST_AREA = 0.02
"""Share of the largest slice's brain below which a slice has no brain to speak of."""

Pictures = NDArray[np.float32]


def middle_positions(mask: NDArray[np.bool_], axis: int, num: int) -> tuple[int, ...]:
    """`num` slices evenly spaced over the middle of the brain along an axis; the central one where num is 1."""
    area = np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).sum(axis=1)
    inside = np.flatnonzero(area > LEAST_AREA * max(1, area.max()))
    if not inside.size:
        inside = np.arange(mask.shape[axis])
    first, last = inside[0] + np.array(MIDDLE) * (inside[-1] - inside[0])
    places = np.linspace(first, last, num) if num > 1 else np.array([(first + last) / 2])
    return tuple(int(place) for place in places.round())


@dataclass(frozen=True)
class Frame:
    """What a transition sees of a volume [X, Y, Z] of a grid: pictures [S, H, W], or one volume [1, X, Y, Z].

    `shape` is the grid's; `positions` are slices along `axis` (None: the whole volume); `scale` voxels of each side of a
    picture are averaged; sides are padded with zeros at their ends to a multiple of 8.
    """

    shape: tuple[int, int, int]
    axis: int
    positions: tuple[int, ...] | None
    scale: int

    @property
    def num_pictures(self) -> int:
        """Pictures of one scan."""
        return 1 if self.positions is None else len(self.positions)

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels of a picture before padding."""
        kept = self.shape if self.positions is None else tuple(np.delete(self.shape, self.axis).tolist())
        return tuple(-(-int(side) // self.scale) for side in kept)

    @property
    def padded(self) -> tuple[int, ...]:
        """Pixels of a picture as the network takes it."""
        return tuple(-(-side // MULTIPLE) * MULTIPLE for side in self.sides)

    def pictures(self, volume: NDArray[Any], which: Sequence[int] | None = None) -> Pictures:
        """The pictures of a volume [X, Y, Z], padded: [S, *padded]; `which` of them, by their number."""
        if self.positions is None:
            stack = np.asarray(volume, np.float32)[None]
        else:
            chosen = [self.positions[number] for number in (range(self.num_pictures) if which is None else which)]
            stack = np.moveaxis(np.take(volume, chosen, axis=self.axis), self.axis, 0).astype(np.float32)
        coarse = _averaged(stack, self.scale)
        ends = [(0, 0), *((0, full - side) for full, side in zip(self.padded, coarse.shape[1:], strict=True))]
        return np.pad(coarse, ends)

    def masks(self, pictures: Pictures, mask: NDArray[np.bool_] | None, which: Sequence[int] | None = None) -> Pictures:
        """The brain of each picture [S, *padded], 0 or 1: the prepared mask; where None the filled outline of the picture."""
        if mask is None:
            return np.stack([filled_outline(picture) for picture in pictures]).astype(np.float32)
        return (self.pictures(mask, which) > 0.5).astype(np.float32)

    def unpadded(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Pictures [S, *padded] without the padding."""
        return pictures[(slice(None), *(slice(side) for side in self.sides))]

    def as_volume(self, pictures: NDArray[Any], affine: NDArray[np.float64]) -> tuple[Pictures, NDArray[np.float64]]:
        """Pictures [S, *padded] as a volume [X, Y, Z] whose slices are those seen, and its affine (mm).

        Slices are as far apart as they are in the grid; where they are unevenly apart, as the first two are.
        """
        stack = self.unpadded(pictures).astype(np.float32)
        scales = np.full(3, float(self.scale))
        origin = np.full(3, (self.scale - 1) / 2)
        if self.positions is None:
            volume = stack[0]
        else:
            volume = np.moveaxis(stack, 0, self.axis)
            places = self.positions
            scales[self.axis] = max(1, places[1] - places[0]) if len(places) > 1 else 1
            origin[self.axis] = places[0]
        placed = affine.copy()
        placed[:3, :3] = affine[:3, :3] * scales
        placed[:3, 3] = affine[:3, :3] @ origin + affine[:3, 3]
        return volume, placed


def _averaged(stack: Pictures, scale: int) -> Pictures:
    """Every side but the first averaged over `scale` neighbours; ends that do not fill one are padded with 0."""
    if scale == 1:
        return stack
    ends = [(0, 0), *((0, -side % scale) for side in stack.shape[1:])]
    padded = np.pad(stack, ends)
    for axis in range(1, padded.ndim):
        shape = (*padded.shape[:axis], padded.shape[axis] // scale, scale, *padded.shape[axis + 1 :])
        padded = padded.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return padded
