"""The controls behind a calibration, without their rows: how people are coded, which sites they open, whom they leave in doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.core import words as spell
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
            f"{named_site(site)} has {have} of its own and {self.required} are needed: prepare more controls of that site "
            f"with roles train or calibration{also}"
        )

    def remark(self, site: str) -> str:
        """A caution for the scans of a site with few calibration controls, "" for none."""
        num = self.num_controls.get(site, 0)
        return f"{named_site(site)} has only {num} calibration controls" if num < FEW else ""


class Coded(NamedTuple):
    """People as a calibration sees them: rows of the design [m, p], widening of their deviation [m], sites [m], ages [m]."""

    covariates: NDArray[np.float64]
    spread: NDArray[np.float64]
    sites: NDArray[np.object_]
    age_years: NDArray[np.float64]


@dataclass(frozen=True)
class ControlGroup:
    """How a calibration codes people, and which sites it can judge.

    `predicted` are the covariates of a model that predicts everyone out of sample, with the pseudo-inverse of C'C of the
    controls in them, or None. `adapted` are sites that were added from a few controls of their own, with the number of those.
    """

    design: Design
    gate: SiteGate = field(default_factory=SiteGate)
    predicted: Design | None = None
    predicted_inverse: NDArray[np.float64] | None = None
    adapted: Mapping[str, int] = field(default_factory=dict)

    def coded(self, people: pd.DataFrame) -> Coded:
        """New people, rows of a cohort table."""
        return Coded(matrix_of(self.design, people), self._spread(people), sites_of(people), ages_of(people))

    def _spread(self, people: pd.DataFrame) -> NDArray[np.float64]:
        if self.predicted is None or self.predicted_inverse is None:
            return np.ones(len(people))
        return spread_of(matrix_of(self.predicted, people), self.predicted_inverse)

    def is_open(self, site: str) -> bool:
        """Whether scans of this site get a z."""
        return site in self.adapted or self.gate.is_open(site)

    def flags(self, people: pd.DataFrame) -> list[str]:
        """The reasons why z of each row is doubtful or absent, as text; "" for none."""
        of_person = self.design.flags(people["age_years"].tolist(), people["sex"].tolist())
        sites = [self.site_flag(site) for site in sites_of(people)]
        return ["; ".join(filter(None, both)) for both in zip(of_person, sites, strict=True)]

    def site_flag(self, site: str) -> str:
        """Why z of scans of a site is doubtful or absent, "" for nothing."""
        if site in self.adapted:
            return f"{named_site(site)} was added from {spell.count(self.adapted[site], 'control')} of its own"
        if not self.gate.is_open(site):
            return f"no z map: {self.gate.refusal(site)}"
        model = self.predicted if self.predicted is not None and "site" in self.predicted.terms else self.design
        several = len(self.design.site_counts) > 1  # a single site has all controls, so no caution is needed
        return "; ".join(filter(None, (self.gate.remark(site) if several else "", model.site_flag(site))))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        inverse = self.predicted_inverse
        return {
            "design": self.design.to_dict(),
            "num_controls": dict(self.gate.num_controls),
            "required": self.gate.required,
            "few": self.gate.few,
            "predicted": None if self.predicted is None else self.predicted.to_dict(),
            "predicted_inverse": None if inverse is None else inverse.tolist(),
            "adapted": dict(self.adapted),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ControlGroup:
        """From `to_dict`.

        Raises:
            ValueError, TypeError, KeyError: another kind of record.
        """
        gate = SiteGate(
            {str(site): int(num) for site, num in values["num_controls"].items()},
            int(values["required"]),
            "allow" if values["few"] == "allow" else "refuse",
        )
        predicted, inverse = values["predicted"], values["predicted_inverse"]
        return cls(
            Design.from_dict(values["design"]),
            gate,
            None if predicted is None else Design.from_dict(predicted),
            None if inverse is None else np.asarray(inverse, dtype=np.float64),
            {str(site): int(num) for site, num in values["adapted"].items()},
        )


def spread_of(rows: NDArray[np.float64], inverse: NDArray[np.float64]) -> NDArray[np.float64]:
    """The widening of a deviation by an out-of-sample prediction from covariates: sqrt(1 + leverage), [m].

    (1 + c' (C'C)^-1 c) sigma^2 is the variance of a new observation about a linear prediction. Rows [m, p], inverse [p, p].
    """
    leverage = np.einsum("ip,pq,iq->i", rows, inverse, rows)
    return np.asarray(np.sqrt(1.0 + np.minimum(leverage, MAX_LEVERAGE)))


def matrix_of(design: Design, people: pd.DataFrame) -> NDArray[np.float64]:
    """Rows of a design for rows of a cohort table, [m, p]."""
    return design.matrix(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist())


def ages_of(people: pd.DataFrame) -> NDArray[np.float64]:
    """Ages of rows of a cohort table, years, NaN for unknown, [m]."""
    return np.asarray(pd.to_numeric(people["age_years"], errors="coerce"), dtype=np.float64)


def sites_of(people: pd.DataFrame) -> NDArray[np.object_]:
    """Names of the sites of rows of a cohort table, "" for none, [m]."""
    return np.array([str(site) for site in people["site"].where(people["site"].notna(), "")], dtype=object)


def named_site(site: str) -> str:
    """A site as sentences call it."""
    return f"site {site}" if site else "the scans without a site"
