"""ComBat: the location and the scale of every feature that a site adds, estimated and taken away.

Johnson, Li and Rabinovic 2007, Biostatistics 8:118 (the model and its empirical Bayes), as Fortin et al. 2018, NeuroImage
167:104, applied it to scanners. Feature v of person j at site i is

    y_ijv = alpha_v + x_ij beta_v + sigma_v (gamma_iv + sqrt(delta_iv) e_ijv)

with x what is to be kept (age, sex). The sites' locations average to zero over the people of the fit, so harmonised values lie
about the grand mean. gamma and delta of a site are shrunk towards what its features have in common: the fewer the people, the
more. Estimating them needs no values of other sites, so a site that was not in the fit can be added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gen3d.core.errors import UserError

FEWEST_PEOPLE = 2
"""Fewest people of a site: one person has no scatter."""
COLLINEAR = 1e-6
STILL = 1e-7
"""A feature whose residual SD is below this share of its size does not vary beyond the rounding of float32."""
TOLERANCE = 1e-8
MOST_ITERATIONS = 1000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Combat:
    """The fitted model of s sites, p kept columns and d features."""

    sites: tuple[str, ...]
    num_people: NDArray[np.int64]
    grand_mean: Array
    """alpha, [d]."""
    coefficients: Array
    """beta of what is kept, [p, d]."""
    sd: Array
    """sigma, the pooled residual SD, [d]; 1 where a feature does not vary within sites."""
    varying: NDArray[np.bool_]
    """Which features vary within sites, [d]."""
    gamma: Array
    """Location of each site in units of `sd`, [s, d]."""
    delta: Array
    """Variance of each site in units of the pooled one, [s, d]."""
    empirical_bayes: bool = True
    blocks: tuple[int, ...] = ()
    """Widths of groups of features side by side; what features have in common is learned within each. () for one group."""

    def apply(self, values: NDArray[np.floating], sites: Sequence[str] | NDArray[np.str_], design: Array) -> Array:
        """Harmonised values [n, d], each row by itself.

        Args:
            values: [n, d].
            sites: the site of each row; all must be known.
            design: what is kept, [n, p], coded as in the fit.

        Raises:
            UserError: a site that the fit has not seen.
        """
        place = {name: index for index, name in enumerate(self.sites)}
        unknown = sorted({str(site) for site in sites} - set(place))
        if unknown:
            raise UserError(
                f"site {unknown[0]} is not among those that the harmonisation was fitted on ({', '.join(self.sites)})."
            )
        rows = np.array([place[str(site)] for site in sites], dtype=np.int64)
        expected = self.expected(design)
        standard = (np.asarray(values, dtype=np.float64) - expected) / self.sd
        harmonised = (standard - self.gamma[rows]) / np.sqrt(self.delta[rows])
        return np.asarray(harmonised * self.sd + expected)

    def expected(self, design: Array) -> Array:
        """The mean over sites of people like these, [n, d]."""
        return np.asarray(self.grand_mean + np.asarray(design, dtype=np.float64) @ self.coefficients)

    def with_site(self, values: NDArray[np.floating], design: Array, name: str) -> Combat:
        """The model with one more site, estimated from its people (controls) with all else as it is.

        Args:
            values: [n, d] of people of the new site, n >= 2.
            design: what is kept of them, [n, p].
            name: of the site.

        Raises:
            UserError: fewer than 2 people, or a site that is there already.
        """
        if name in self.sites:
            raise UserError(f"site {name} was in the fit already, so it cannot be added to the harmonisation.")
        if len(values) < FEWEST_PEOPLE:
            raise UserError(f"site {name} has {len(values)} people to estimate it from; {FEWEST_PEOPLE} are needed.")
        standard = (np.asarray(values, dtype=np.float64) - self.expected(design)) / self.sd
        gamma, delta = _site_effect(standard, self.varying, self.empirical_bayes, self.blocks)
        return replace(
            self,
            sites=(*self.sites, name),
            num_people=np.append(self.num_people, len(values)),
            gamma=np.vstack([self.gamma, gamma]),
            delta=np.vstack([self.delta, delta]),
        )


def fit_combat(
    values: NDArray[np.floating],
    sites: Sequence[str] | NDArray[np.str_],
    design: Array,
    empirical_bayes: bool = True,
    names: Sequence[str] = (),
    blocks: Sequence[int] = (),
) -> Combat:
    """Estimate the sites' locations and scales from n people.

    Args:
        values: [n, d].
        sites: the site of each person; at least 2 people each.
        design: numbers that say what is to be kept, [n, p]; p may be 0. Not the intercept.
        empirical_bayes: shrink the estimates; without it every feature is estimated by itself.
        names: names of the design's columns, for messages.
        blocks: widths of groups of features (latents, scores) that share no prior; their sum is d. Empty for one group.

    Returns:
        The model. A feature that does not vary passes through it unchanged; one that varies between sites but not within
        them becomes the grand mean.

    Raises:
        UserError: a site with one person, too few people for the columns, values that are not finite, or a kept column
            that is constant, tied to the site, or a combination of the others.
    """
    data, kept = np.asarray(values, dtype=np.float64), np.asarray(design, dtype=np.float64).reshape(len(values), -1)
    labels = np.array([str(site) for site in sites])
    site_names, rows, counts = np.unique(labels, return_inverse=True, return_counts=True)
    _check(data, kept, site_names, counts)
    members = np.eye(len(site_names))[rows]
    _check_columns(members, kept, list(names) or [f"column {index + 1}" for index in range(kept.shape[1])])

    columns = np.hstack([members, kept])
    solution = np.linalg.lstsq(columns, data, rcond=None)[0]
    constant = np.ptp(data, axis=0) == 0
    coefficients = np.where(constant, 0.0, solution[len(site_names) :])
    grand_mean = np.where(constant, data[0], (counts / counts.sum()) @ solution[: len(site_names)])
    sd = np.sqrt(np.mean((data - columns @ solution) ** 2, axis=0))
    varying = sd > STILL * np.sqrt(np.mean(data**2, axis=0))
    sd = np.where(varying, sd, 1.0)
    standard = (data - grand_mean - kept @ coefficients) / sd
    effects = [
        _site_effect(standard[rows == site], varying, empirical_bayes, blocks) for site in range(len(site_names))
    ]
    return Combat(
        sites=tuple(str(name) for name in site_names),
        num_people=counts.astype(np.int64),
        grand_mean=grand_mean,
        coefficients=coefficients,
        sd=sd,
        varying=varying,
        gamma=np.stack([gamma for gamma, _ in effects]),
        delta=np.stack([delta for _, delta in effects]),
        empirical_bayes=empirical_bayes,
        blocks=tuple(int(width) for width in blocks),
    )


def _check(data: Array, kept: Array, site_names: NDArray[np.str_], counts: NDArray[np.int64]) -> None:
    bad = int((~np.isfinite(data)).any(axis=1).sum())
    if bad:
        raise UserError(f"the values of {bad} of {len(data)} people are not finite, so nothing can be harmonised.")
    few = counts.argmin() if len(counts) else 0
    if not len(counts) or counts[few] < FEWEST_PEOPLE:
        who = f"site {site_names[few]} has {counts[few]} person" if len(counts) else "there is nobody"
        raise UserError(
            f"{who} to estimate its effect from, and {FEWEST_PEOPLE} are needed; leave the site out, or add people."
        )
    if len(data) <= len(site_names) + kept.shape[1]:
        raise UserError(
            f"{len(data)} people are too few for {len(site_names)} sites and {kept.shape[1]} kept columns; keep fewer columns."
        )


def _check_columns(members: Array, kept: Array, names: list[str]) -> None:
    """Refuse kept columns that are constant or collinear with the sites or with one another."""
    for index, name in enumerate(names):
        column = kept[:, index]
        size = float(np.linalg.norm(column - column.mean()))
        if size <= COLLINEAR * max(float(np.linalg.norm(column)), 1e-300):
            raise UserError(
                f"{name} is the same for everybody, so there is nothing of it to keep; leave it out of keep."
            )
        if _remaining(members, column) <= COLLINEAR * size:
            raise UserError(
                f"{name} does not vary within any site, so its effect cannot be separated from the sites'; leave it out of "
                "keep (its effect then goes with the sites'), or add people who differ in it at one site."
            )
        if _remaining(np.hstack([members, kept[:, :index]]), column) <= COLLINEAR * size:
            raise UserError(
                f"{name} follows from the sites and the other columns of keep; leave one of them out of keep."
            )


def _remaining(others: Array, column: Array) -> float:
    """Length of what the other columns leave unexplained."""
    scaled = others / np.maximum(np.linalg.norm(others, axis=0), 1e-300)
    return float(np.linalg.norm(column - scaled @ np.linalg.lstsq(scaled, column, rcond=None)[0]))


def _site_effect(
    standard: Array, varying: NDArray[np.bool_], empirical_bayes: bool, blocks: Sequence[int]
) -> tuple[Array, Array]:
    """gamma [d] and delta [d] of one site from the standardised values of its people [n, d]."""
    gamma = standard.mean(axis=0)
    squares = ((standard - gamma) ** 2).sum(axis=0)
    delta = squares / (len(standard) - 1)
    # A site that repeats one value has no scatter to correct.
    delta = np.where(varying & (delta > STILL**2), delta, 1.0)
    group = np.repeat(np.arange(len(blocks)), blocks) if blocks else np.zeros(len(gamma), dtype=np.int64)
    for number in range(max(1, len(blocks)) if empirical_bayes else 0):
        chosen = varying & (group == number)
        if chosen.sum() > 1:  # a prior needs the spread over features
            gamma[chosen], delta[chosen] = _posterior(gamma[chosen], squares[chosen], len(standard))
    return gamma, delta


def _posterior(mean: Array, squares: Array, num: int) -> tuple[Array, Array]:
    """Posterior means of gamma (normal prior) and delta (inverse gamma prior), priors by moments over the features.

    Equations of Johnson et al. 2007, section 3.2, solved by turns for all features at once: the sum of squares about any
    location follows from that about the mean, so the data are not needed again.
    """
    variance = squares / (num - 1)
    centre, spread = float(mean.mean()), float(mean.var(ddof=1))
    prior, prior_variance = float(variance.mean()), float(variance.var(ddof=1))
    if prior <= 0.0:
        return mean, np.ones_like(mean)
    alike = prior_variance <= (TOLERANCE * prior) ** 2  # all features scatter alike: the prior is a point
    shape = 2.0 + prior**2 / prior_variance if not alike else np.inf
    rate = prior * (shape - 1.0)
    gamma, delta = mean.copy(), np.where(variance > 0, variance, prior)
    for _ in range(MOST_ITERATIONS):
        new_gamma = (spread * num * mean + delta * centre) / (spread * num + delta)
        about = squares + num * (mean - new_gamma) ** 2
        new_delta = np.full_like(delta, prior) if alike else (0.5 * about + rate) / (0.5 * num + shape - 1.0)
        change = max(float(np.abs(new_gamma - gamma).max()), float(np.abs(new_delta - delta).max()))
        gamma, delta = new_gamma, new_delta
        if change < TOLERANCE:
            break
    return gamma, delta
