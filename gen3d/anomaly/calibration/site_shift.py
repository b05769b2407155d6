"""A norm at a site that it has never seen: one shift per voxel and one factor of the SD, from a few controls of that site.

The norm predicts a person of the new site as one of its average site. Deviations of the site's n controls, in units of the
norm's SD of each voxel, are

    d_iv = gamma_v + e_iv,   gamma_v ~ N(0, omega_v),   var e_iv = delta^2 + c_i' (C'C)^-1 c_i,

with gamma_v the shift of the site and delta its factor of the SD. As in ComBat (Johnson, Li and Rabinovic 2007,
Biostatistics 8:118) and in hierarchical Bayesian normative models (Kia et al. 2022, PLoS ONE 17:e0278776; Bayer et al. 2022,
NeuroImage 264:119699) the shift is shrunk towards the other sites: its posterior mean is k_v times the mean of the
controls, k_v = omega_v / (omega_v + delta^2 / n), with variance k_v delta^2 / n, which widens every z of the site.

- omega is a variance between sites, by the method of moments (DerSimonian and Laird 1986, Controlled Clinical Trials
  7:177) over the norm's own sites and the new one. A site can differ much more in some voxels than in others (skull
  stripping, a bias field), where a common omega would shrink a true shift away and call everybody abnormal. Therefore
  omega_v is the larger of omega and the moment estimate of the voxel alone: a limited translation estimator (Efron and
  Morris 1972, JASA 67:130), which never moves a mean by more than about one standard error.
  log delta^2 below is shrunk by the same rule.
- The mean is winsorised about the median of the controls, so that one bad scan among three shifts nobody far.
- log delta^2 is the mean over controls of the logarithm of a person's mean square (`site_variance`), relative to people of
  the norm, and shrunk towards the average site. Its variance v remains, for whole brains differ from person to person: t
  then has 2 / v degrees of freedom, those of the norm's voxel variances apart (a chi-squared with f degrees of
  freedom has var log = 2 / f, nearly).
- The SD also has another pattern over voxels at every site: the variance of a voxel is delta^2 m_v sd_v^2, with m_v a scaled
  inverse chi-squared of d degrees of freedom about 1 (as between voxels in limma, Smyth 2004). m_v is moderated from the
  controls' own variance, and t has d + n - 1 degrees of freedom for it. d comes from the spread of the ratios of the site's
  variances to the norm's and from the usual d, which counts as `USUAL_PEOPLE`: a few controls cannot tell it.
- The error of the norm's own prediction at the site's mean covariates m is part of the measured mean, so it is removed with
  it: the leverage of a person of the site is that of c - k m, not of c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import polygamma

from gen3d.anomaly.calibration.normative import estimate_prior, trigamma_inverse
from gen3d.anomaly.calibration.site_variance import MOST_SPREADS, some_voxels
from gen3d.anomaly.calibration.student import t_to_z

LEAST_CONTROLS = 2
"""Controls that a shift can be fitted to. `gen3d norm adapt=` needs one more, so that each can be left out."""

USUAL_LOG_FACTOR_VARIANCE = 0.1
"""Variance between sites of log delta^2 for a norm of one site, which cannot say: SD factors of about 0.73 to 1.37 in
95 % of sites. Real sites, three at a time, had 0 to 0.04 (`analysis/16_new_site.md`); it is rather too large, as shrinking too
little costs less than too much."""

USUAL_PATTERN_DOF, USUAL_PEOPLE = 20.0, 10
"""d of sites in general, and how many controls of a site it counts as. Regions of real sites against the norm of the others
had 11 to 31 (`analysis/16_new_site.md`)."""

LEAST_SQUARE = 0.05
"""The least mean square of a person, as a share of the usual one, so that a scan given twice has a logarithm."""

ARRAYS = ("shift", "relative_variance", "pattern")

Array = NDArray[np.floating]


@dataclass(frozen=True)
class SiteSpread:
    """How much sites and people differ in a norm, for one channel: the prior of a new site.

    Attributes:
        shift_variance: variance between sites of the mean of a voxel, in units of its SD squared; 0 for a single site.
        num_sites: sites behind it.
        log_square_mean: mean over people of the logarithm of their mean square, in units of the SD squared.
        log_square_variance: its variance between people of one site.
        log_factor_variance: variance between sites of log delta^2.
    """

    shift_variance: float
    num_sites: int
    log_square_mean: float
    log_square_variance: float
    log_factor_variance: float

    def to_dict(self) -> dict[str, float]:
        """A dictionary that JSON can hold."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: dict[str, float]) -> SiteSpread:
        """The spread that `to_dict` described."""
        return cls(**{**values, "num_sites": int(values["num_sites"])})  # type: ignore[arg-type]


