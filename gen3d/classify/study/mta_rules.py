"""Medial temporal atrophy as a rule: a radiologist's rating from 0 to 4 (Scheltens 1992) against cut-offs by age."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.classify.heads.probability_calibration import Scaling, fit_scaling, two_columns
from gen3d.classify.heads.settings import MtaRule
from gen3d.cohort.target import Rows, Target, Values
from gen3d.core.errors import UserError

MTA, AGE = "mta", "age_years"
HIGHEST = 4.0
FEWEST_RATED = 10
"""People of each class with a rating and an age that the rule covers, below which the rule is no baseline."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class CutOffs:
    """A rating is abnormal from `at[k]` on, for ages from `ages[k]` to below the next of them; the last ends the table."""

    source: str
    ages: tuple[float, ...]
    at: tuple[float, ...]

    def of(self, ages: NDArray[np.float64]) -> NDArray[np.float64]:
        """The cut-off of every person, NaN for ages that the table does not have, [n]."""
        band = np.searchsorted(self.ages, np.nan_to_num(ages, nan=-1.0), side="right") - 1
        inside = (band >= 0) & (band < len(self.at))
        return np.where(inside, np.array(self.at)[np.clip(band, 0, len(self.at) - 1)], np.nan)


CUT_OFFS: dict[MtaRule, CutOffs] = {
    "ferreira_2015": CutOffs("Ferreira et al. 2015, J Intern Med", (45, 65, 75, 85, 95), (1.5, 1.5, 2.0, 2.5)),
    "claus_2017": CutOffs("Claus et al. 2017, on CT", (0, 65, 75, 85, 120), (1.0, 1.5, 2.0, 2.0)),
    "chinese_2019": CutOffs("a Chinese cohort, BMC Geriatrics 2019", (50, 65, 75, 85), (1.0, 1.5, 2.0)),
    "memory_clinic_2021": CutOffs("a memory clinic, BMC Neurology 2021", (0, 75, 120), (1.0, 1.5)),
}
"""Published cut-offs, mean of the left and the right rating; people outside the ages that a source studied are not judged."""


@dataclass(frozen=True)
class AboveCutOff:
    """The rating minus the cut-off of the person's age, NaN without either."""

    cut_offs: CutOffs

    def apply(self, rows: Rows) -> Values:
        """[n, 1]."""
        ratings, ages = (
            pd.to_numeric(rows.table[name], errors="coerce").to_numpy(dtype=np.float64) for name in (MTA, AGE)
        )
        beyond = ratings[(ratings < 0) | (ratings > HIGHEST)]
        if len(beyond):
            raise UserError(
                f"the column {MTA} holds {beyond[0]:g}, but the rating goes from 0 to {HIGHEST:g}; give the mean of the left and "
                "the right side, or rename the column."
            )
        return np.asarray((ratings - self.cut_offs.of(ages))[:, None], dtype=np.float64)


@dataclass(frozen=True)
class FixedRule:
    """An answer that nothing is learned for: yes from 0 on; `scaling` says what a distance from 0 means as a probability."""

    scaling: Scaling
    num_people: int

    @property
    def settings(self) -> dict[str, Any]:
        """On how many people the probabilities rest."""
        return {"people": self.num_people}

    @property
    def threshold(self) -> float:
        """The probability at the cut-off: a rating that is exactly there is abnormal."""
        return float(self.scaling.probabilities(two_columns(np.array([-ROUNDING])))[0, 1])

    def outputs(self, values: Values) -> Values:
        """[n, 2], NaN where there is no rating."""
        return self.scaling.probabilities(two_columns(values[:, 0]))


@dataclass(frozen=True)
class MtaRecipe:
    """The published rule: nothing is learned but what a distance from the cut-off means as a probability."""

    rule: MtaRule

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{MTA} rule"

    @property
    def features_description(self) -> str:
        """What it uses."""
        return f"{MTA} and age, cut-offs of {CUT_OFFS[self.rule].source}"

    def reduce(self, train: Rows) -> AboveCutOff:
        """Nothing to fit."""
        return AboveCutOff(CUT_OFFS[self.rule])

    def learn(self, values: Values, codes: Values, groups: NDArray[np.int64], target: Target, seed: int) -> FixedRule:
        """Probabilities from the training people who have a rating; the answer stays that of the rule.

        Raises:
            UserError: nobody of one of the classes has a rating and a known age.
        """
        known = np.isfinite(values[:, 0])
        if len(np.unique(codes[known])) < len(target.classes):
            raise UserError(
                f"nobody of one of the classes {' and '.join(target.classes)} in a training fold has {MTA} and an age that the "
                f"rule of {CUT_OFFS[self.rule].source} covers; choose another mta_rule, or rename the column {MTA}."
            )
        scaling = fit_scaling(two_columns(values[known, 0]), codes[known].astype(np.int64))
        return FixedRule(scaling, len(np.unique(groups[known])))


def is_possible(table: pd.DataFrame, codes: Values, target: Target, rule: MtaRule) -> bool:
    """Whether the rule can be a baseline: two classes, another target than the rating, and enough rated people of each."""
    if not target.is_binary or target.name == MTA or not {MTA, AGE} <= set(table.columns):
        return False
    rated = np.isfinite(AboveCutOff(CUT_OFFS[rule]).apply(Rows(np.empty((len(table), 0)), table))[:, 0])
    people = [table.loc[rated & (codes == code), "subject"].nunique() for code in range(len(target.classes))]
    return min(people) >= FEWEST_RATED
