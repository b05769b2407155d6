"""Normative models: how far one person is from what controls with the same covariates show, in standard deviations.

Per voxel: r = beta' c + e over n calibration controls with p covariate columns, variance moderated across voxels by
the empirical Bayes of limma (Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3:3), and

    t = (r - beta' c) / (sd sqrt(1 + c' (C'C)^-1 c)),   t ~ Student t with d0 + n - p degrees of freedom under the null,

turned into a standard normal z. Memory: chunks of `CHUNK` voxels in float64 (n x CHUNK x 8 bytes, 52 MB for n = 100),
beside the residuals and a few arrays of V voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

from gen3d.errors import UserError
from gen3d.maths.deviation import DeviationModel, deviation, fit_deviation, held_out_deviation
from gen3d.maths.image import smoother
from gen3d.maths.significance import (
    Cluster,
    burden,
    clusters,
    conformal_p,
    conformal_resolution,
    fdr,
    fdr_adjust,
    p_values,
    percentile,
)
from gen3d.maths.student import t_to_z

__all__ = [
    "Cluster",
    "DeviationModel",
    "NormativeModel",
    "Prior",
    "burden",
    "clusters",
    "conformal_p",
    "conformal_resolution",
    "deviation",
    "estimate_prior",
    "fdr",
    "fdr_adjust",
    "fit_deviation",
    "fit_normative",
    "held_out_deviation",
    "held_out_z",
    "p_values",
    "percentile",
    "t_to_z",
    "trigamma_inverse",
    "z_scores",
]

CHUNK = 65536
FLOOR = 0.1
"""The smallest standard deviation allowed, as a share of the median over voxels."""

Array = NDArray[np.floating]


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

    @property
    def dof(self) -> float:
        """Degrees of freedom of t: residual plus prior."""
        return self.dof_residual + self.prior.dof

    def expected(self, design: NDArray[np.float64]) -> NDArray[np.float32]:
        """What the covariates predict: design [m, p] -> [m, V]."""
        return np.asarray(design, dtype=np.float32) @ self.coefficients


def fit_normative(
    residuals: Array,
    design: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
) -> NormativeModel:
    """Fit the model on calibration controls: residuals [n, V], design [n, p].

    With a mask (V true voxels, in their order) and `fwhm_voxels` > 0, the moderated variance map is smoothed inside the
    mask. The degrees of freedom are not raised for that, so smoothed models are slightly conservative.
    Raises UserError with fewer than p + 2 people, when covariates are collinear, or when nothing varies.
    """
    _check(residuals, design)
    num, columns = design.shape
    if num < columns + 2:
        raise UserError(
            f"{num} calibration controls cannot carry {columns} covariate columns: "
            f"give at least {columns + 2} controls, or fewer covariates."
        )
    gram_inverse = _gram_inverse(design)
    coefficients = np.empty((columns, residuals.shape[1]), dtype=np.float32)
    variance = np.empty(residuals.shape[1])
    for chunk, block in _chunks(residuals):
        fitted, sum_of_squares = _least_squares(block, design, gram_inverse)
        coefficients[:, chunk] = fitted
        variance[chunk] = sum_of_squares / (num - columns)
    prior = estimate_prior(variance, num - columns)
    smooth = smoother(mask, fwhm_voxels) if mask is not None and fwhm_voxels > 0 else None
    sd = _moderated_sd(variance, num - columns, prior, smooth)
    return NormativeModel(coefficients, sd, gram_inverse, prior, num, num - columns)


def z_scores(model: NormativeModel, residuals: Array, design: NDArray[np.float64]) -> NDArray[np.float32]:
    """z [m, V] of people who were not used in the fit: residuals [m, V], design [m, p]."""
    _check(residuals, design)
    design = np.asarray(design, dtype=np.float64)
    leverage = np.einsum("ip,pq,iq->i", design, model.gram_inverse, design)
    scale = np.sqrt(1.0 + leverage)[:, None].astype(np.float32)
    z = np.empty(residuals.shape, dtype=np.float32)
    for chunk, block in _chunks(residuals, np.float32):
        deviation = block - np.asarray(design, dtype=np.float32) @ model.coefficients[:, chunk]
        z[:, chunk] = t_to_z(deviation / (scale * model.sd[chunk]), model.dof)
    return z


def held_out_z(
    residuals: Array,
    design: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
) -> NDArray[np.float32]:
    """Leave-one-out z [n, V] of the calibration people themselves, without refitting.

    Person i without i: deviation e_i / (1 - h_i), residual sum of squares RSS - e_i^2 / (1 - h_i), leverage of the new
    person h_i / (1 - h_i) (Cook and Weisberg 1982, ch. 2). Prior, floor and smoothing are those of each reduced fit, so
    the result equals n refits. Raises UserError with fewer than p + 3 people, or when a person alone carries a column.
    """
    _check(residuals, design)
    num, columns = design.shape
    if num < columns + 3:
        raise UserError(
            f"{num} calibration controls are too few to leave one out with {columns} covariate columns: "
            f"give at least {columns + 3} controls, or fewer covariates."
        )
    gram_inverse = _gram_inverse(design)
    leverage = np.einsum("ip,pq,iq->i", design, gram_inverse, design)
    if np.any(leverage > 1.0 - 1e-8):
        raise UserError(
            f"One calibration control (row {int(np.argmax(leverage))}) is alone in determining a covariate "
            "(for example the only one of a site): leave that covariate out or add controls."
        )
    coefficients = np.empty((columns, residuals.shape[1]))
    sum_of_squares = np.empty(residuals.shape[1])
    for chunk, block in _chunks(residuals):
        coefficients[:, chunk], sum_of_squares[chunk] = _least_squares(block, design, gram_inverse)
    smooth = smoother(mask, fwhm_voxels) if mask is not None and fwhm_voxels > 0 else None
    dof = num - 1 - columns
    z = np.empty(residuals.shape, dtype=np.float32)
    for person in range(num):
        deviation = residuals[person] - design[person] @ coefficients
        remaining = np.maximum(sum_of_squares - deviation**2 / (1.0 - leverage[person]), 0.0)
        prior = estimate_prior(remaining / dof, dof)
        sd = _moderated_sd(remaining / dof, dof, prior, smooth)
        z[person] = t_to_z(deviation / (sd * math.sqrt(1.0 - leverage[person])), dof + prior.dof)
    return z


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


def _moderated_sd(
    variance: Array, dof: int, prior: Prior, smooth: Callable[[Array], NDArray[np.float32]] | None
) -> NDArray[np.float32]:
    """Shrunk towards the prior, smoothed, and not below `FLOOR` of the median."""
    if math.isinf(prior.dof):
        moderated = np.full(variance.shape, prior.variance)
    else:
        moderated = (prior.dof * prior.variance + dof * variance) / (prior.dof + dof)
    if smooth is not None:
        moderated = smooth(moderated)
    sd = np.sqrt(moderated)
    return np.asarray(np.maximum(sd, FLOOR * np.median(sd)), dtype=np.float32)


def _check(residuals: Array, design: NDArray[np.float64]) -> None:
    if residuals.ndim != 2 or design.ndim != 2 or len(residuals) != len(design):
        raise ValueError(f"residuals {residuals.shape} and design {design.shape} must be [n, V] and [n, p]")


def _chunks(residuals: Array, dtype: type = np.float64) -> Iterator[tuple[slice, Array]]:
    """Blocks [n, <= CHUNK] of the residuals; refuses NaN and infinity."""
    for start in range(0, residuals.shape[1], CHUNK):
        chunk = slice(start, start + CHUNK)
        block: Array = np.asarray(residuals[:, chunk], dtype=dtype)
        if not np.isfinite(block).all():
            raise ValueError("residuals hold NaN or infinite values")
        yield chunk, block


def _gram_inverse(design: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise UserError(
            "The covariates of the calibration controls are collinear (for example sex and site say the same): "
            "leave one of them out."
        )
    return np.asarray(np.linalg.inv(design.T @ design), dtype=np.float64)


def _least_squares(
    block: Array, design: NDArray[np.float64], gram_inverse: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients [p, v] and residual sum of squares [v] of one block [n, v]."""
    coefficients = gram_inverse @ (design.T @ block)
    errors = block - design @ coefficients
    return coefficients, np.einsum("nv,nv->v", errors, errors)
