"""One factor of the residual SD per person by age, because old people scatter more than young ones.

The residual SD of voxel v at age a is f(a) sd_v with log f = slope * decades / 2 + constant, a location-scale model with
one slope for all voxels (Rigby and Stasinopoulos 2005, Applied Statistics 54:507, their log link of sigma). A person's
mean square m over voxels, in units of the common variance and of the site's, has expectation f(a)^2, so log m is
regressed on age within sites (outliers winsorised). Whole brains differ from person to person, so the precision of the slope
depends on the number of people, not of voxels. The slope is multiplied by max(0, 1 - se^2 / slope^2), the empirical Bayes
estimate of a single effect (James and Stein 1961, positive part): 0 where age explains no more than chance.

The regression is a handful of sums per site, so two norms can be added. The fit of the means stays unweighted: weights by age
would need the sums of every voxel again whenever the slope changes, and cost only a little precision, not accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.site_variance import MOST_SPREADS

MIN_PEOPLE = 10
"""People of known age, less the number of sites, from which a slope is estimated."""
MIDDLE_YEARS = 50.0
MOST_PER_DECADE = 1.0
"""Limit of the slope of the log variance per decade: a factor of 2.7 in variance every ten years is no brain's."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Moments:
    """Sums over the people of one site: of decades x from `MIDDLE_YEARS`, and of the log mean square y."""

    num: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def plus(self, other: _Moments) -> _Moments:
        return _Moments(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def within(self) -> tuple[float, float, float]:
        """Sums of squares and products about the site's means: xx, xy, yy."""
        num = max(self.num, 1.0)
        return self.xx - self.x**2 / num, self.xy - self.x * self.y / num, self.yy - self.y**2 / num


@dataclass(frozen=True)
class AgeVariance:
    """Factor of the residual SD by age, relative to the people of the fit; 1 for a person of unknown age.

    `sites` holds the sums behind it, `age_range_years` the ages of the fit: beyond them the factor stays that of the nearest.
    """

    sites: dict[str, _Moments]
    age_range_years: tuple[float, float]

    @property
    def num_people(self) -> int:
        """People of known age behind it."""
        return round(sum(moments.num for moments in self.sites.values()))

    @property
    def estimate(self) -> tuple[float, float]:
        """Change of the log variance per decade before shrinking, and its standard error; (0, infinity) without enough people."""
        xx, xy, yy = np.sum([moments.within() for moments in self.sites.values()] or [(0.0, 0.0, 0.0)], axis=0)
        dof = self.num_people - len(self.sites) - 1
        if dof < MIN_PEOPLE - 1 or xx <= 1e-9:
            return 0.0, math.inf
        slope = float(xy / xx)
        return slope, math.sqrt(max(float(yy) - slope * float(xy), 0.0) / dof / float(xx))

    @property
    def slope(self) -> float:
        """Change of the log variance per decade of age, shrunk; 0 where age explains no more than chance."""
        slope, error = self.estimate
        kept = max(0.0, 1.0 - (error / slope) ** 2) if slope else 0.0
        return float(np.clip(kept * slope, -MOST_PER_DECADE, MOST_PER_DECADE))

    def of(self, age_years: Sequence[float] | NDArray[np.floating]) -> Floats:
        """The factor of each age, [n]; its mean square over the people of the fit is 1, so the common SD keeps its meaning."""
        slope = self.slope
        ages = np.asarray(age_years, dtype=np.float64)
        if slope == 0.0:
            return np.ones(len(ages))
        num = sum(moments.num for moments in self.sites.values())
        mean = sum(moments.x for moments in self.sites.values()) / num
        spread = sum(moments.xx for moments in self.sites.values()) / num - mean**2
        decades = (np.clip(ages, *self.age_range_years) - MIDDLE_YEARS) / 10.0
        log_variance = slope * (decades - mean) - slope**2 * spread / 2.0  # mean of exp of a normal variable
        return np.where(np.isfinite(ages), np.exp(log_variance / 2.0), 1.0)

    def merged(self, other: AgeVariance) -> AgeVariance:
        """As if the people of both had been one fit; a site of both is one site."""
        sites = dict(self.sites)
        for name, moments in other.sites.items():
            sites[name] = sites.get(name, _Moments()).plus(moments)
        ranges = [own.age_range_years for own in (self, other) if own.num_people]
        return AgeVariance(sites, (min(r[0] for r in ranges), max(r[1] for r in ranges)) if ranges else (0.0, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold, with the slope for readers."""
        sites = {name: list(asdict(moments).values()) for name, moments in sorted(self.sites.items())}
        return {"log_variance_per_decade": self.slope, "age_range_years": list(self.age_range_years), "sites": sites}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AgeVariance:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: other fields.
        """
        sites = {str(name): _Moments(*(float(part) for part in parts)) for name, parts in values["sites"].items()}
        low, high = values["age_range_years"]
        return cls(sites, (float(low), float(high)))


ONE_FOR_ALL = AgeVariance({}, (0.0, 0.0))
"""The same residual SD at every age."""


def fit_age_variance(
    mean_squares: NDArray[np.floating],
    age_years: Sequence[float] | NDArray[np.floating],
    sites: Sequence[str] | NDArray[Any] | None = None,
) -> AgeVariance:
    """Estimate the factor from calibration controls.

    Args:
        mean_squares: [n], mean over voxels (or regions) of each person's squared residual in units of the common variance,
            corrected for leverage, as `site_variance` computes it. Zeros count as unknown.
        age_years: [n], NaN for unknown.
        sites: [n]; each has its own level, so old people of a noisy scanner do not make a slope.
    """
    ages, squares = (np.asarray(values, dtype=np.float64) for values in (age_years, mean_squares))
    labels = np.array([""] * len(ages) if sites is None else [str(site) for site in sites])
    usable = np.isfinite(ages) & np.isfinite(squares) & (squares > 0)
    if not usable.any():
        return ONE_FOR_ALL
    ages, labels, logs = ages[usable], labels[usable], np.log(squares[usable])
    decades = (ages - MIDDLE_YEARS) / 10.0
    names, member = np.unique(labels, return_inverse=True)
    logs = _winsorised(logs, decades, member)
    found = {str(name): _moments(decades[member == place], logs[member == place]) for place, name in enumerate(names)}
    return AgeVariance(found, (float(ages.min()), float(ages.max())))


def _moments(x: Floats, y: Floats) -> _Moments:
    return _Moments(float(len(x)), *(float(part.sum()) for part in (x, y, x * x, x * y, y * y)))


def _winsorised(logs: Floats, decades: Floats, member: NDArray[np.int64]) -> Floats:
    """Log mean squares no further from a robust line than `MOST_SPREADS` robust standard deviations: one bad scan sets no slope."""
    medians = np.array([[np.median(of[member == m]) for m in range(member.max() + 1)] for of in (logs, decades)])
    y, x = logs - medians[0][member], decades - medians[1][member]
    slope = _robust_slope(x, y)
    line = logs - (y - slope * x)
    off = logs - line
    limit = MOST_SPREADS * 1.4826 * float(np.median(np.abs(off - np.median(off))))
    return np.asarray(line + np.clip(off, -limit, limit)) if limit > 0 else logs


def _robust_slope(x: Floats, y: Floats) -> float:
    """Median of the slopes of people in the upper against those in the lower third of x; 0 where x does not vary.

    Siegel's repeated medians cost the square of people; this costs their number (Brown and Mood 1951).
    """
    low, high = np.quantile(x, [1 / 3, 2 / 3])
    if high - low < 1e-9:
        return 0.0
    below, above = x <= low, x >= high
    return float((np.median(y[above]) - np.median(y[below])) / (np.median(x[above]) - np.median(x[below])))
