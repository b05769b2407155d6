"""Normative models: the deviation of a person from controls with the same covariates, in standard deviations.

Per voxel: r = beta' c + e over n calibration controls with p covariate columns, variance moderated across voxels by
the empirical Bayes of limma (Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3:3), and

    t = (r - beta' c) / (sd sqrt(1 + c' (C'C)^-1 c)),   t ~ Student t with d0 + n - p degrees of freedom under the null,

mapped to a standard normal z. People may have a scale: a known factor of their residual SD (that of their site). Residual
and covariates of a person are divided by it, which is weighted least squares. Memory: chunks of `CHUNK`
voxels in float64 (n x CHUNK x 8 bytes, 32 MiB at most), in addition to the residuals and a few arrays
of V voxels. Leaving one out needs another (groups x p + p) V numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

from gen3d.anomaly.calibration.student import t_to_z
from gen3d.core.errors import UserError
from gen3d.imaging.similarity import smoother
from gen3d.maths.deviation import DeviationModel, deviation, fit_deviation, held_out_deviation
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
    "models_without_each",
    "p_values",
    "percentile",
    "t_to_z",
    "trigamma_inverse",
    "z_scores",
]

CHUNK = 65536
MOST_AT_ONCE = 1 << 22
"""Numbers of one chunk over all people (32 MiB in float64), so that many people do not make it larger."""

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
        """Prediction from the covariates: design [m, p] -> [m, V]."""
        return np.asarray(design, dtype=np.float32) @ self.coefficients

    def with_floor(self, share: float) -> NormativeModel:
        """The model with no SD below `share` of the root mean square of all SDs.

        For values that are nearly zero in most people and large in a few: a small sample of controls misses those few, so
        the SD of most voxels is too small.
        """
        floor = np.float32(share * math.sqrt(float(np.mean(np.square(self.sd, dtype=np.float64)))))
        return replace(self, sd=np.maximum(self.sd, floor)) if share > 0 else self


def fit_normative(
    residuals: Array,
    design: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
    scale: NDArray[np.float64] | None = None,
) -> NormativeModel:
    """Fit the model on calibration controls: residuals [n, V], design [n, p], scale [n] (1 when absent).

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
    weight = 1.0 / _scale(scale, num)[:, None]
    gram_inverse = _gram_inverse(design * weight)
    coefficients = np.empty((columns, residuals.shape[1]), dtype=np.float32)
    variance = np.empty(residuals.shape[1])
    for chunk, block in _chunks(residuals):
        fitted, sum_of_squares = _least_squares(block * weight, design * weight, gram_inverse)
        coefficients[:, chunk] = fitted
        variance[chunk] = sum_of_squares / (num - columns)
    prior = estimate_prior(variance, num - columns)
    sd = _moderated_sd(variance, num - columns, prior, _smoother(mask, fwhm_voxels))
    return NormativeModel(coefficients, sd, gram_inverse, prior, num, num - columns)


