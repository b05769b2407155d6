"""Six normative models that differ in their age effect, and what each says of people it has not seen.

The mean is a line, a line and a parabola, or a penalised spline; the residual SD is one, or changes with age. Everything else is
that of the package: sites as deviations from their mean with a factor of the SD each, variance moderated across values, a
predictive t distribution with the leverage of the person.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gen3d.anomaly.calibration.age_variance import AgeVariance, fit_age_variance
from gen3d.anomaly.calibration.normative import estimate_prior
from gen3d.anomaly.calibration.site_variance import SiteVariance, fit_site_variance
from gen3d.maths.splines import NUM_BENDS, age_basis, choose_smoothing, effective_dof, penalty_matrix

Floats = NDArray[np.float64]


class Kind(NamedTuple):
    """The age effect of the mean (line, parabola, spline), and whether the SD changes with age."""

    mean: str
    by_age: bool

    @property
    def words(self) -> str:
        """The model's name in tables."""
        return self.mean + (", SD by age" if self.by_age else "")


KINDS = tuple(Kind(mean, by_age) for by_age in (False, True) for mean in ("line", "parabola", "spline"))
USUAL = Kind("parabola", False)
"""Age and age squared with one SD: what the package did before."""


@dataclass(frozen=True)
class Cohort:
    """Values [n, V] of n people, ages in years, sex (-0.5, 0.5), site of each."""

    values: Floats
    ages: Floats
    sex: Floats
    sites: NDArray[np.str_]

    def take(self, rows: NDArray[np.int64]) -> Cohort:
        """Some of the people."""
        return Cohort(self.values[rows], self.ages[rows], self.sex[rows], self.sites[rows])

    def columns(self, mean: str, sites: list[str]) -> Floats:
        """Design [n, p], the spline last."""
        decades = (self.ages - 50) / 10
        last = (self.sites == sites[-1]).astype(np.float64)
        parts = [np.ones(len(decades)), *((self.sites == site) - last for site in sites[:-1]), decades, self.sex]
        parts += [decades**2] if mean == "parabola" else []
        return np.column_stack([*parts, age_basis(self.ages)] if mean == "spline" else parts)


@dataclass(frozen=True)
class Fit:
    """A fitted model."""

    kind: Kind
    sites: list[str]
    coefficients: Floats
    sd: Floats
    gram_inverse: Floats
    dof: float
    site_variance: SiteVariance
    age_variance: AgeVariance | None
    smoothing: float
    effective_columns: float

    def standardised(self, cohort: Cohort) -> tuple[Floats, Floats]:
        """t and the predictive SD of people, [m, V] each."""
        rows = cohort.columns(self.kind.mean, self.sites)[:, : len(self.gram_inverse)]
        leverage = np.einsum("ip,pq,iq->i", rows, self.gram_inverse, rows)
        factor = self.site_variance.of(cohort.sites.astype(object))
        if self.age_variance is not None:
            factor = factor * self.age_variance.of(cohort.ages)
        spread = np.sqrt(factor**2 + leverage)[:, None] * self.sd
        return (cohort.values - rows @ self.coefficients) / spread, spread

    def judge(self, cohort: Cohort) -> tuple[Floats, Floats]:
        """Mean over values of the log predictive density, and share of values with |z| > 1.96, of each person, [m] each."""
        t, spread = self.standardised(cohort)
        if math.isinf(self.dof):
            logs, limit = -(t**2) / 2.0 + stats.norm.logpdf(0.0), stats.norm.ppf(0.975)
        else:  # faster than stats.t.logpdf(t, dof), which checks every value
            logs = -(self.dof + 1) / 2.0 * np.log1p(t**2 / self.dof) + stats.t.logpdf(0.0, self.dof)
            limit = stats.t.ppf(0.975, self.dof)
        return np.asarray((logs - np.log(spread)).mean(axis=1)), np.asarray((np.abs(t) > limit).mean(axis=1))


def fit_all(cohort: Cohort) -> Iterator[Fit]:
    """The six models of some people."""
    sites = sorted(set(cohort.sites.tolist()))
    plain = fit_site_variance(cohort.values, cohort.columns("line", sites), cohort.sites.astype(object))
    weight = 1.0 / plain.of(cohort.sites.astype(object))[:, None]
    values = cohort.values * weight
    for mean in ("line", "parabola", "spline"):
        rows = cohort.columns(mean, sites) * weight
        gram, cross, squares = rows.T @ rows, rows.T @ values, np.einsum("nv,nv->v", values, values)
        num, penalised = len(rows), range(rows.shape[1] - NUM_BENDS, rows.shape[1])
        smoothing, effective, free = math.inf, float(len(gram)), len(gram)
        if mean == "spline":
            smoothing = choose_smoothing(gram, cross, squares, num, penalised)
            effective, free = effective_dof(gram, penalised, smoothing), len(gram) - NUM_BENDS
            if math.isinf(smoothing):
                rows, gram, cross = rows[:, :free], gram[:free, :free], cross[:free]
            else:
                gram = gram + penalty_matrix(len(gram), penalised, smoothing)
        inverse = np.linalg.inv(gram)
        coefficients = inverse @ cross
        dof = num - free
        variance = np.maximum(squares - np.einsum("pv,pv->v", cross, coefficients), 0.0) / dof
        prior = estimate_prior(variance, dof)
        if math.isinf(prior.dof):
            moderated = np.full_like(variance, prior.variance)
        else:
            moderated = (prior.dof * prior.variance + dof * variance) / (prior.dof + dof)
        leverage = np.einsum("ip,pq,iq->i", rows, inverse, rows)
        mean_squares = ((values - rows @ coefficients) ** 2 / moderated).mean(axis=1) / np.maximum(1 - leverage, 1e-3)
        by_age = fit_age_variance(mean_squares, cohort.ages, cohort.sites)
        for with_age in (False, True):
            yield Fit(
                Kind(mean, with_age), sites, coefficients, np.sqrt(moderated), inverse, prior.dof + dof, plain,
                by_age if with_age else None, smoothing, effective,
            )  # fmt: skip