class Squares(NamedTuple):
    """Logarithms of the mean squares of a site's controls: their number, mean, and sum of squares about the mean."""

    num: int
    mean: float
    scatter: float

    @classmethod
    def of(cls, mean_squares: Array) -> Squares:
        """Of the mean over voxels of each control's squared held-out deviation, in units of the norm's SD squared, [n]."""
        logs = np.log(np.maximum(np.asarray(mean_squares, dtype=np.float64), LEAST_SQUARE))
        mean = float(logs.mean())
        return cls(len(logs), mean, float(np.square(logs - mean).sum()))

    def merged(self, other: Squares) -> Squares:
        """Those of both groups of people."""
        num, gap = self.num + other.num, other.mean - self.mean
        mean = (self.num * self.mean + other.num * other.mean) / num
        return Squares(num, mean, self.scatter + other.scatter + self.num * other.num / num * gap**2)


def site_spread(shifts: Array, errors: Array, sd: Array, squares: Sequence[Squares]) -> SiteSpread:
    """The spread of a norm's own sites.

    Args:
        shifts: difference of each site's mean from the mean over sites, [S, V], in the channel's units; S may be 0 or 1.
        errors: variance of each shift as estimated, in units of sd squared, [S].
        sd: [V].
        squares: of each site with controls.
    """
    num_sites = len(shifts)
    variance = 0.0
    if num_sites > 1:
        scaled = np.asarray(shifts, dtype=np.float64) / sd
        scaled = scaled - scaled.mean(axis=0)
        variance = max(0.0, float(np.square(scaled).sum(axis=0).mean() / (num_sites - 1)) - float(np.mean(errors)))
    numbers, means = (np.array([of[k] for of in squares], dtype=np.float64) for k in (0, 1))
    freedom = float(numbers.sum()) - len(numbers)
    within = sum(of.scatter for of in squares) / freedom if freedom > 0 else 0.0
    centre = float(numbers @ means / numbers.sum())
    return SiteSpread(variance, num_sites, centre, within, _between(means, numbers, within))


def _between(means: NDArray[np.float64], numbers: NDArray[np.float64], within: float) -> float:
    """Variance between sites of the mean logarithm, averaged with the usual one, which counts as one site more."""
    if len(means) < 2:
        return USUAL_LOG_FACTOR_VARIANCE
    found = max(0.0, float(np.var(means, ddof=1)) - within * float(np.mean(1.0 / numbers)))
    return (found * (len(means) - 1) + USUAL_LOG_FACTOR_VARIANCE) / len(means)