def z_scores(
    model: NormativeModel, residuals: Array, design: NDArray[np.float64], scale: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """z [m, V] of people who were not used in the fit: residuals [m, V], design [m, p], scale [m]."""
    _check(residuals, design)
    design = np.asarray(design, dtype=np.float64)
    leverage = np.einsum("ip,pq,iq->i", design, model.gram_inverse, design)
    spread = np.sqrt(_scale(scale, len(design)) ** 2 + leverage)[:, None].astype(np.float32)
    z = np.empty(residuals.shape, dtype=np.float32)
    for chunk, block in _chunks(residuals, np.float32):
        deviation = block - np.asarray(design, dtype=np.float32) @ model.coefficients[:, chunk]
        z[:, chunk] = t_to_z(deviation / (spread * model.sd[chunk]), model.dof)
    return z


def models_without_each(
    residuals: Array,
    design: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
    groups: NDArray[np.int64] | None = None,
    scales: NDArray[np.float64] | None = None,
) -> Iterator[NormativeModel]:
    """The n models of `fit_normative` without person 0, without person 1, and so on, at the cost of one fit.

    The sums C'C, C'r and r'r of each group of people with one scale are computed once; a model needs them weighted, minus
    one person. Prior, floor and smoothing are those of each reduced fit, so the result equals n refits.

    Args:
        residuals: [n, V].
        design: [n, p].
        mask: see `fit_normative`.
        fwhm_voxels: see `fit_normative`.
        groups: [n], number of the group of each person, from 0; None for one group.
        scales: [n, groups], row i holding the scale of each group estimated without person i; None for 1.

    Raises:
        UserError: fewer than p + 3 people, or a person who alone carries a column.
    """
    _check(residuals, design)
    num, columns = design.shape
    if num < columns + 3:
        raise UserError(
            f"{num} calibration controls are too few to leave one out with {columns} covariate columns: "
            f"give at least {columns + 3} controls, or fewer covariates."
        )
    _refuse_single_carriers(design)
    member = np.zeros(num, dtype=np.int64) if groups is None else groups
    weights = np.ones((num, int(member.max()) + 1)) if scales is None else 1.0 / scales**2
    sums = _Sums(residuals, design, member, weights.shape[1])
    smooth, dof = _smoother(mask, fwhm_voxels), num - 1 - columns
    for person in range(num):
        gram_inverse, coefficients, sum_of_squares = sums.without(person, weights[person])
        prior = estimate_prior(sum_of_squares / dof, dof)
        sd = _moderated_sd(sum_of_squares / dof, dof, prior, smooth)
        yield NormativeModel(coefficients.astype(np.float32), sd, gram_inverse, prior, num - 1, dof)


def held_out_z(
    residuals: Array,
    design: NDArray[np.float64],
    mask: NDArray[np.bool_] | None = None,
    fwhm_voxels: float = 0.0,
    groups: NDArray[np.int64] | None = None,
    scales: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Leave-one-out z [n, V] of the calibration people themselves; arguments and errors of `models_without_each`."""
    z = np.empty(residuals.shape, dtype=np.float32)
    for i, model in enumerate(models_without_each(residuals, design, mask, fwhm_voxels, groups, scales)):
        scale = None if groups is None or scales is None else scales[i, groups[i : i + 1]]
        z[i] = z_scores(model, residuals[i : i + 1], design[i : i + 1], scale)[0]
    return z


class _Sums:
    """C'C [g, p, p], C'r [g, p, V] and r'r [g, V] of each group; residuals are centred so that nothing cancels."""

    def __init__(
        self, residuals: Array, design: NDArray[np.float64], groups: NDArray[np.int64], num_groups: int
    ) -> None:
        columns, num_voxels = design.shape[1], residuals.shape[1]
        self._residuals, self._design, self._groups = residuals, np.asarray(design, dtype=np.float64), groups
        self._gram = np.zeros((num_groups, columns, columns))
        self._cross = np.zeros((num_groups, columns, num_voxels))
        self._squares = np.zeros((num_groups, num_voxels))
        gram_inverse = _gram_inverse(self._design)
        self._common = np.empty((columns, num_voxels))
        members = [np.flatnonzero(groups == group) for group in range(num_groups)]
        for group, rows in enumerate(members):
            self._gram[group] = self._design[rows].T @ self._design[rows]
        for chunk, block in _chunks(residuals):
            self._common[:, chunk], _ = _least_squares(block, self._design, gram_inverse)
            errors = block - self._design @ self._common[:, chunk]
            for group, rows in enumerate(members):
                self._cross[group][:, chunk] = self._design[rows].T @ errors[rows]
                self._squares[group][chunk] = np.einsum("nv,nv->v", errors[rows], errors[rows])

    def without(
        self, person: int, weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(C'WC)^-1, coefficients [p, V] and weighted residual sum of squares [V] without one person."""
        row, weight = self._design[person], float(weights[self._groups[person]])
        errors = np.asarray(self._residuals[person], dtype=np.float64) - row @ self._common
        gram = np.tensordot(weights, self._gram, axes=1) - weight * np.outer(row, row)
        cross = np.tensordot(weights, self._cross, axes=1)
        cross -= (weight * row)[:, None] * errors
        gram_inverse = np.asarray(np.linalg.inv(gram), dtype=np.float64)
        correction = gram_inverse @ cross
        squares: NDArray[np.float64] = np.tensordot(weights, self._squares, axes=1) - weight * errors**2
        squares -= np.einsum("pv,pv->v", cross, correction)
        return gram_inverse, self._common + correction, np.maximum(squares, 0.0)


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


def _smoother(mask: NDArray[np.bool_] | None, fwhm_voxels: float) -> Callable[[Array], NDArray[np.float32]] | None:
    return smoother(mask, fwhm_voxels) if mask is not None and fwhm_voxels > 0 else None


def _scale(scale: NDArray[np.float64] | None, num: int) -> NDArray[np.float64]:
    return np.ones(num) if scale is None else np.asarray(scale, dtype=np.float64)


def _refuse_single_carriers(design: NDArray[np.float64]) -> None:
    """Refuse a design in which leaving one person out leaves a column undetermined."""
    leverage = np.einsum("ip,pq,iq->i", design, _gram_inverse(design), design)
    if np.any(leverage > 1.0 - 1e-8):
        raise UserError(
            f"One calibration control (row {int(np.argmax(leverage))}) is alone in determining a covariate "
            "(for example the only one of a site): leave that covariate out or add controls."
        )


def _check(residuals: Array, design: NDArray[np.float64]) -> None:
    if residuals.ndim != 2 or design.ndim != 2 or len(residuals) != len(design):
        raise ValueError(f"residuals {residuals.shape} and design {design.shape} must be [n, V] and [n, p]")


def _chunks(residuals: Array, dtype: type = np.float64) -> Iterator[tuple[slice, Array]]:
    """Blocks [n, <= CHUNK] of the residuals, narrower with more than 64 people; refuses NaN and infinity."""
    width = max(1, min(CHUNK, MOST_AT_ONCE // max(1, len(residuals))))
    for start in range(0, residuals.shape[1], width):
        chunk = slice(start, start + width)
        block: Array = np.asarray(residuals[:, chunk], dtype=dtype)
        if not np.isfinite(block).all():
            raise ValueError("residuals hold NaN or infinite values")
        yield chunk, block


def _gram_inverse(design: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise UserError(
            "The covariates of the calibration controls are collinear (for example sex and site are identical): "
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
