"""The people of one set of maps: calibration controls, scored people, and people of gated sites, who get no z.

Calibration people are controls whose expectation comes from a model that was not trained on them. Scans of a site get a z
only if enough controls of that site calibrate. With a site term, leverage and a shrunken variance factor, three controls
together with 20 of another site keep |z| > 1.96 in 5.1 to 5.9 % of the voxels of a new healthy person (simulated: SD ratio
between sites 1 to 1.5, log mean square of a person with SD 0.5; eight controls 5.3 to 6.1 %, without the factor up to
16 %). So three are required, and every row of a site with fewer than `FEW` is flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.calibrators import MIN_CALIBRATION
from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.maths.design import MIN_GROUP, Design

MIN_SITE_CONTROLS = MIN_GROUP
LEAST_ALLOWED = 2
"""Leave-one-out needs two controls per site: with one there is no reference and no variance."""
FEW = 8
MAX_LEVERAGE = 9.0
"""Upper limit: a person whose covariates the other controls do not cover has infinite leverage."""

FewSiteControls = Literal["refuse", "allow"]


@dataclass(frozen=True)
class SiteGate:
    """The rule for sites, and the number of calibration controls of each site of the table."""

    num_controls: dict[str, int] = field(default_factory=dict)
    required: int = MIN_SITE_CONTROLS
    few: FewSiteControls = "refuse"

    def is_open(self, site: str) -> bool:
        """Whether scans of this site get a z."""
        needed = min(self.required, LEAST_ALLOWED) if self.few == "allow" else self.required
        return self.num_controls.get(site, 0) >= needed

    def refusal(self, site: str) -> str:
        """The reason why scans of a site get no z, and what to do."""
        num = self.num_controls.get(site, 0)
        have = spell.count(num, "calibration control") if num else "no calibration control"
        also = ", or allow few_site_controls" if self.required > num >= LEAST_ALLOWED else ""
        return (
            f"{_named(site)} has {have} of its own and {self.required} are needed: prepare more controls of that site "
            f"with roles train or calibration{also}"
        )

    def remark(self, site: str) -> str:
        """A caution for the scans of a site with few calibration controls, "" for none."""
        num = self.num_controls.get(site, 0)
        return f"{_named(site)} has only {num} calibration controls" if num < FEW else ""


@dataclass(frozen=True)
class Panel:
    """The people of one set of maps. Row numbers refer to `table`, one row per assessed scan.

    `repeats` are all other scans of calibration people, `others` the scans of other people, `gated` those of a site with too
    few calibration controls. `predicted` are the covariates of a model that predicts everyone out of sample, or None.
    """

    table: pd.DataFrame
    calibration: NDArray[np.int64]
    repeats: NDArray[np.int64]
    others: NDArray[np.int64]
    gated: NDArray[np.int64]
    design: Design
    gate: SiteGate = field(default_factory=SiteGate)
    predicted: Design | None = None

    @cached_property
    def calibration_position(self) -> NDArray[np.int64]:
        """Per row, the position in `calibration` of the same person's calibration scan; -1 for none."""
        position = {self.table.at[row, "subject"]: i for i, row in enumerate(self.calibration)}
        return np.array([position.get(subject, -1) for subject in self.table["subject"]], dtype=np.int64)

    def reference(self, row: int) -> NDArray[np.int64]:
        """The calibration rows that a scan is ranked among: those of other people."""
        position = self.calibration_position[row]
        return np.delete(self.calibration, position) if position >= 0 else self.calibration

    def scans_of(self, position: int) -> NDArray[np.int64]:
        """All scans with a z of a calibration person: the calibration scan first."""
        repeats = self.repeats[self.calibration_position[self.repeats] == position]
        return np.concatenate([self.calibration[[position]], repeats])

    def sites(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        """Names of the sites of some rows."""
        return self.table["site"].to_numpy(dtype=object)[rows]

    def covariates(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rows of the design matrix [len(rows), p]."""
        return _matrix(self.design, self.table.iloc[rows])

    @cached_property
    def spread(self) -> NDArray[np.float64]:
        """Per row the widening of the deviation by an out-of-sample prediction from covariates: sqrt(1 + leverage), [n].

        1 for a model without covariates. The leverage is computed in the calibration controls without the person:
        (1 + c' (C'C)^-1 c) sigma^2 is the variance of a new observation about a linear prediction.
        """
        if self.predicted is None:
            return np.ones(len(self.table))
        everyone = _matrix(self.predicted, self.table)
        controls = everyone[self.calibration]
        leverage = np.einsum("ip,pq,iq->i", everyone, np.linalg.pinv(controls.T @ controls), everyone)
        for position in range(len(self.calibration)):
            rest = np.delete(controls, position, axis=0)
            inverse = np.linalg.pinv(rest.T @ rest)
            rows = self.scans_of(position)
            leverage[rows] = np.einsum("ip,pq,iq->i", everyone[rows], inverse, everyone[rows])
        return np.asarray(np.sqrt(1.0 + np.minimum(leverage, MAX_LEVERAGE)))

    def with_terms(self, terms: Sequence[str]) -> Panel:
        """The same people with other covariates, for values that no model has compared with an expectation."""
        return replace(self, design=_design(self.table.iloc[self.calibration], terms, self.gate), predicted=None)

    def unknown_sentence(self) -> str:
        """How many controls calibrate without a known age or sex where those are terms; "" for none."""
        people = self.table.iloc[self.calibration]
        used = [*self.design.columns, *(self.predicted.columns if self.predicted is not None else ())]
        missing = {"age": people["age_years"].isna(), "sex": people["sex"].fillna("") == ""}
        parts = [
            f"{int(rows.sum())} have no known {name}"
            for name, rows in missing.items()
            if rows.any() and any(column.startswith(name) for column in used)
        ]
        if not parts:
            return ""
        return (
            f"of the {len(people)} controls that calibrate, {spell.listed(parts)}: they count as average there, which widens what "
            "is usual; fill the cohort table in"
        )

    def flags(self) -> list[str]:
        """The reasons why z of each row is doubtful or absent, as text; "" for none."""
        table = self.table
        people = self.design.flags(table["age_years"].tolist(), table["sex"].tolist())
        return ["; ".join(filter(None, (flag, self._site_flag(row)))) for row, flag in enumerate(people)]

    def _site_flag(self, row: int) -> str:
        site = str(self.table.at[row, "site"])
        if not self.gate.is_open(site):
            return f"no z map: {self.gate.refusal(site)}"
        model = self.predicted if self.predicted is not None and "site" in self.predicted.terms else self.design
        beyond = model.site_flag(site)
        several = len(self.design.site_counts) > 1  # a single site has all controls, so no caution is needed
        return "; ".join(filter(None, (self.gate.remark(site) if several else "", beyond)))


def make_panel(
    table: pd.DataFrame,
    terms: Sequence[str],
    min_site_controls: int = MIN_SITE_CONTROLS,
    few_site_controls: FewSiteControls = "refuse",
    predicted: Design | None = None,
    only_new: bool = False,
) -> Panel:
    """Sort assessed scans into calibration, further scans of calibration people, others, and those of a gated site.

    Controls of a gated site do not calibrate.

    Args:
        table: rows of the cohort table of every scan that has an expectation; column `calibrates` says which may
            calibrate. The first such scan of a person does.
        terms: covariates of the per-voxel model.
        min_site_controls: calibration controls that a site needs.
        few_site_controls: `allow` accepts sites with fewer, from two upwards.
        predicted: the covariates of the model, if its expectation of everyone is an out-of-sample prediction from them;
            `terms` should then not repeat them.
        only_new: whether none of the people that were given is one that the model was trained on, for the advice.

    Raises:
        UserError: too few calibration controls.
    """
    table = table.reset_index(drop=True)
    table["site"] = table["site"].where(table["site"].notna(), "").astype(str)
    candidates = table[table["calibrates"]]
    candidates = candidates[~candidates["subject"].duplicated()]
    counts = {str(site): int(num) for site, num in candidates["site"].value_counts().sort_index().items()}
    gate = SiteGate(counts, min_site_controls, few_site_controls)
    accepted = table["site"].map(gate.is_open).to_numpy(dtype=bool)
    calibration = candidates.index.to_numpy()[accepted[candidates.index]]
    _require(len(calibration), candidates, gate, only_new)
    rest = np.setdiff1d(np.arange(len(table)), calibration)
    again = table.loc[rest, "subject"].isin(set(table.loc[calibration, "subject"])).to_numpy(dtype=bool)
    known = accepted[rest]
    design = _design(table.iloc[calibration], terms, gate)
    groups = rest[again & known], rest[~again & known], rest[~known]
    return Panel(table, calibration, *groups, design, gate, predicted)


def _matrix(design: Design, people: pd.DataFrame) -> NDArray[np.float64]:
    return design.matrix(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist())


def _design(people: pd.DataFrame, terms: Sequence[str], gate: SiteGate) -> Design:
    least = LEAST_ALLOWED if gate.few == "allow" else MIN_GROUP
    ages, sexes, sites = (people[name].tolist() for name in ("age_years", "sex", "site"))
    return Design.fit(ages, sexes, sites, terms, least)


def _require(num: int, candidates: pd.DataFrame, gate: SiteGate, only_new: bool) -> None:
    """Refuse fewer than `MIN_CALIBRATION` controls; the error names sites, new people alone or the split as the reason."""
    if num >= MIN_CALIBRATION:
        return
    if len(candidates) >= MIN_CALIBRATION:
        listed = ", ".join(f"{_named(site)} {n}" for site, n in gate.num_controls.items() if not gate.is_open(site))
        raise UserError(
            f"only {num} controls can calibrate, at least {MIN_CALIBRATION} are needed: too few belong to one site "
            f"({listed}; {gate.required} per site are needed); prepare more controls per site, train with cross_fit=5, "
            "or set few_site_controls=allow."
        )
    raise UserError(
        f"only {num} controls can calibrate (role calibration, or train when cross-fitted, and not seen by the model), "
        f"at least {MIN_CALIBRATION} are needed; "
        + (
            "nobody given was in the model's training, so give the training cohort too, prepared=[TRAINING_COHORT,NEW]: its "
            "calibration controls calibrate for both."
            if only_new
            else "prepare with a larger split.calibration, or train with cross_fit=5."
        )
    )


def _named(site: str) -> str:
    return f"site {site}" if site else "the scans without a site"
