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

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.calibration.controls import (
    LEAST_ALLOWED,
    MIN_SITE_CONTROLS,
    Coded,
    ControlGroup,
    FewSiteControls,
    SiteGate,
    ages_of,
    matrix_of,
    named_site,
    spread_of,
)
from gen3d.cohort.calibrators import MIN_CALIBRATION
from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.maths.design import MIN_GROUP, Design


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
        return matrix_of(self.design, self.table.iloc[rows])

    def coded(self, rows: NDArray[np.int64]) -> Coded:
        """Some rows as the calibration sees them."""
        return Coded(self.covariates(rows), self.spread[rows], self.sites(rows), ages_of(self.table.iloc[rows]))

    @cached_property
    def controls(self) -> ControlGroup:
        """The calibration controls without their rows."""
        inverse = None
        if self.predicted is not None:
            of_controls = matrix_of(self.predicted, self.table.iloc[self.calibration])
            inverse = _pseudo_inverse(of_controls.T @ of_controls)
        return ControlGroup(self.design, self.gate, self.predicted, inverse)

    @cached_property
    def spread(self) -> NDArray[np.float64]:
        """Per row `controls.spread_of`, for calibration people among the controls without the person, [n].

        1 for a model without covariates.
        """
        inverse = self.controls.predicted_inverse
        if self.predicted is None or inverse is None:
            return np.ones(len(self.table))
        everyone = matrix_of(self.predicted, self.table)
        spread = spread_of(everyone, inverse)
        of_controls = everyone[self.calibration]
        gram = of_controls.T @ of_controls
        for position, row in enumerate(of_controls):
            rows = self.scans_of(position)
            spread[rows] = spread_of(everyone[rows], _pseudo_inverse(gram - np.outer(row, row)))
        return spread

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
        return self.controls.flags(self.table)


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


def _pseudo_inverse(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.pinv(gram), dtype=np.float64)


def _design(people: pd.DataFrame, terms: Sequence[str], gate: SiteGate) -> Design:
    least = LEAST_ALLOWED if gate.few == "allow" else MIN_GROUP
    ages, sexes, sites = (people[name].tolist() for name in ("age_years", "sex", "site"))
    return Design.fit(ages, sexes, sites, terms, least)


def _require(num: int, candidates: pd.DataFrame, gate: SiteGate, only_new: bool) -> None:
    """Refuse fewer than `MIN_CALIBRATION` controls; the error names sites, new people alone or the split as the reason."""
    if num >= MIN_CALIBRATION:
        return
    if len(candidates) >= MIN_CALIBRATION:
        listed = ", ".join(f"{named_site(site)} {n}" for site, n in gate.num_controls.items() if not gate.is_open(site))
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
