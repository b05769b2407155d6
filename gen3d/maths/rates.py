"""Rates of change of people with several visits: a linear mixed model per region, fitted by restricted maximum likelihood.

    y_ij = a_i + (x_i' b + u_i) t_ij + e_ij,    u_i ~ N(0, tau^2),    e_ij ~ N(0, sigma^2)

for visit j of person i at time t_ij: the model of Bernal-Rusiel et al. 2013 (NeuroImage 66) with the rate of each group in b.
The intercept a_i is free: it is the random intercept when people differ far more than their rates and errors do, which holds
for volumes of regions, and what is measured within a person has no level to compare between people. Then a person's
least squares rate and the scatter around it are all that the likelihood depends on (Laird and Ware 1982, Biometrics 38), and only
the ratio tau^2 / sigma^2 has to be searched for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

Floats = NDArray[np.float64]

FEWEST_FOR_NOISE = (
    5  # visits beyond two per person, over all people, from which measurement error is told from people's own rates
)
RATIOS = np.concatenate(
    [[0.0], np.logspace(-4, 5, 91)]
)  # tau^2 / sigma^2 looked at first, times the mean squared spread of times
REFINEMENTS = 40
FLAT = 1e-6  # of -2 log likelihood: with equal intervals of two visits each, every ratio is as likely
GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)


@dataclass(frozen=True)
class PersonSlopes:
    """Every person's least squares rate, of n people in R regions.

    Attributes:
        rates: [n, R] per year.
        spread: [n] sum of squares of the times around their mean, years squared.
        residual: [n, R] sum of squares around the person's own line.
        free: [n] visits beyond two.
    """

    rates: Floats
    spread: Floats
    residual: Floats
    free: Floats

    def of(self, people: NDArray[np.bool_]) -> PersonSlopes:
        """These people alone."""
        return PersonSlopes(self.rates[people], self.spread[people], self.residual[people], self.free[people])


def slopes_of(times: Sequence[ArrayLike], values: Sequence[ArrayLike]) -> PersonSlopes:
    """Least squares rates.

    Args:
        times: per person [n_i] years, at least two different ones.
        values: per person [n_i, R].

    Raises:
        ValueError: a person with fewer than two different times.
    """
    rates, spreads, residuals, free = [], [], [], []
    for when, what in zip(times, values, strict=True):
        t, y = np.asarray(when, np.float64), np.asarray(what, np.float64)
        t, y = t - t.mean(), y - y.mean(axis=0)
        spread = float(t @ t)
        if not spread > 0:
            raise ValueError("a rate needs two different times")
        rate = t @ y / spread
        rates.append(rate)
        spreads.append(spread)
        residuals.append(((y - t[:, None] * rate) ** 2).sum(axis=0))
        free.append(float(len(t) - 2))
    return PersonSlopes(np.array(rates), np.array(spreads), np.array(residuals), np.array(free))


@dataclass(frozen=True)
class RateModel:
    """A fitted model of R regions.

    Attributes:
        design: [n, p] x_i of the people it was fitted to.
        coefficients: [R, p] rates per year.
        covariance: [R, p, p] of the coefficients.
        noise: [R] sigma^2, the variance of one visit's value.
        ratio: [R] tau^2 / sigma^2, per year squared.
        dof: n - p.
        separable: whether there were enough third visits to tell measurement error from people's own rates; if not, all
            of what people differ by counts as error of a person's rate, and none is drawn towards the others'.
    """

    slopes: PersonSlopes
    design: Floats
    coefficients: Floats
    covariance: Floats
    noise: Floats
    ratio: Floats
    dof: int
    separable: bool

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Limits [R, p] of the coefficients, by Student's t."""
        width = student.ppf(0.5 + level / 2, self.dof) * np.sqrt(np.einsum("rpp->rp", self.covariance))
        return self.coefficients - width, self.coefficients + width

    @cached_property
    def people(self) -> tuple[Floats, Floats]:
        """Best linear unbiased prediction of every person's rate, and its standard error, both [n, R] (Henderson 1975)."""
        expected = self.design @ self.coefficients.T
        of_line = np.einsum("np,rpq,nq->nr", self.design, self.covariance, self.design)
        error = self.noise / self.slopes.spread[:, None]
        own = self.ratio * self.noise
        if not self.separable:
            return self.slopes.rates, np.sqrt(error + own)
        share = own / np.maximum(own + error, np.finfo(float).tiny)
        variance = own * (1 - share) + (1 - share) ** 2 * of_line
        return expected + share * (self.slopes.rates - expected), np.sqrt(variance)

    def z_of(self, rates: Floats, spread: float, design: Floats) -> Floats:
        """How far the rates [R] of somebody outside the model, with this spread of times, lie from x' b: standard normal.

        Args:
            rates: least squares rates.
            spread: of the person's times, years squared.
            design: [p] x of the person.
        """
        variance = self.noise * (self.ratio + 1 / spread)
        variance = variance + np.einsum("p,rpq,q->r", design, self.covariance, design)
        quotient = (rates - self.coefficients @ design) / np.sqrt(variance)
        z: Floats = np.copysign(norm.isf(np.exp(student.logsf(np.abs(quotient), self.dof))), quotient)
        return z


