"""Regions of a scan replaced by what controls have there: how much the answer depends on each, and which of them decide.

A region is replaced through a soft edge, so that the edge itself is no sign. The soft regions add up to 1 in every voxel of the
brain: all of them replaced is the brain of the controls, in whatever order it was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter
from torch import Tensor

from gen3d.explain.question import Answering

TRUNCATE_SDS = 3.0
CURVE_STEPS = 12
"""Points of a curve of deletion or insertion, at most; regions are replaced in as many groups."""


@dataclass(frozen=True)
class SoftRegions:
    """Labels [X, Y, Z] of the brain's regions (0: brain outside of all of them) with soft edges, inside a mask."""

    labels: NDArray[np.integer]
    mask: NDArray[np.bool_]
    edge_voxels: float

    @cached_property
    def present(self) -> list[int]:
        """Labels with a voxel in the brain, 0 first if there is one."""
        return [int(label) for label in np.unique(self.labels[self.mask])]

    @cached_property
    def _brain(self) -> NDArray[np.float32]:
        return self._smooth(self.mask.astype(np.float32))

    def weight(self, labels: Sequence[int]) -> NDArray[np.float32]:
        """How much of every voxel [X, Y, Z] belongs to some regions, between 0 and 1; 0 outside the brain."""
        chosen = np.isin(self.labels, list(labels)) & self.mask
        weight = np.zeros(self.mask.shape, np.float32)
        if not chosen.any():
            return weight
        reach = int(np.ceil(TRUNCATE_SDS * self.edge_voxels)) + 1
        box = tuple(
            slice(max(0, part.start - reach), part.stop + reach) for part in find_objects(chosen.astype(np.uint8))[0]
        )
        inside = self.mask[box]
        soft = self._smooth(chosen[box].astype(np.float32))
        weight[box][inside] = soft[inside] / self._brain[box][inside]
        return np.clip(weight, 0.0, 1.0)

    def _smooth(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.edge_voxels <= 0:
            return volume
        smooth: NDArray[np.float32] = gaussian_filter(volume, self.edge_voxels, mode="constant", truncate=TRUNCATE_SDS)
        return smooth


@dataclass(frozen=True)
class Replacing:
    """A person's scan and the controls' mean [C, X, Y, Z] in stored units, and a member that answers about both."""

    answering: Answering
    volume: Tensor
    controls: Tensor
    regions: SoftRegions
    batch: int

    def answers(self, chosen: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """The answer [n] with each of these lists of regions replaced."""
        found: list[NDArray[np.float64]] = []
        for start in range(0, len(chosen), self.batch):
            weights = [self.regions.weight(labels) for labels in chosen[start : start + self.batch]]
            share = torch.from_numpy(np.stack(weights))[:, None].to(self.volume.device)
            mixed = self.volume + share * (self.controls - self.volume)
            found.append(self.answering.of_volumes(mixed, self.batch).double().cpu().numpy())
        return np.concatenate(found) if found else np.empty(0)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The answer for the scan as it is, and with the whole brain of the controls."""
        values = self.answers([[], self.regions.present])
        return float(values[0]), float(values[1])

    def drops(self, labels: Sequence[int]) -> NDArray[np.float64]:
        """By how much the answer falls when each region alone is replaced, [n]."""
        return self.ends[0] - self.answers([[label] for label in labels])

    def curves(self, order: Sequence[int]) -> tuple[float, float]:
        """Areas of deletion and insertion for regions in an order, in units of the answer.

        Deletion: how far the answer has moved from the scan's towards the controls', mean over the curve. Insertion: how far it
        has moved back when regions of the scan are put into the controls' brain. Larger is better for both.
        """
        start, end = self.ends
        towards = float(np.sign(end - start))
        groups = [list(part) for part in np.array_split(np.asarray(order), min(CURVE_STEPS, len(order))) if len(part)]
        replaced = [list(chain(*groups[: num + 1])) for num in range(len(groups) - 1)]
        left = [list(chain(*groups[num + 1 :])) for num in range(len(groups) - 1)]
        deleted = np.concatenate([[start], self.answers(replaced), [end]])
        inserted = np.concatenate([[end], self.answers(left), [start]])
        deletion, insertion = (deleted - start) * towards, (end - inserted) * towards
        return float(np.trapezoid(deletion) / len(groups)), float(np.trapezoid(insertion) / len(groups))


def painted(values: NDArray[np.floating], labels: Sequence[int], regions: SoftRegions) -> NDArray[np.float32]:
    """Values of regions [n] shared out over their voxels, [X, Y, Z]: the sum over a region is its value."""
    volume = np.zeros(regions.mask.shape, np.float32)
    for label, value in zip(labels, values, strict=True):
        place = (regions.labels == label) & regions.mask
        volume[place] = value / max(1, np.count_nonzero(place))
    return volume
