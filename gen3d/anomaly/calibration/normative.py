"""Normative models: the deviation of a person from controls with the same covariates, in standard deviations.

Per voxel: r = beta' c + e over n calibration controls with p covariate columns, variance moderated across voxels by
the empirical Bayes of limma (Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3:3), and

    t = (r - beta' c) / (sd sqrt(1 + c' (C'C)^-1 c)),   t ~ Student t with d0 + n - p degrees of freedom under the null,

mapped to a standard normal z. People may have a scale: a known factor of their residual SD (that of their site). Residual
and covariates of a person are divided by it, which is weighted least squares. Models are fitted from sums over people
(`sums.py`), so that nobody's values need be at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

from gen3d.anomaly.calibration.student import t_to_z
from gen3d.anomaly.calibration.sums import Fitted
from gen3d.core.errors import UserError
from gen3d.imaging.similarity import smoother

FLOOR = 0.1
"""The smallest standard deviation allowed, as a share of the median over voxels."""

Array = NDArray[np.floating]
Smoother = Callable[[Array], NDArray[np.float32]]


@dataclass(frozen=True)
class Prior:
    """Scaled inverse chi-squared prior of the voxel variances: `dof` (may be infinite) and `variance` (s0 squared)."""

    dof: float
    variance: float


@dataclass(frozen=True)
class NormativeModel:
    """A fitted per-voxel model: coefficients [p, V], moderated standard deviation [V], (C'C)^-1 [p, p]."""

    coefficients: NDArray[np.float32]
    sd: NDArray[np.float32]
    gram_inverse: NDArray[np.float64]
    prior: Prior
    num_people: int
    dof_residual: int
    floor: float = 0.0
    """Least SD, as a share of the root mean square of all."""

    @property
    def dof(self) -> float:
        """Degrees of freedom of t: residual plus prior."""
        return self.dof_residual + self.prior.dof

    def expected(self, design: NDArray[np.float64]) -> NDArray[np.float32]:
        """Prediction from the covariates: design [m, p] -> [m, V]."""
        return np.asarray(design, dtype=np.float32) @ self.coefficients

    def with_floor(self, share: float) -> NormativeModel:
        """The model with no SD below `share` of the root mean square of all SDs.

        For values that are nearly zero in most people and large in a few: a small sample of controls misses those few, so
        the SD of most voxels is too small.
        """
        floor = np.float32(share * math.sqrt(float(np.mean(np.square(self.sd, dtype=np.float64)))))
        return replace(self, sd=np.maximum(self.sd, floor), floor=share) if share > 0 else self


def z_scores(
    model: NormativeModel, residuals: Array, design: NDArray[np.float64], scale: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """z [m, V] of people who were not used in the fit: residuals [m, V], design [m, p], scale [m]."""
    _check(residuals, design)
    design = np.asarray(design, dtype=np.float64)
    values = np.asarray(residuals, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("residuals hold NaN or infinite values")
    leverage = np.einsum("ip,pq,iq->i", design, model.gram_inverse, design)
    spread = np.sqrt(_scale(scale, len(design)) ** 2 + leverage)[:, None].astype(np.float32)
    return t_to_z((values - model.expected(design)) / (spread * model.sd), model.dof)


def model_of(fitted: Fitted, smooth: Smoother | None = None) -> NormativeModel:
    """The normative model of a least-squares fit; `smooth` of `variance_smoother`.

    Raises UserError where nothing varies.
    """
    dof = fitted.num_people - len(fitted.gram_inverse) + fitted.num_penalised
    variance = fitted.squares / dof
    prior = estimate_prior(variance, dof)
    sd = _moderated_sd(variance, dof, prior, smooth)
    return NormativeModel(
        fitted.coefficients.astype(np.float32), sd, fitted.gram_inverse, prior, fitted.num_people, dof
    )


def estimate_prior(variance: Array, dof: float) -> Prior:
    """Moments of log variances (Smyth 2004, section 6.2) of V voxels with `dof` degrees of freedom each.

    E log s^2 = log s0^2 + digamma(d/2) - log(d/2) - digamma(d0/2) + log(d0/2) and
    var log s^2 = trigamma(d/2) + trigamma(d0/2). When the spread is no larger than chance, d0 is infinite.
    Variances below 1e-5 of the median count as that (limma's guard against log 0).
    """
    positive = variance[variance > 0]
    if not positive.size:
        raise UserError(
            "The calibration controls do not differ from each other in any voxel: "
            "their maps are constant or one scan was given several times."
        )
    logs = np.log(np.maximum(variance, 1e-5 * np.median(positive))) - digamma(dof / 2.0) + math.log(dof / 2.0)
    excess = (float(np.var(logs, ddof=1)) if logs.size > 1 else 0.0) - float(polygamma(1, dof / 2.0))
    if excess <= 1e-8:
        return Prior(math.inf, math.exp(float(logs.mean())))
    prior_dof = 2.0 * trigamma_inverse(excess)
    shift = float(digamma(prior_dof / 2.0)) - math.log(prior_dof / 2.0)
    return Prior(prior_dof, math.exp(float(logs.mean()) + shift))


def trigamma_inverse(value: float) -> float:
    """Solve trigamma(x) = value > 0 by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    if value > 1e7:
        return 1.0 / math.sqrt(value)
    if value < 1e-6:
        return 1.0 / value
    x = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1.0 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-10:
            break
    return x


def _moderated_sd(variance: Array, dof: int, prior: Prior, smooth: Smoother | None) -> NDArray[np.float32]:
    """Shrunk towards the prior, smoothed, and not below `FLOOR` of the median."""
    if math.isinf(prior.dof):
        moderated = np.full(variance.shape, prior.variance)
    else:
        moderated = (prior.dof * prior.variance + dof * variance) / (prior.dof + dof)
    if smooth is not None:
        moderated = smooth(moderated)
    sd = np.sqrt(moderated)
    return np.asarray(np.maximum(sd, FLOOR * np.median(sd)), dtype=np.float32)


def variance_smoother(mask: NDArray[np.bool_] | None, fwhm_voxels: float) -> Smoother | None:
    """What smooths a variance map inside the mask, None for no smoothing."""
    return smoother(mask, fwhm_voxels) if mask is not None and fwhm_voxels > 0 else None


def _scale(scale: NDArray[np.float64] | None, num: int) -> NDArray[np.float64]:
    return np.ones(num) if scale is None else np.asarray(scale, dtype=np.float64)


def require_people(num_people: int, num_columns: int, left_out: int = 0) -> None:
    """Refuse fewer people than covariate columns need, when some are left out in turn.

    Raises UserError.
    """
    needed = num_columns + 2 + left_out
    if num_people < needed:
        to_do = f"are too few to leave one out with {num_columns}" if left_out else f"cannot carry {num_columns}"
        raise UserError(
            f"{num_people} calibration controls {to_do} covariate columns: "
            f"give at least {needed} controls, or fewer covariates."
        )


def refuse_single_carriers(design: NDArray[np.float64]) -> None:
    """Refuse a design [n, p] in which leaving one person out leaves a column undetermined."""
    leverage = np.einsum("ip,pq,iq->i", design, _gram_inverse(design), design)
    if np.any(leverage > 1.0 - 1e-8):
        raise UserError(
            f"One calibration control (row {int(np.argmax(leverage))}) is alone in determining a covariate "
            "(for example the only one of a site): leave that covariate out or add controls."
        )


def _check(residuals: Array, design: NDArray[np.float64]) -> None:
    if residuals.ndim != 2 or design.ndim != 2 or len(residuals) != len(design):
        raise ValueError(f"residuals {residuals.shape} and design {design.shape} must be [n, V] and [n, p]")


def _gram_inverse(design: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise UserError(
            "The covariates of the calibration controls are collinear (for example sex and site are identical): "
            "leave one of them out."
        )
    return np.asarray(np.linalg.inv(design.T @ design), dtype=np.float64)