def fit_rates(slopes: PersonSlopes, design: ArrayLike) -> RateModel:
    """Fit the model by restricted maximum likelihood.

    Args:
        slopes: of n people.
        design: [n, p] full rank, p < n: what the rate depends on; one column of ones, or one per group.

    Raises:
        ValueError: not more people than columns, or columns that depend on each other.
    """
    x = np.asarray(design, np.float64)
    n, p = x.shape
    if n <= p or np.linalg.matrix_rank(x) < p:
        raise ValueError(f"{n} people do not determine {p} rates")
    separable = bool(slopes.free.sum() >= FEWEST_FOR_NOISE)
    ratio = _likeliest(slopes, x)
    _, coefficients, gram, noise = _profile(slopes, x, ratio)
    covariance = noise[:, None, None] * np.linalg.inv(gram)
    return RateModel(slopes, x, coefficients, covariance, noise, ratio, n - p, separable)


def _likeliest(slopes: PersonSlopes, x: Floats) -> Floats:
    """tau^2 / sigma^2 [R] of the largest restricted likelihood: the best of a grid, then golden sections around it."""
    grid = RATIOS / slopes.spread.mean()
    num = slopes.rates.shape[1]
    heights = np.stack([_profile(slopes, x, np.full(num, ratio))[0] for ratio in grid])
    best = heights.argmin(axis=0)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
    for _ in range(REFINEMENTS):
        first, second = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        left = _profile(slopes, x, first)[0] < _profile(slopes, x, second)[0]
        low, high = np.where(left, low, first), np.where(left, second, high)
    found = (low + high) / 2
    at_zero = heights[0] <= _profile(slopes, x, found)[0] + FLAT
    return np.where(at_zero, 0.0, found)


def _profile(slopes: PersonSlopes, x: Floats, ratio: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """-2 log restricted likelihood [R] at a ratio [R], up to a constant; coefficients [R, p], X'V^-1X [R, p, p], sigma^2 [R]."""
    variance = ratio[:, None] + 1 / slopes.spread  # [R, n], in units of sigma^2
    weighted = x[None] / variance[:, :, None]
    gram = np.einsum("rnp,nq->rpq", weighted, x)
    coefficients = np.linalg.solve(gram, np.einsum("rnp,nr->rp", weighted, slopes.rates)[..., None])[..., 0]
    squares = ((slopes.rates.T - coefficients @ x.T) ** 2 / variance).sum(axis=1) + slopes.residual.sum(axis=0)
    dof = float(x.shape[0] - x.shape[1] + slopes.free.sum())
    noise = np.maximum(squares / dof, np.finfo(float).tiny)
    height = np.log(variance).sum(axis=1) + np.linalg.slogdet(gram)[1] + dof * np.log(noise)
    return height, coefficients, gram, noise
