"""Where a forecast leads among healthy people: a person's regions, today and later, against the centiles of a norm.

A norm's curves give the log volume between which healthy people of an age and sex lie (`gen3d norm`), and maps by that norm
how far a person's region is from the median of their age (`effect`, with the site taken out). So a region lies at

    median(age, sex) + effect   today,   and at that plus the forecast change of log volume   years later,

which is compared with the curve at the later age: a person who loses as much as everybody of their age keeps the centile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from gen3d.anomaly.folder import NORM, MapsFolder
from gen3d.anomaly.norm.folder import CENTILES, CURVES
from gen3d.cohort.channels import SIZE, VOLUME
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.tables import rows_of
from gen3d.figures import charts, style
from gen3d.figures import names as wording
from gen3d.forecast.folder import NORMATIVE

WHOLE_VOLUMES = (VOLUME, SIZE)
"""Channels whose change over time is that of the region's volume: contrast against the surroundings is not."""
NUM_PANELS = 6
COLUMNS = [f"centile_{centile}" for centile in CENTILES]
MEDIAN = CENTILES.index(50)
BANDS = (("centile_5", "centile_95"), ("centile_25", "centile_75"))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NormativeCurves:
    """The curves of a norm, and how far people were from them.

    Attributes:
        channel: `volume` or `size`.
        curves: rows of `curves.tsv`: centiles by region, sex and age.
        effects: log volume less the median of the person's age, sex and site: a row per scan key, a column per region.
    """

    channel: str
    curves: pd.DataFrame
    effects: pd.DataFrame

    @classmethod
    def of(cls, maps_folder: Path) -> NormativeCurves:
        """Those of maps that a norm judged.

        Raises:
            UserError: no finished folder of maps, maps without a norm, a norm that is not found, or one without curves of volume.
        """
        maps = MapsFolder(read(maps_folder, ("anomaly",)), maps_folder.name)
        if not maps.by_norm:
            raise UserError(
                f"maps={maps_folder}: its people were judged by controls of their own cohort, which leave no curves; make maps "
                "with `gen3d anomaly norm=NORM prepared=...` and give these."
            )
        norms = maps.input_folders(NORM)
        if not norms:
            raise UserError(
                f"maps={maps_folder}: the norm that it was made from is not found; put the norm folder beside the maps."
            )
        curves = CURVES.read_if_there(norms[0])
        if curves.empty or str(curves["channel"].iloc[0]) not in WHOLE_VOLUMES:
            what = "no curves" if curves.empty else f"curves of {curves['channel'].iloc[0]} alone"
            raise UserError(
                f"maps={maps_folder}: the norm {norms[0]} has {what}, and a forecast needs curves of volume; fit it on controls "
                "of known age, with channels=[t1w,log_jacobian]."
            )
        channel = str(curves["channel"].iloc[0])
        return cls(channel, curves, maps.by_region(channel, "effect"))

    def require(self, keys: Sequence[str], maps_folder: Path) -> None:
        """Refuse maps of other scans.

        Raises:
            UserError: none of the scans is among the maps.
        """
        if not set(keys) & set(self.effects.index.astype(str)):
            raise UserError(
                f"maps={maps_folder}: holds none of the {len(keys)} scans to forecast from ({keys[0]}, ...); make maps of the same "
                "prepared folder."
            )

    @cached_property
    def regions(self) -> tuple[str, ...]:
        """Regions that have curves and were measured."""
        return tuple(name for name in dict.fromkeys(self.curves["region"].astype(str)) if name in self.effects)

    def courses(self, rows: pd.DataFrame, age_years: float, sex: str) -> pd.DataFrame:
        """A person's regions today and at every horizon.

        Args:
            rows: rows of `regions.tsv` of one scan and model.
            age_years, sex: at the scan.

        Returns:
            Rows of `NORMATIVE`, empty where the person was not measured or is outside the curves.
        """
        key = str(rows["key"].iloc[0])
        made = []
        for region in self.regions:
            curve = self._curve(region, sex)
            own = rows[rows["region"] == region].sort_values("years")
            if key not in self.effects.index or not _inside(curve, age_years) or own.empty:
                continue
            unit = _at(curve, age_years)[MEDIAN]
            today = unit + float(self.effects[region].to_dict()[key])
            ahead = rows_of(own[own["years"] > 0])
            changes = [(0.0,) * 4, *((row["years"], row["log_change"], row["low_90"], row["high_90"]) for row in ahead)]
            for years, *change in changes:
                then = age_years + years
                percent = [float(100 * np.exp(today - unit + part)) for part in change]
                centile = _centile(_at(curve, then), today + change[0]) if _inside(curve, then) else np.nan
                made.append((key, region, years, then, *percent, centile))
        return pd.DataFrame(made, columns=list(NORMATIVE.columns))

    def draw(self, courses: pd.DataFrame, sex: str) -> charts.Chart:
        """A panel per region: the centiles of the person's sex by age, and the person's course with its 90 % interval.

        100 % is the median of the person's age and sex today.

        Args:
            courses: rows of `courses`, of one scan.
            sex: of the person.
        """
        panels: dict[str, list[charts.Banded]] = {}
        for region in list(dict.fromkeys(courses["region"]))[:NUM_PANELS]:
            own = courses[courses["region"] == region]
            ages = own["age_years"].to_numpy(np.float64)
            curve = self._curve(str(region), sex)
            unit = _at(curve, float(ages[0]))[MEDIAN]
            shown = {name: 100 * np.exp(curve[name].to_numpy(np.float64) - unit) for name in COLUMNS}
            healthy = charts.Banded(
                curve["age_years"].to_numpy(np.float64),
                shown["centile_50"],
                [(shown[low], shown[high]) for low, high in BANDS],
                "healthy people: median, 25th to 75th and 5th to 95th centile",
                style.GREY,
                True,
            )
            values = {name: own[name].to_numpy(np.float64) for name in ("percent", "low_90", "high_90")}
            person = charts.Banded(
                ages,
                values["percent"],
                [(values["low_90"], values["high_90"])],
                "this person, today and forecast, with 90 % interval",
                style.GROUP_COLOURS[0],
            )
            panels[wording.region(str(region))] = [healthy, person]
        return charts.banded(panels, "Age (years)", "% of the median today", None)

    def _curve(self, region: str, sex: str) -> pd.DataFrame:
        own = self.curves[(self.curves["region"] == region) & (self.curves["sex"] == sex)]
        return own.sort_values("age_years")


def _inside(curve: pd.DataFrame, age_years: float) -> bool:
    ages = curve["age_years"]
    return bool(len(ages)) and bool(ages.min() <= age_years <= ages.max())


def _at(curve: pd.DataFrame, age_years: float) -> Floats:
    """The centiles [5] at an age."""
    ages = curve["age_years"].to_numpy(np.float64)
    return np.array([np.interp(age_years, ages, curve[name].to_numpy(np.float64)) for name in COLUMNS])


def _centile(centiles: Floats, value: float) -> float:
    """The centile of a value, between the 5th and the 95th; 0 below them and 100 above: tails are not told apart."""
    if value < centiles[0]:
        return 0.0
    if value > centiles[-1]:
        return 100.0
    z = np.interp(value, centiles, ndtri(np.array(CENTILES) / 100))
    return float(100 * ndtr(z))
