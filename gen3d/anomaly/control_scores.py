"""Held-out scores of the controls of one channel, among which a person's scores are ranked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.calibrate import ValueRows
from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.volumes import unmask
from gen3d.maths.significance import burden, heaviest_cluster

FEWEST_TOGETHER = 5
"""People behind every value of scores that are made coarse."""


@dataclass(frozen=True)
class ControlScores:
    """Scores of n controls, each held out; larger is more unusual.

    Attributes:
        regions: |z| of every region, [n, R].
        largest: the largest of them in each control, [n].
        masses: of the heaviest cluster of each map, [n]; empty for channels without maps.
        burdens: mean of the largest 5 % of |z| of each map, [n]; empty without maps.
    """

    regions: NDArray[np.float32]
    largest: NDArray[np.float64]
    masses: NDArray[np.float64]
    burdens: NDArray[np.float64]

    @classmethod
    def of(cls, panel: Panel, regional_z: NDArray[np.float32], maps: MapScores | None = None) -> ControlScores:
        """From z of regions of everybody [N, R], and the scores of the controls' maps."""
        of_controls = np.abs(regional_z[panel.calibration])
        nothing = np.empty(0)
        masses, burdens = (maps.masses, maps.burdens) if maps is not None else (nothing, nothing)
        return cls(of_controls, of_controls.max(axis=1).astype(np.float64), masses, burdens)

    def without(self, position: int) -> ControlScores:
        """Those of the controls but one; -1 for all."""
        kept = np.arange(len(self.largest)) != position
        return self if position < 0 else self._each(lambda values: values[kept] if len(values) else values)

    def anonymous(self) -> ControlScores:
        """The same scores, each sorted for itself, so that no row is a person."""
        return self._each(lambda values: np.sort(values, axis=0))

    def coarse(self) -> ControlScores:
        """Sorted scores in which every value stands for `FEWEST_TOGETHER` people: the largest of them, so p is not too small."""
        return self._each(lambda values: _coarse(np.sort(values, axis=0)))

    def merged(self, other: ControlScores) -> ControlScores:
        """Those of both groups of controls, sorted."""
        both = [np.concatenate([mine, theirs]) for mine, theirs in zip(self._arrays(), other._arrays(), strict=True)]
        return ControlScores(*both).anonymous()

    def _each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> ControlScores:
        return ControlScores(*map(change, self._arrays()))

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.regions, self.largest, self.masses, self.burdens


def _coarse(ordered: NDArray[Any]) -> NDArray[Any]:
    """Values in rising order [n, ...], each replaced by the largest of its group; the lowest group may be larger."""
    num = len(ordered)
    if not num:
        return ordered
    rest = num % FEWEST_TOGETHER
    place = np.maximum(np.arange(num), min(rest, num - 1))
    return ordered[num - 1 - (num - 1 - place) // FEWEST_TOGETHER * FEWEST_TOGETHER]


@dataclass(frozen=True)
class MapScores:
    """Mass of the heaviest cluster and burden of the map of each calibration control, [n]."""

    masses: NDArray[np.float64]
    burdens: NDArray[np.float64]

    @classmethod
    def of(cls, panel: Panel, z: ValueRows, mask: NDArray[np.bool_], threshold: float) -> MapScores:
        """From z [N, V] of everybody; clusters are of |z| beyond the threshold."""
        masses = [heaviest_cluster(unmask(z[row], mask), threshold) for row in panel.calibration]
        return cls(np.array(masses), np.array([burden(z[row]) for row in panel.calibration]))
