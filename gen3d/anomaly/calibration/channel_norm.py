"""What one channel of values needs to judge a person: the model of controls, factors of sites, and the empirical null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.age_variance import ONE_FOR_ALL, AgeVariance
from gen3d.anomaly.calibration.controls import Coded
from gen3d.anomaly.calibration.empirical_null import Counts, NullMap, fit_null_map
from gen3d.anomaly.calibration.normative import NormativeModel, z_scores
from gen3d.anomaly.calibration.site_shift import SiteShift, Squares
from gen3d.anomaly.calibration.site_variance import SiteVariance
from gen3d.anomaly.calibration.sums import ValueSums
from gen3d.maths.splines import Bends

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ChannelNorm:
    """The model of one channel's V values. `bends` are the columns of the spline of age with their smoothing, None without.

    `null_counts` is the histogram of held-out z of controls (`empirical_null.count`), None where z is not mapped; `sums` are
    those that the model came from, None where they are not at hand. `squares` say of each site how much its people differ in
    scatter; `shifts` are of sites that were added from a few controls of their own.
    """

    model: NormativeModel
    site_variance: SiteVariance = field(default_factory=lambda: SiteVariance({}, {}))
    null_counts: Counts | None = None
    sums: ValueSums | None = None
    squares: Mapping[str, Squares] = field(default_factory=dict)
    shifts: Mapping[str, SiteShift] = field(default_factory=dict)
    age_variance: AgeVariance = ONE_FOR_ALL
    bends: Bends | None = None

    @cached_property
    def null_map(self) -> NullMap | None:
        """The map of z that makes it standard normal in held-out controls."""
        return None if self.null_counts is None else fit_null_map(self.null_counts)

    def effect(self, values: Array, people: Coded) -> NDArray[np.float32]:
        """Values [m, V] minus their prediction from the covariates."""
        effect = np.asarray(values - self.model.expected(people.covariates), dtype=np.float32)
        for site, shift in self.shifts.items():
            effect[people.sites == site] -= shift.shift
        return effect

    def z(self, values: Array, people: Coded) -> NDArray[np.float32]:
        """z [m, V] of people who are not among the controls."""
        model, spread = self.model, people.spread * self.age_variance.of(people.age_years)
        z = z_scores(model, values, people.covariates, spread * self.site_variance.of(people.sites))
        for site, shift in self.shifts.items():
            rows = np.flatnonzero(people.sites == site)
            if len(rows):
                covariates = people.covariates[rows]
                deviations = values[rows] - model.expected(covariates)
                z[rows] = shift.z(deviations, covariates, model.sd, model.gram_inverse, model.dof, spread[rows])
        return z if self.null_map is None else self.null_map(z)
