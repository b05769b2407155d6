"""What one channel of values needs to judge a person: the model of controls, factors of sites, and the empirical null."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.controls import Coded
from gen3d.anomaly.calibration.empirical_null import Counts, NullMap, fit_null_map
from gen3d.anomaly.calibration.normative import NormativeModel, z_scores
from gen3d.anomaly.calibration.site_variance import SiteVariance
from gen3d.anomaly.calibration.sums import ValueSums

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ChannelNorm:
    """The model of one channel's V values.

    `null_counts` is the histogram of held-out z of controls (`empirical_null.count`), None where z is not mapped; `sums` are
    those that the model came from, None where they are not at hand.
    """

    model: NormativeModel
    site_variance: SiteVariance = field(default_factory=lambda: SiteVariance({}, {}))
    null_counts: Counts | None = None
    sums: ValueSums | None = None

    @cached_property
    def null_map(self) -> NullMap | None:
        """The map of z that makes it standard normal in held-out controls."""
        return None if self.null_counts is None else fit_null_map(self.null_counts)

    def effect(self, values: Array, people: Coded) -> NDArray[np.float32]:
        """Values [m, V] minus their prediction from the covariates."""
        return np.asarray(values - self.model.expected(people.covariates), dtype=np.float32)

    def z(self, values: Array, people: Coded) -> NDArray[np.float32]:
        """z [m, V] of people who are not among the controls."""
        scale = people.spread * self.site_variance.of(people.sites)
        z = z_scores(self.model, values, people.covariates, scale)
        return z if self.null_map is None else self.null_map(z)
