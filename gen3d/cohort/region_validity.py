"""What the reading of a region measures: its agreement with labels of real people on whom nothing was chosen.

`region_validity.tsv` is written by `analysis/01_what_region_readings_measure.py`, which says how and on whom. One row per
structure (left and right alike) and channel. Readings were taken at 2 mm after a linear alignment of 12 degrees of freedom,
and correlated with the log volume of the person's own label.
"""

from __future__ import annotations

from functools import lru_cache
from io import StringIO
from typing import NamedTuple

import pandas as pd

from gen3d.cohort.channels import LOG_VOLUMES, VOLUME
from gen3d.core import words as spell
from gen3d.core.package_data import package_text
from gen3d.core.tables import Row, rows_of

FILE = "region_validity.tsv"
ML = "ml"
"""The reading behind columns such as `hippocampus_ml`: the integral of det J over the region."""

FIGURES = (
    *("r", "r_low", "r_high", "n", "r_given_age", "r_ventricle", "label_ventricle"),
    *("r_drawn", "ventricle_drawn"),
)
"""Columns of the file in the order of `Validity`."""

TABLE_COLUMNS = ("r_label", "r_label_low", "r_label_high", "r_drawn", "r_ventricle", "measures")
NOTHING = (None,) * len(TABLE_COLUMNS)

LEAST_R = 0.5
"""A reading measures a structure's volume only if the 95 % interval of its r with the labels lies above this."""


class Validity(NamedTuple):
    """How a reading goes with labelled volumes, in `num` people.

    `r` [`low`, `high`] (95 %) is its correlation with the structure's own volume, `given_age` the same in people of one age
    and sex, `ventricle` with the volume of the lateral ventricles. `label_ventricle` is the own volume's with the
    ventricles': what `ventricle` would be of a perfect reading. `drawn` and `ventricle_drawn` are `r` and `ventricle` in those
    people alone whose labels were drawn by hand. `follows_ventricles`: in some set of people it went with the ventricles
    more than with its own label, for certain (95 %).
    """

    r: float
    low: float
    high: float
    num: int
    given_age: float
    ventricle: float
    label_ventricle: float
    drawn: float
    ventricle_drawn: float
    follows_ventricles: bool

    @property
    def measures(self) -> bool:
        """Whether it measures that volume: surely, also among people of one age, and nowhere rather that of the ventricles."""
        return min(self.low, self.given_age) >= LEAST_R and not self.follows_ventricles


class Choice(NamedTuple):
    """The reading that stands for a structure's volume, and how much of the ventricles' log-Jacobian is taken out of it."""

    reading: str
    ventricle_slope: float


@lru_cache(maxsize=1)
def _rows() -> dict[tuple[str, str], Row]:
    rows = rows_of(pd.read_csv(StringIO(package_text("gen3d.cohort", FILE)), sep="\t"))
    return {(_plain(row["structure"]), row["channel"]): row for row in rows}


def validity(region: str, channel: str) -> Validity | None:
    """The validity of a region's reading (`left hippocampus` or `hippocampus`) in a channel of volume; None where no label
    tells, and in channels that are no volume.
    """
    row = _rows().get((_plain(region), channel))
    if row is None:
        return None
    return Validity._make([*(row[name] for name in FIGURES), row["follows_ventricles"] == "yes"])


def chosen_reading(region: str) -> Choice:
    """The reading behind the channel `volume` of a region; the plain log-Jacobian where labels did not tell."""
    row = _rows().get((_plain(region), VOLUME))
    return Choice(row["reading"], row["ventricle_slope"]) if row else Choice("deformation", 0.0)


def _plain(region: str) -> str:
    """The structure without its side, and without the marks that `lateral_ventricle_ml` and `brain-stem` write differently."""
    return region.replace("_", " ").replace("-", " ").removeprefix("left ").removeprefix("right ")


def measures_volume(region: str, channel: str) -> bool:
    """False for a reading of volume that is known not to follow the volume of its region."""
    known = validity(region, channel)
    return known is None or known.measures


def remark(region: str, channel: str) -> str:
    """What a reader has to know of a reading that does not measure what it is named for; "" for all others."""
    known = validity(region, channel)
    if known is None or known.measures:
        return ""
    text = f"r {spell.figure(known.r)} with labelled volume"
    if known.follows_ventricles:
        text += f" ({spell.figure(known.drawn)} where drawn by hand), {spell.figure(known.ventricle)} "
        text += f"({spell.figure(known.ventricle_drawn)}) with that of the ventricles"
    if known.given_age < LEAST_R <= known.low:
        text += f", {spell.figure(known.given_age)} among people of one age"
    return f"{text}: not a measure of this region's volume"


def validity_columns(regions: pd.Series, channel: str) -> pd.DataFrame:
    """The columns of a region table that say what its readings measure, one row per region; missing where nothing is known.

    `r_label`, `r_label_low`, `r_label_high`, `r_drawn`, `r_ventricle`, and `measures` (yes or no).
    """
    known = [validity(str(region), channel) for region in regions] if channel in LOG_VOLUMES else [None] * len(regions)
    rows = [(v.r, v.low, v.high, v.drawn, v.ventricle, "yes" if v.measures else "no") if v else NOTHING for v in known]
    frame = pd.DataFrame(rows, columns=list(TABLE_COLUMNS), index=regions.index)
    return frame.astype(dict.fromkeys(TABLE_COLUMNS[:-1], float))
