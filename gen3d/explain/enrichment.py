"""How much of a map lies in a region, for its size: enrichment, with a null of rotated and mirrored maps.

That a broad map overlaps a region says nothing, because it overlaps all of them. Enrichment is the share of the map's mass in the
region over the share of the brain's volume that the region is: 1 is chance. The null turns the map inside the brain and
keeps its smoothness and strength (as the spin tests of surfaces do; Alexander-Bloch et al. 2018, NeuroImage 178:540):
the brain is made round by its own second moments, rotated at random, mirrored every other time, and made a brain again.
Turning the map and turning the region the other way are the same, and only the region's voxels need to be turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import special_ortho_group

from gen3d.maths.stats import auroc

LEAST_INSIDE = 0.5
"""Share of a region's voxels that must be in the brain after it was turned; otherwise it is turned again."""
MOST_TRIES = 20

Strength = NDArray[np.floating]


@dataclass(frozen=True)
class Enrichment:
    """Of one region: enrichment, mean of the null, one-sided p against it, and rank accuracy.

    `rank_accuracy` is the share of the region among the map's strongest voxels, as many as the region has (Arras et al. 2022);
    by chance it is the region's share of the brain. `auroc` is that of the voxels' strength for lying in the region.
    """

    value: float
    null_mean: float
    null_high: float
    p: float
    rank_accuracy: float
    auroc: float


@dataclass(frozen=True)
class RoundBrain:
    """Random rotations and reflections of a brain's voxels that leave the brain, made round, as it is."""

    mask: NDArray[np.bool_]

    @cached_property
    def _frame(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Centre [3], root of the second moments [3, 3] and its inverse."""
        places = np.argwhere(self.mask).astype(np.float64)
        values, vectors = np.linalg.eigh(np.cov(places.T))
        root = vectors * np.sqrt(values) @ vectors.T
        return places.mean(axis=0), root, np.linalg.inv(root)

    def turned(self, places: NDArray[Any], generator: np.random.Generator) -> NDArray[np.int64]:
        """Voxels [n, 3] after a random turn, those that lie in the brain, [m, 3].

        A turn that leaves less than half of the voxels in the brain is drawn again.
        """
        centre, root, inverse = self._frame
        for _ in range(MOST_TRIES):
            turn = special_ortho_group.rvs(3, random_state=generator)
            if generator.integers(2):
                turn[:, 0] *= -1
            moved = np.rint((places - centre) @ inverse.T @ turn.T @ root.T + centre).astype(np.int64)
            fits = ((moved >= 0) & (moved < self.mask.shape)).all(axis=1)
            moved = moved[fits]
            moved = moved[self.mask[tuple(moved.T)]]
            if len(moved) >= LEAST_INSIDE * len(places):
                break
        return moved

    def turned_map(self, volume: Strength, generator: np.random.Generator) -> NDArray[np.float64]:
        """A map [X, Y, Z] turned inside the brain: the values of the brain's voxels [V]; voxels turned out of it get 0."""
        centre, root, inverse = self._frame
        places = np.argwhere(self.mask)
        turn = special_ortho_group.rvs(3, random_state=generator)
        if generator.integers(2):
            turn[:, 0] *= -1
        moved = np.rint((places - centre) @ inverse.T @ turn.T @ root.T + centre).astype(np.int64)
        fits = ((moved >= 0) & (moved < self.mask.shape)).all(axis=1)
        moved[~fits] = 0
        values = np.where(fits & self.mask[tuple(moved.T)], volume[tuple(moved.T)], 0.0)
        return np.asarray(values, dtype=np.float64)


def normalised(volume: Strength, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """|map| [X, Y, Z] as a multiple of its mean over the brain, 0 outside: the enrichment of every voxel; 0 for an empty map."""
    strength = np.where(mask, np.abs(volume), 0.0).astype(np.float64)
    mean = strength[mask].mean()
    return np.asarray(strength / mean if mean > 0 else strength, dtype=np.float32)


def by_region(volume: Strength, mask: NDArray[np.bool_], labels: NDArray[np.integer], most: int) -> NDArray[np.float64]:
    """Enrichment of the regions 0, 1, ... `most` (0: the brain outside of all), [most + 1]; NaN where there is no voxel."""
    strength = normalised(volume, mask)[mask]
    inside = labels[mask]
    counts = np.bincount(inside, minlength=most + 1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.bincount(inside, weights=strength, minlength=most + 1) / counts)


def enrichment(
    volume: Strength, region: NDArray[np.bool_], brain: RoundBrain, rotations: int, generator: np.random.Generator
) -> Enrichment:
    """Enrichment of a map in one region, against the same map turned inside the brain.

    Args:
        volume: the map [X, Y, Z]; its absolute values count.
        region: [X, Y, Z].
        brain: whose mask holds the map.
        rotations: turned maps.
        generator: of the turns.
    """
    strength = normalised(volume, brain.mask)
    inside = region & brain.mask
    if not inside.any() or not strength.any():
        return Enrichment(*[float("nan")] * 6)
    value = float(strength[inside].mean())
    places = np.argwhere(inside)
    null = np.empty(rotations)
    for draw in range(rotations):
        moved = brain.turned(places, generator)
        null[draw] = strength[tuple(moved.T)].mean() if len(moved) else 0.0
    p = (1 + np.count_nonzero(null >= value)) / (1 + rotations)
    values, among = strength[brain.mask], inside[brain.mask]
    strongest = np.argsort(-values, kind="stable")[: int(among.sum())]
    accuracy = float(among[strongest].mean())
    return Enrichment(value, float(null.mean()), float(np.quantile(null, 0.95)), p, accuracy, auroc(values, among))
