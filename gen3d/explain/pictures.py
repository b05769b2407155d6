"""Pictures of explanations: every method over one brain with its judges' verdict beside it, and its curve over coronal slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.explain.sentences import METHODS, standing
from gen3d.explain.thresholds import Rule, threshold
from gen3d.figures import brain, charts, style
from gen3d.figures.brain import DisplaySpace

TEMPORAL_MM = (-26.0, -20.0, -18.0)
"""Through the left hippocampus."""


@dataclass(frozen=True)
class MethodMap:
    """One method's strength [X, Y, Z] (1: the brain's mean), from where on it is shown, and where it is opaque."""

    method: str
    strength: NDArray[np.floating]
    threshold: float
    limit: float


def shown_map(
    method: str, strength: NDArray[np.floating], mask: NDArray[np.bool_], rule: tuple[Rule, float, float], limit: float
) -> MethodMap:
    """A strength with the threshold of a rule (rule, top_percent, sd_above)."""
    cut = threshold(strength[mask], *rule)
    return MethodMap(method, strength, cut, max(limit, cut * 1.5) if np.isfinite(cut) else limit)


def draw(
    maps: Sequence[MethodMap], anatomy: NDArray[np.floating], space: DisplaySpace, colour: str, judges: Sequence[Row]
) -> bytes:
    """A row per method: three planes through the left hippocampus and three through the strongest place, as PNG."""
    strips = []
    for item in maps:
        overlay = brain.Overlay(item.strength, item.limit, item.threshold, colour=colour)
        peak = brain.peak(item.strength, space.mask, space)
        cuts = [*brain.three_planes(TEMPORAL_MM), *brain.three_planes(peak)]
        title = f"{spell.capital(METHODS[item.method])}: {standing(judges, item.method)}"
        strips.append(brain.Strip(title, [brain.Tile(cut, anatomy, overlay) for cut in cuts]))
    return brain.draw(strips, space)


def slice_curves(slices: pd.DataFrame, groups: Sequence[str], colours: dict[str, str]) -> charts.Chart:
    """Share of attribution per coronal slice: a panel per method, a line per group (mean over people)."""
    panels: dict[str, list[charts.Curve]] = {}
    for method, own in slices.groupby("method", sort=False):
        lines = []
        for group in groups:
            mean = own[own["group"].astype(str) == group].groupby("y_mm")["share"].mean()
            if len(mean):
                places, share = mean.index.to_numpy(dtype=np.float64), 100 * mean.to_numpy(dtype=np.float64)
                lines.append(charts.Curve(places, share, group, colours.get(group, style.GREY)))
        panels[f"{spell.capital(METHODS.get(str(method), str(method)))} (% per slice)"] = lines
    return charts.curves(panels, "y, mm (back to front)")