@dataclass(frozen=True)
class SiteShift:
    """What a norm adds for a site that it was adapted to, for one channel.

    Attributes:
        shift: posterior mean of the shift, [V], in the channel's units; to be subtracted from deviations.
        relative_variance: posterior variance of the shift, [V], in units of sd squared.
        pattern: m, the factor of the variance of each voxel besides delta squared, [V].
        pattern_dof: d, without the controls of the site.
        sd_factor: delta, the factor of the residual SD.
        dof: degrees of freedom of delta; infinite where delta is certain.
        weight: k where the common omega holds, 0 to 1.
        centre: mean covariates of the site's controls, [p].
        num_people: controls that it was estimated from.
    """

    shift: NDArray[np.float32]
    relative_variance: NDArray[np.float32]
    pattern: NDArray[np.float32]
    pattern_dof: float
    sd_factor: float
    dof: float
    weight: float
    centre: NDArray[np.float64]
    num_people: int

    def z(
        self,
        deviations: Array,
        design: NDArray[np.float64],
        sd: Array,
        gram_inverse: NDArray[np.float64],
        dof: float,
        widening: NDArray[np.float64] | float = 1.0,
    ) -> NDArray[np.float32]:
        """z of people of the site, [m, V].

        Args:
            deviations: values minus the norm's prediction for its average site, [m, V].
            design: covariates of the norm with every site column 0, [m, p].
            sd: moderated SD of the norm, [V].
            gram_inverse: (C'C)^-1 of the norm, [p, p].
            dof: degrees of freedom of the norm's t.
            widening: known factor of each person's SD, [m] or 1 (`controls.spread_of`).
        """
        own = np.broadcast_to(np.square(self.sd_factor * np.asarray(widening)), len(design))
        leverage = self.leverage(design, gram_inverse)
        freedom = 1.0 / (1.0 / (min(dof, self.pattern_dof) + self.num_people - 1) + 1.0 / self.dof)
        z = np.empty(deviations.shape, dtype=np.float32)
        for person, values in enumerate(deviations):
            variance = np.float32(own[person]) * self.pattern + np.float32(leverage[person]) + self.relative_variance
            width = np.sqrt(variance)
            z[person] = t_to_z((values - self.shift) / (width * sd), freedom)
        return z

    def leverage(self, design: NDArray[np.float64], gram_inverse: NDArray[np.float64]) -> NDArray[np.float64]:
        """Variance of the norm's prediction that the shift has not removed, in units of sd squared, [m]."""
        return _quadratic(design - self.weight * self.centre, gram_inverse)

    def to_dict(self) -> dict[str, object]:
        """Everything but the arrays [V], as JSON can hold it (an infinite dof becomes None)."""
        return {
            "sd_factor": self.sd_factor,
            "pattern_dof": self.pattern_dof if math.isfinite(self.pattern_dof) else None,
            "dof": self.dof if math.isfinite(self.dof) else None,
            "weight": self.weight,
            "centre": self.centre.tolist(),
            "num_people": self.num_people,
        }

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays [V] by name."""
        return {"shift": self.shift, "relative_variance": self.relative_variance, "pattern": self.pattern}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> SiteShift:
        """The shift that `to_dict` described, with its `arrays`."""
        of_site, of_pattern = (
            math.inf if values[name] is None else float(values[name]) for name in ("dof", "pattern_dof")
        )
        return cls(
            **{name: np.asarray(arrays[name], dtype=np.float32) for name in ARRAYS},
            pattern_dof=of_pattern,
            sd_factor=float(values["sd_factor"]),
            dof=of_site,
            weight=float(values["weight"]),
            centre=np.asarray(values["centre"], dtype=np.float64),
            num_people=int(values["num_people"]),
        )


def fit_site_shift(
    deviations: Array,
    design: NDArray[np.float64],
    sd: Array,
    gram_inverse: NDArray[np.float64],
    spread: SiteSpread,
    widening: NDArray[np.float64] | float = 1.0,
) -> SiteShift:
    """Estimate the shift and the SD factor of a site from its controls.

    Args:
        deviations: values of the site's controls minus the norm's prediction for its average site, [n, V].
        design: their covariates, every site column 0, [n, p].
        sd: moderated SD of the norm, [V].
        gram_inverse: (C'C)^-1 of the norm, [p, p].
        spread: how much sites and people differ in the norm.
        widening: known factor of each person's SD, [n] or 1 (`controls.spread_of`).

    Raises:
        ValueError: fewer than 2 controls, or shapes that do not fit.
    """
    num = len(deviations)
    if num < LEAST_CONTROLS or len(design) != num or deviations.shape[1:] != np.shape(sd):
        raise ValueError(f"deviations {deviations.shape}, design {design.shape}, sd {np.shape(sd)}")
    scaled: Array = np.asarray(np.divide(deviations, sd), dtype=np.float32)
    centre = np.asarray(design, dtype=np.float64).mean(axis=0)
    left = _quadratic(design - centre, gram_inverse)
    widened = np.square(np.broadcast_to(np.asarray(widening, dtype=np.float64), num))
    factor, uncertainty = _sd_factor(scaled[:, some_voxels(scaled.shape[1])], left, widened, spread)
    mean, variance = _winsorised(scaled, factor)
    pattern_dof, pattern = _pattern(variance, num)
    noise = (factor**2 * float(widened.mean()) * pattern + float(left.mean())) / num
    usual_noise = float(noise.mean())
    omega = _shift_variance(mean, usual_noise, spread)
    kept = _kept(mean, noise, omega)
    return SiteShift(
        shift=np.asarray(kept * mean * sd, dtype=np.float32),
        relative_variance=np.asarray(kept * noise, dtype=np.float32),
        pattern=np.asarray(pattern, dtype=np.float32),
        pattern_dof=pattern_dof,
        sd_factor=factor,
        dof=2.0 / uncertainty if uncertainty > 0 else math.inf,
        weight=omega / (omega + usual_noise),
        centre=centre,
        num_people=num,
    )


def held_out_site_z(
    deviations: Array,
    design: NDArray[np.float64],
    sd: Array,
    gram_inverse: NDArray[np.float64],
    dof: float,
    spread: SiteSpread,
    widening: NDArray[np.float64] | float = 1.0,
) -> NDArray[np.float32]:
    """z of each of the site's own controls by a shift fitted without it, [n, V]; n is at least 3.

    Arguments as of `fit_site_shift` and `SiteShift.z`. With n controls it says how honest a norm is that was adapted to n - 1.
    """
    z = np.empty(deviations.shape, dtype=np.float32)
    widths = np.broadcast_to(np.asarray(widening, dtype=np.float64), len(deviations))
    for person in range(len(deviations)):
        others = np.arange(len(deviations)) != person
        shift = fit_site_shift(deviations[others], design[others], sd, gram_inverse, spread, widths[others])
        z[person] = shift.z(deviations[[person]], design[[person]], sd, gram_inverse, dof, widths[[person]])[0]
    return z


def _sd_factor(
    scaled: Array, left: NDArray[np.float64], widened: NDArray[np.float64], spread: SiteSpread
) -> tuple[float, float]:
    """delta, and the variance of log delta^2; `left` [n] is the leverage about the mean covariates, `widened` [n] the square of
    the widening."""
    num = len(scaled)
    errors = scaled - scaled.mean(axis=0)
    squares = np.square(errors, dtype=np.float64).mean(axis=1) / (1.0 - 1.0 / num) - left
    squares /= widened
    # About their own mean, few people have a share of each other's scatter, so their mean squares differ less than they do, and
    # the mean logarithm of log-normal squares of variance v is v / 2 below the logarithm of the mean.
    mixed = 1.0 - (1.0 - 1.0 / num) ** 2 - 1.0 / (num**2 * (num - 1))
    usual = spread.log_square_mean + 0.5 * mixed * spread.log_square_variance
    logs = np.log(np.maximum(squares, LEAST_SQUARE * math.exp(usual))) - usual
    limit, middle = MOST_SPREADS * math.sqrt(spread.log_square_variance), float(np.median(logs))
    found = np.clip(logs, middle - limit, middle + limit).mean(keepdims=True)
    error = spread.log_square_variance / num
    kept = float(_kept(found, error, spread.log_factor_variance)[0])
    return math.exp(0.5 * kept * float(found[0])), kept * error


def _winsorised(scaled: Array, factor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance over people [V] of values no further than `MOST_SPREADS` SDs of the site from their median."""
    middle = np.median(scaled, axis=0)
    limit = np.float32(MOST_SPREADS * factor)
    near = np.clip(scaled - middle, -limit, limit)
    mean = middle + near.mean(axis=0)
    return mean.astype(np.float64), near.var(axis=0, ddof=1, dtype=np.float64)


def _pattern(variance: NDArray[np.float64], num: int) -> tuple[float, NDArray[np.float64]]:
    """d, and the moderated ratio m of each voxel's variance [V] to the norm's, relative to that of the site as a whole."""
    if not (variance > 0).any():
        return USUAL_PATTERN_DOF, np.ones_like(variance)
    freedom = num - 1
    found = estimate_prior(variance, freedom)
    own = 0.0 if math.isinf(found.dof) else float(polygamma(1, found.dof / 2.0))
    usual = float(polygamma(1, USUAL_PATTERN_DOF / 2.0))
    dof = 2.0 * trigamma_inverse((freedom * own + USUAL_PEOPLE * usual) / (freedom + USUAL_PEOPLE))
    ratio = (dof + freedom * variance / found.variance) / (dof + freedom)
    return dof, ratio / ratio.mean()


def _shift_variance(mean: NDArray[np.float64], noise: float, spread: SiteSpread) -> float:
    """omega: the moment estimate of this site and that of the norm's sites, which count as one less than they are."""
    own = max(0.0, float(np.square(mean).mean()) - noise)
    others = max(0, spread.num_sites - 1)
    return (own + others * spread.shift_variance) / (1 + others)


def _kept(estimates: NDArray[np.float64], error: NDArray[np.float64] | float, between: float) -> NDArray[np.float64]:
    """The share k of each estimate that shrinkage keeps: the larger of the common variance between sites and the estimate's own."""
    variances = np.maximum(between, np.square(estimates) - error)
    return np.asarray(np.where(variances > 0, variances / np.maximum(variances + error, 1e-300), 0.0))


def _quadratic(design: NDArray[np.float64], gram_inverse: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.einsum("ip,pq,iq->i", design, gram_inverse, design), dtype=np.float64)
