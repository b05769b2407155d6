"""Pictures of a person's future: brains at every horizon, and the curves of regions with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.figures import brain, charts, style
from gen3d.figures import names as wording
from gen3d.figures.brain import Cut, DisplaySpace, Overlay, Strip, Tile
from gen3d.forecast.folder import stem_of, volume_path
from gen3d.imaging.volume import read_stored

Floats = NDArray[np.float32]

CUTS = (Cut("coronal", -20.0), Cut("axial", 8.0))
"""Through both hippocampi, and through the lateral ventricles."""

LEAST_DIFFERENCE, LEAST_SD, LEAST_PERCENT = 0.05, 0.03, 4.0
"""Ends of scales, at least: of white matter's T1w (its median is 1) and of volume. A picture of nothing stays empty."""

SHARE_SHOWN = 0.15
"""Of a scale: weaker values fade."""

EXTREME = 99.5
"""Percentile of a volume at which its scale ends."""

VOLUMES = ("t1w", "difference", "log_change", "sd")
FIRST_REGIONS = ("left hippocampus", "right hippocampus", "left lateral ventricle", "right lateral ventricle")
NUM_PANELS = 6
SD_COLOUR = style.GROUP_COLOURS[3]


@dataclass(frozen=True)
class HorizonVolumes:
    """The volumes of a forecast at one horizon, [X, Y, Z] each; `sd` is None where there is none."""

    years: float
    t1w: Floats
    difference: Floats
    log_change: Floats
    sd: Floats | None

    @classmethod
    def read(cls, folder: Path, key: str, model: str, years: Sequence[float]) -> list[HorizonVolumes]:
        """Those of a scan at all horizons."""
        found = []
        for year in years:
            paths = {what: volume_path(folder, stem_of(key, model, year), what) for what in VOLUMES}
            read = {what: read_stored(path) for what, path in paths.items() if path.is_file()}
            found.append(cls(year, read["t1w"], read["difference"], read["log_change"], read.get("sd")))
        return found


def draw_person(scan: Floats, volumes: Sequence[HorizonVolumes], space: DisplaySpace) -> bytes:
    """Per horizon a coronal and an axial row: scan, forecast, difference, its SD, local volume change, as PNG.

    Scales are those of all horizons together, so that a later difference is seen to be larger.
    """
    volumes = [item for item in volumes if item.years > 0] or volumes
    mask = space.mask
    percent = [100 * np.expm1(item.log_change) for item in volumes]
    limits = (
        _limit([item.difference for item in volumes], mask, LEAST_DIFFERENCE),
        _limit([item.sd for item in volumes if item.sd is not None], mask, LEAST_SD),
        _limit(percent, mask, LEAST_PERCENT),
    )
    strips = []
    for item, changed in zip(volumes, percent, strict=True):
        overlays = [("Difference", _signed(item.difference, limits[0]))]
        if item.sd is not None:
            overlays.append(("SD of the difference", _strength(item.sd, limits[1])))
        overlays.append(("Local volume", _signed(changed, limits[2])))
        for place, cut in enumerate(CUTS):
            tiles = [Tile(cut, scan, None, "Scan"), Tile(cut, item.t1w, None, "Forecast")]
            tiles += [Tile(cut, item.t1w, overlay, name) for name, overlay in overlays]
            strips.append(Strip(_title(item.years) if place == 0 else "", tiles))
    bars = [(_signed(volumes[0].difference, limits[0]), "Difference of T1w (white matter is 1)")]
    if any(item.sd is not None for item in volumes):
        bars.append((_strength(volumes[0].difference, limits[1]), "SD of the difference"))
    bars.append((_signed(volumes[0].difference, limits[2]), "Local volume, change in %"))
    return brain.draw(strips, space, bars)


def _title(years: float) -> str:
    return "Today" if years == 0 else f"In {years:g} {'year' if years == 1 else 'years'}"


def _limit(volumes: Sequence[Floats], mask: NDArray[np.bool_], least: float) -> float:
    ends = [float(np.percentile(np.abs(volume[mask]), EXTREME)) for volume in volumes]
    return float(f"{max([least, *ends]):.2g}")


def _signed(values: Floats, limit: float) -> Overlay:
    return Overlay(values, limit, float(f"{SHARE_SHOWN * limit:.2g}"))


def _strength(values: Floats, limit: float) -> Overlay:
    return Overlay(values, limit, float(f"{SHARE_SHOWN * limit:.2g}"), colour=SD_COLOUR)


def shown_regions(regions: pd.DataFrame, model: str) -> list[str]:
    """Hippocampi and lateral ventricles, then the regions that change most by the furthest horizon."""
    own = regions[(regions["model"] == model) & np.isfinite(regions["log_change"])]
    last = own[own["years"] == own["years"].max()]
    order = last.reindex(last["log_change"].abs().sort_values(ascending=False, kind="stable").index)["region"].astype(
        str
    )
    first = [name for name in FIRST_REGIONS if name in set(order)]
    return list(dict.fromkeys([*first, *order]))[:NUM_PANELS]


def draw_curves(regions: pd.DataFrame, titles: Mapping[str, str]) -> charts.Chart:
    """Volume of regions against years ahead, in percent of today's: the model with its 50 and 90 % bands, floors as thin lines.

    Args:
        regions: rows of one scan, see `folder.REGIONS`.
        titles: models by name, the run's own first.
    """
    names = list(titles)
    panels: dict[str, list[charts.Banded]] = {}
    for region in shown_regions(regions, names[0]):
        lines = []
        for place, name in reversed(list(enumerate(names))):
            own = regions[(regions["region"] == region) & (regions["model"] == name)].sort_values("years")
            lines.append(_line(own, titles[name], place))
        panels[wording.region(region)] = lines
    return charts.banded(panels, "Years ahead", "Volume, change in %", 0.0)


def _line(own: pd.DataFrame, title: str, place: int) -> charts.Banded:
    """From today on, where nothing has changed and nothing is unsure."""
    ahead = own[own["years"] > 0]

    def begun(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([[0.0], values])

    bands = [tuple(begun(_percent(ahead, f"{side}_{n}")) for side in ("low", "high")) for n in (90, 50)]
    colours = (style.GROUP_COLOURS[0], *style.BASELINE_COLOURS)
    colour = colours[min(place, len(colours) - 1)]
    return charts.Banded(
        begun(_column(ahead, "years")),
        begun(_percent(ahead, "log_change")),
        [(low, high) for low, high in bands] if place == 0 else (),
        title,
        colour,
        place > 0,
    )


def _column(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return rows[name].to_numpy(dtype=np.float64)


def _percent(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return np.asarray(100 * np.expm1(_column(rows, name)))
