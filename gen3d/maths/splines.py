"""A smooth effect of age whose columns depend on no sample, and how smooth it should be.

The curve is a natural cubic spline with knots that are fixed in years, so the sums of two hospitals can be added. Its second
derivative is a linear B-spline (Green and Silverman 1994, Nonparametric Regression and Generalized Linear Models, section
2.1), which has one hat per inner knot. The constant and the straight line are taken out: they are the design's own
columns, and a curve that is penalised without limit is the linear model. The hats are rotated so that the columns are
orthonormal over the life span and the penalty is diagonal (Demmler and Reinsch 1975, Numerische Mathematik 24:375).

The penalty is a prior (Wahba 1978, JRSS B 40:364): the coefficients of a voxel with residual variance s^2 are
N(0, s^2 / smoothing * P^-1). It is scaled so that with smoothing 1 the bend of the curve, root mean square over the life
span, is expected to be one residual SD. The smoothing is that of the highest restricted likelihood, pooled over voxels
(Wood 2011, JRSS B 73:3), and needs the sums C'C, C'r and r'r alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve_triangular
from scipy.optimize import minimize_scalar

AGE_KNOTS = (0.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)
"""Years. The curve bends between the first and the last, and is straight outside; closer in childhood, where it bends most."""
NUM_BENDS = len(AGE_KNOTS) - 2
LEAST_SMOOTHING, MOST_SMOOTHING = 1e-4, 1e4
"""Bends of 100 residual SDs and of 1 %: beyond the first the penalty does nothing, beyond the second nothing bends."""
STEPS = 33

Floats = NDArray[np.float64]


def age_basis(age_years: Sequence[float] | NDArray[np.floating]) -> Floats:
    """The bending part of a curve over age: [n] years -> [n, `NUM_BENDS`] without unit, 0 for an unknown age (NaN).

    Each column has mean 0, root mean square 1 and no linear trend over the life span, and is straight beyond the knots.
    Columns go from the simplest bend (a parabola) to the most winding.
    """
    ages = np.asarray(age_years, dtype=np.float64)
    rotation, line, _ = _rotation()
    known = np.isfinite(ages)
    columns = _twice_integrated_hats(np.where(known, ages, 0.0)) - _straight(np.where(known, ages, 0.0)) @ line
    return np.where(known[:, None], columns @ rotation, 0.0)


def age_penalty() -> Floats:
    """The integral of the squared second derivative as a quadratic form of the coefficients, diagonal [K, K].

    Scaled so that a prior N(0, P^-1) of the coefficients expects a bend of root mean square 1 over the life span.
    """
    return np.diag(_rotation()[2])


def penalty_matrix(num_columns: int, penalised: Sequence[int], smoothing: float) -> Floats:
    """What a penalised fit adds to C'C: smoothing * P in the rows and columns of the spline, 0 elsewhere, [p, p].

    Raises:
        ValueError: the columns are not the `NUM_BENDS` of the spline, or the smoothing is not finite (leave the columns out).
    """
    columns = np.asarray(penalised, dtype=np.int64)
    if len(columns) != NUM_BENDS:
        raise ValueError(f"{len(columns)} penalised columns, but the spline of age has {NUM_BENDS}")
    if not (math.isfinite(smoothing) and smoothing > 0):
        raise ValueError(f"smoothing {smoothing} is not a positive number: a straight line has no spline columns")
    matrix = np.zeros((num_columns, num_columns))
    matrix[np.ix_(columns, columns)] = smoothing * age_penalty()
    return matrix


@dataclass(frozen=True)
class Bends:
    """The spline columns of a design and how strongly they are penalised; infinity removes them."""

    columns: tuple[int, ...]
    smoothing: float = math.inf

    def inverse(self, gram: Floats) -> Floats:
        """(C'C + smoothing P)^-1, [p, p]: the coefficients are its product with C'r, and its leverage that of the fit."""
        if math.isfinite(self.smoothing):
            return np.asarray(np.linalg.inv(gram + penalty_matrix(len(gram), self.columns, self.smoothing)))
        inverse = np.zeros_like(gram)
        free = np.setdiff1d(np.arange(len(gram)), self.columns)
        inverse[np.ix_(free, free)] = np.linalg.inv(gram[np.ix_(free, free)])
        return inverse

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold; null for an infinite smoothing."""
        return {"columns": list(self.columns), "smoothing": self.smoothing if math.isfinite(self.smoothing) else None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Bends:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: other fields.
        """
        smoothing = values["smoothing"]
        columns = tuple(int(column) for column in values["columns"])
        return cls(columns, math.inf if smoothing is None else float(smoothing))


def effective_dof(gram: Floats, penalised: Sequence[int], smoothing: float) -> float:
    """Effective number of columns of the penalised fit, trace (C'C + smoothing P)^-1 C'C; the line alone where infinite."""
    if math.isinf(smoothing):
        return float(len(gram) - len(penalised))
    return float(np.trace(np.linalg.solve(gram + penalty_matrix(len(gram), penalised, smoothing), gram)))


def choose_smoothing(
    gram: Floats, cross: NDArray[np.floating], squares: NDArray[np.floating], num_people: int, penalised: Sequence[int]
) -> float:
    """The smoothing of the highest restricted likelihood, one for all voxels.

    With q unpenalised columns, the residuals of a voxel are N(0, s^2 (I + C_2 P^-1 C_2' / smoothing)) around their fit, and
    with s^2 at its best -2 log L = (n - q) log R(smoothing) + log |I + P^-1 S / smoothing|, where R is r'r less what the
    penalised fit explains and S is C_2'C_2 without what the other columns explain (Reiss and Ogden 2009, JRSS B 71:505).

    Args:
        gram: C'WC [p, p].
        cross: C'Wr [p, V].
        squares: r'Wr [V].
        num_people: n.
        penalised: the columns of the spline.

    Returns:
        A positive number in the units of `age_penalty`, or infinity where no bend is more likely than any: the linear model.
    """
    evidence = _Evidence.of(gram, cross, squares, num_people, penalised)
    grid = np.linspace(math.log(LEAST_SMOOTHING), math.log(MOST_SMOOTHING), STEPS)
    values = np.array([evidence(log_smoothing) for log_smoothing in grid])
    best = int(values.argmin())
    around = (grid[max(0, best - 1)], grid[min(STEPS - 1, best + 1)])
    found = minimize_scalar(evidence, bounds=around, method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x) if found.fun < evidence.straight and best < STEPS - 1 else math.inf


@dataclass(frozen=True)
class _Evidence:
    """-2 log restricted likelihood, mean over voxels, as a function of the logarithm of the smoothing.

    `total` [V] is r'r without the unpenalised columns, `along` [K, V] the projections on the rotated spline columns, whose
    strengths are `strength` [K]: everything that depends on the smoothing is then a sum of K terms.
    """

    total: Floats
    along: Floats
    strength: Floats
    dof: int

    @classmethod
    def of(
        cls,
        gram: Floats,
        cross: NDArray[np.floating],
        squares: NDArray[np.floating],
        num: int,
        penalised: Sequence[int],
    ) -> _Evidence:
        spline = np.asarray(penalised, dtype=np.int64)
        plain = np.setdiff1d(np.arange(len(gram)), spline)
        if num <= len(plain):
            raise ValueError(f"{num} people cannot carry {len(plain)} columns without penalty")
        outside = np.linalg.solve(
            gram[np.ix_(plain, plain)], np.column_stack([gram[np.ix_(plain, spline)], cross[plain]])
        )
        shared, level = outside[:, : len(spline)], outside[:, len(spline) :]
        total = np.asarray(squares, dtype=np.float64) - np.einsum("pv,pv->v", cross[plain], level)
        root = np.linalg.cholesky(age_penalty())
        inner = gram[np.ix_(spline, spline)] - gram[np.ix_(spline, plain)] @ shared
        strength, axes = eigh(solve_triangular(root, solve_triangular(root, inner, lower=True).T, lower=True))
        along = axes.T @ solve_triangular(root, cross[spline] - gram[np.ix_(spline, plain)] @ level, lower=True)
        varying = total > 1e-10 * np.maximum(np.asarray(squares, dtype=np.float64), np.median(total))
        return cls(total[varying], along[:, varying], np.maximum(strength, 0.0), num - len(plain))

    def __call__(self, log_smoothing: float) -> float:
        smoothing = math.exp(log_smoothing)
        explained = ((1.0 / (self.strength + smoothing))[:, None] * self.along**2).sum(axis=0)
        left = np.maximum(self.total - explained, 1e-12 * self.total)
        return self.dof * float(np.log(left).mean()) + float(np.log1p(self.strength / smoothing).sum())

    @property
    def straight(self) -> float:
        """The limit of no bend."""
        return self.dof * float(np.log(self.total).mean()) if self.total.size else -math.inf


def _straight(ages: Floats) -> Floats:
    """Constant and line over the life span, orthonormal there, [n, 2]."""
    middle, half = (AGE_KNOTS[0] + AGE_KNOTS[-1]) / 2, (AGE_KNOTS[-1] - AGE_KNOTS[0]) / 2
    return np.column_stack([np.ones(len(ages)), math.sqrt(3.0) * (ages - middle) / half])


def _twice_integrated_hats(ages: Floats) -> Floats:
    """Curves [n, K] whose second derivative is the hat of one inner knot: 0 before the hat, straight after it."""
    columns = []
    for left, knot, right in zip(AGE_KNOTS, AGE_KNOTS[1:], AGE_KNOTS[2:], strict=False):
        cubes = [np.maximum(ages - at, 0.0) ** 3 / 6.0 for at in (left, knot, right)]
        up, down = 1.0 / (knot - left), 1.0 / (right - knot)
        columns.append(up * cubes[0] - (up + down) * cubes[1] + down * cubes[2])
    return np.stack(columns, axis=1)


@lru_cache(maxsize=1)
def _rotation() -> tuple[Floats, Floats, Floats]:
    """The rotation of the hats [K, K], what of each is straight [2, K], and the diagonal of the penalty [K]."""
    points, weights = np.polynomial.legendre.leggauss(4)  # exact for the product of two cubics
    spans = np.diff(AGE_KNOTS)
    ages = np.concatenate([a + (points + 1) * h / 2 for a, h in zip(AGE_KNOTS, spans, strict=False)])
    weight = np.concatenate([weights * h / 2 for h in spans]) / spans.sum()
    straight, columns = _straight(ages), _twice_integrated_hats(ages)
    line = straight.T @ (weight[:, None] * columns)
    columns = columns - straight @ line
    bend, rotation = eigh(_hat_products(spans), columns.T @ (weight[:, None] * columns))
    last = _twice_integrated_hats(np.array(AGE_KNOTS[-1:])) - _straight(np.array(AGE_KNOTS[-1:])) @ line
    rotation = rotation * np.sign(last @ rotation)  # an eigenvector has no sign of its own: every column ends above 0
    return rotation, line, bend * np.sum(1.0 / bend)


def _hat_products(spans: Floats) -> Floats:
    """Integrals of the products of two hats, tridiagonal [K, K]."""
    return np.diag((spans[:-1] + spans[1:]) / 3) + np.diag(spans[1:-1] / 6, 1) + np.diag(spans[1:-1] / 6, -1)
