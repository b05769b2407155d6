"""One factor of the residual SD per site, because people of one site scatter more than those of another.

The scale part of ComBat (Johnson, Li and Rabinovic 2007, Biostatistics 8:118; Fortin et al. 2018, NeuroImage 167:104)
with one factor for all voxels instead of one per voxel, so that a handful of controls suffices: the residual SD of voxel
v at site s is factor_s sd_v. A person's mean square m over voxels, in units of the common variance and corrected for
leverage, has expectation factor_s^2. Whole brains differ from person to person, so the precision of the factor depends on
the number of people, not of voxels: log m is averaged over the people of a site (outliers winsorised), and the averages
are shrunk towards their common mean by tau^2 / (tau^2 + omega^2 / n_s) with omega^2 the variance of log m within sites
and tau^2 that between them (DerSimonian and Laird 1986, Controlled Clinical Trials 7:177).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gen3d.maths.design import MIN_GROUP

NUM_VOXELS = 2000
"""Voxels used; the factor is one number per site, and its error comes from the number of people."""
MOST_VALUES, FEWEST_VOXELS = 4_000_000, 200
"""Values of all people that are held at a time (32 MB), and the voxels that are used however many people there are."""
ITERATIONS = 3
MOST_SPREADS = 2.5
"""Limits the influence of one person, so that one bad scan or one unusual age cannot set the variance of a site."""

Array = NDArray[np.floating]


@dataclass(frozen=True)
class SiteVariance:
    """Factor of the residual SD per site, relative to the average site; a site that is not listed has factor 1.

    What a merger with other sites needs: `offsets`, per site the mean of log m over people (winsorised) minus the logarithm of
    the mean of m; and `within`, the variance of log m within sites.
    """

    factors: dict[str, float]
    num_people: dict[str, int]
    offsets: dict[str, float] = field(default_factory=dict)
    within: float = 0.0

    def of(self, sites: Sequence[str] | NDArray[np.object_]) -> NDArray[np.float64]:
        """The factor of each person's site, [m]."""
        return np.array([self.factors.get(str(site), 1.0) for site in sites], dtype=np.float64)


def some_voxels(num_voxels: int, num_people: int = 1) -> slice:
    """Every k-th voxel, about `NUM_VOXELS` of them, and fewer for so many people that these would be `MOST_VALUES`."""
    wanted = max(FEWEST_VOXELS, min(NUM_VOXELS, MOST_VALUES // num_people))
    return slice(None, None, max(1, num_voxels // wanted))


def fit_site_variance(
    residuals: Array, design: NDArray[np.float64], sites: Sequence[str] | NDArray[np.object_]
) -> SiteVariance:
    """Estimate the factors from calibration controls.

    Args:
        residuals: [n, V] values of the controls; a few hundred to a few thousand voxels suffice.
        design: covariates [n, p], n > p.
        sites: the site of each control.

    Returns:
        Factors of the sites with at least 3 controls; all 1 when fewer than two sites have so many, or when sites
        differ no more than people do.
    """
    labels = np.array([str(site) for site in sites])
    names, counts = np.unique(labels, return_counts=True)
    num_people = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    large = [str(name) for name in names if num_people[str(name)] >= MIN_GROUP]
    ones = dict.fromkeys(large, 1.0)
    result = SiteVariance(ones, num_people)
    if not large or len(design) <= design.shape[1]:
        return result
    values = np.asarray(residuals, dtype=np.float64)
    for _ in range(
        ITERATIONS if len(large) > 1 else 1
    ):  # the fit needs the factors as weights, the factors need the fit
        squares = _mean_squares(values, design, result.of(labels))
        if not (squares > 0).all():
            break
        result = _from_squares(squares, labels, large, num_people)
    return result


def _mean_squares(values: Array, design: NDArray[np.float64], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over voxels of each person's squared residual in units of the common variance, [n]."""
    weighted, scaled = design / factor[:, None], values / factor[:, None]
    gram_inverse = np.linalg.pinv(weighted.T @ weighted)
    errors = scaled - weighted @ (gram_inverse @ (weighted.T @ scaled))
    leverage = np.einsum("ip,pq,iq->i", weighted, gram_inverse, weighted)
    variance = np.einsum("nv,nv->v", errors, errors)
    varying = variance > 1e-12 * float(np.einsum("nv,nv->v", scaled, scaled).max())  # more than rounding
    share = errors[:, varying] ** 2 / variance[varying]
    remaining = np.maximum(1.0 - leverage, 1e-3)
    return np.asarray(factor**2 * share.mean(axis=1) / remaining) if varying.any() else np.zeros(len(values))


def _from_squares(
    squares: NDArray[np.float64], labels: NDArray[np.str_], large: list[str], num_people: dict[str, int]
) -> SiteVariance:
    """From each person's mean square m, [n]."""
    groups = _winsorised([np.log(squares[labels == name]) for name in large])
    means = np.array([group.mean() for group in groups])
    numbers = np.array([len(group) for group in groups], dtype=np.float64)
    spread = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    within = spread / max(numbers.sum() - len(groups), 1.0)
    offsets = {
        name: float(mean - np.log(squares[labels == name].mean())) for name, mean in zip(large, means, strict=True)
    }
    return SiteVariance(shrunken_factors(means, numbers, within, large), num_people, offsets, within)


def shrunken_factors(
    means: NDArray[np.float64], numbers: NDArray[np.float64], within: float, sites: Sequence[str]
) -> dict[str, float]:
    """Factors of sites from means of log m over their people, shrunk towards their common mean.

    Args:
        means: of each site, [s].
        numbers: people behind each, [s].
        within: variance of log m within sites.
        sites: names, [s]; a single one has the factor 1.
    """
    if len(sites) < 2:
        return dict.fromkeys(sites, 1.0)
    error = np.maximum(within, 1e-12) / numbers
    weights = 1.0 / error
    centre = float((weights * means).sum() / weights.sum())
    excess = float((weights * (means - centre) ** 2).sum()) - (len(sites) - 1)
    between = max(0.0, excess / float(weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1.0 / (error + between)
    centre = float((weights * means).sum() / weights.sum())
    kept = between / (between + error)
    return {name: float(np.exp(0.5 * k * (m - centre))) for name, k, m in zip(sites, kept, means, strict=True)}


def _winsorised(groups: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Values no further from their group's median than `MOST_SPREADS` pooled robust standard deviations."""
    centres = [float(np.median(group)) for group in groups]
    distances = np.concatenate([np.abs(group - centre) for group, centre in zip(groups, centres, strict=True)])
    limit = MOST_SPREADS * 1.4826 * float(np.median(distances))
    return [np.clip(group, centre - limit, centre + limit) for group, centre in zip(groups, centres, strict=True)]
