"""How many controls will calibrate the maps of a run, known from the cohort table before anything is trained.

A control calibrates when a member of the run never saw that person: the controls kept aside for calibration, or, in a
cross-fitted run, all of train and calibration. Their number decides what maps can say of a person, so it is said before the
training and not after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from gen3d.cohort.manifest import is_twin
from gen3d.maths.design import MIN_GROUP, TERMS, Design

MIN_CALIBRATION = 8
"""Controls below which `gen3d anomaly` refuses to calibrate at all."""
SIGNIFICANCE = 0.05
FEWEST_FOR_RANKS = math.ceil(1 / SIGNIFICANCE) - 1
"""Controls from which one person can reach p = 1 / (n + 1) <= .05 by ranks: 19."""
ADVISED = 30
"""Controls from which all of age, sex, site and age squared have a place (five people a column), and on real brains the AUC of
hippocampal loss of 12 and 24 % no longer rises with their number (.95 to .96 with 32 to 35, .08 to .09 less with 10)."""


@dataclass(frozen=True)
class Outlook:
    """The controls that will calibrate, and the covariates that they can carry."""

    num: int
    num_cross_fitted: int
    cross_fit: int
    design: Design | None
    closed_sites: dict[str, int]
    """Sites whose scans get no map, with their number of calibrating controls."""

    def sentences(self) -> list[str]:
        """What to expect of the maps, the number first, and the setting that gives more."""
        if self.num < MIN_CALIBRATION:
            first = f"{self.num} controls will calibrate maps; `gen3d anomaly` needs at least {MIN_CALIBRATION}"
            return [f"{first}{self._cure() or '; prepare more controls'}"]
        rank = f"smallest p of one person by ranks 1/{self.num + 1}"
        if self.num < FEWEST_FOR_RANKS:
            rank += f", so no single person can be called abnormal at p < {SIGNIFICANCE:g}"
        lines = [f"{self.num} controls will calibrate maps ({rank}){self._cure() if self.num < ADVISED else ''}"]
        if self.design is not None and self.design.dropped:
            reasons = "; ".join(f"{term}: {reason}" for term, reason in self.design.dropped.items())
            lines.append(f"covariates of the maps: {', '.join(self.design.terms) or 'none'}; left out: {reasons}")
        for site, num in self.closed_sites.items():
            name = f"site {site}" if site else "scans without a site"
            lines.append(f"{name}: {num} calibrating controls, {MIN_GROUP} are needed; its scans will get no map")
        return lines

    def _cure(self) -> str:
        more = self.cross_fit == 1 and self.num_cross_fitted > self.num
        return f"; with cross_fit=3 all {self.num_cross_fitted} would" if more else ""


def calibration_outlook(manifest: pd.DataFrame, cross_fit: int) -> Outlook:
    """Who will calibrate maps of a run trained on this cohort with so many members.

    Args:
        manifest: cohort table with roles, one row per scan.
        cross_fit: members of the run; 1 learns from the role `train`, more from `train` and `calibration`.
    """
    table = manifest[manifest["role"].isin(["train", "calibration"]) & ~is_twin(manifest)]
    people = table.drop_duplicates("subject")
    held_out = people[people["role"] == "calibration"]
    chosen = people if cross_fit > 1 else held_out
    sites = chosen["site"].where(chosen["site"].notna(), "").astype(str)
    counts = sites.value_counts().sort_index()
    closed = {str(site): int(num) for site, num in counts.items() if num < MIN_GROUP}
    used = chosen[~sites.isin(list(closed))]
    absent = set(manifest.loc[manifest["role"] != "excluded", "site"].fillna("").astype(str)) - set(counts.index)
    design = None
    if len(used) >= MIN_CALIBRATION:
        ages, sexes, names = (used[name].tolist() for name in ("age_years", "sex", "site"))
        design = Design.fit(ages, sexes, names, TERMS)
    return Outlook(len(used), len(people), cross_fit, design, closed | dict.fromkeys(sorted(absent), 0))
