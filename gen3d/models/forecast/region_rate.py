"""`kind: region_rate`: a mixed model of every region's volume, realised by a deformation with exactly these volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from gen3d.imaging.deformation import exponential, reach_volumes, warp
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.within_person import region_log_changes
from gen3d.maths.slopes import reliability
from gen3d.models.base import Statistics
from gen3d.models.forecast.base import Future, KnownVisits
from gen3d.models.forecast.lessons import (
    LearnedForecaster,
    Lessons,
    array,
    covariate_blocks,
    measured_ratio,
    past_of,
)
from gen3d.models.forecast.realise import velocity_of_rates
from gen3d.models.forecast.settings import ForecastConfig

Values = NDArray[np.float64]
TOLERANCE, ACCEPTANCE = 0.002, 0.01
"""Of log volumes: what is aimed at, and what is taken after the last iteration."""


class RegionRateConfig(ForecastConfig):
    """Random intercept and slope of every region; the slope's mean depends on the conditions."""

    kind: Literal["region_rate"] = Field("region_rate", description="mixed model of every region's volume")

    @property
    def closed_form(self) -> bool:
        return True

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> RegionRate:
        """The unfitted model."""
        return RegionRate(self, plan, channels, statistics)


class RegionRate(LearnedForecaster):
    """rate of region r = conditions @ coefficients[:, r] + the person's own deviation, as far as it was measured.

    Laird and Ware 1982; the variance of rates between people against that of measurement (`ratios` [R]) is pooled partially
    over regions, as are the penalties of the conditions. A person's deviation is the best linear unbiased one.
    """

    coefficients: Tensor
    ratios: Tensor

    def __init__(
        self, config: RegionRateConfig, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics
    ) -> None:
        super().__init__(config, plan, channels, statistics)
        shape = (1 + self.num_covariates, self.num_regions)
        self.register_buffer("coefficients", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("ratios", torch.ones(self.num_regions, dtype=torch.float64))

    def learn(self, lessons: Lessons) -> None:
        """Ridge of all regions; penalties are pooled partially over them, too."""
        design = self._learn_centre(lessons.frame)
        ratio, ratios = measured_ratio(lessons, design)
        rates = lessons.known_regions.values
        fitted = lessons.ridge(design, covariate_blocks(self.num_covariates), ratio, rates)
        self.coefficients.copy_(torch.from_numpy(fitted.coefficients))
        self.ratios.copy_(torch.from_numpy(ratios))

    def region_rates(self, known: KnownVisits) -> Values:
        """Log volume change per year [R], NaN for a region without a voxel."""
        rates = self._covariates(known) @ array(self.coefficients)
        past = past_of(known, self.plan, self.mask)
        if past is not None:
            rates = rates + np.nan_to_num((past.regions - rates) * reliability(array(self.ratios), past.information))
        return self._with_voxels(known, rates)

    def region_changes(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> Values:
        return np.outer(np.asarray(years, np.float64), self.region_rates(known))

    def futures(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> list[Future]:
        changes = self.region_changes(known, years)
        return [
            self._realised(known, change) if np.nan_to_num(change).any() else self._unchanged(known)
            for change in changes
        ]

    def _realised(self, known: KnownVisits, change: Values) -> Future:
        """The scan with these volumes by `reach_volumes`, as planted atrophy is; by a velocity of these rates where the grid is too
        coarse for so many regions."""
        labels = known.labels
        targets = {label: float(value) for label, value in enumerate(change, start=1) if np.isfinite(value)}
        outside = (labels == 0).astype(np.float32)
        sigma = max(0.5, 1.4 / self.plan.spacing_mm)
        try:
            reached = reach_volumes(
                labels, targets, outside, sigma_voxels=sigma, tolerance=TOLERANCE, acceptance=ACCEPTANCE
            )
        except ValueError:
            uniform = np.concatenate([[0.0], np.nan_to_num(change)])[labels].astype(np.float32)
            velocity = velocity_of_rates(uniform, labels, change, labels > 0)
            return self._futures(known, velocity, [1.0])[0]
        image = warp(np.asarray(known.volume("t1w"), np.float32), exponential(-reached.velocity))
        log_change = reached.log_jacobian
        regions = region_log_changes(log_change, labels, self.num_regions)
        return Future((image * self.mask).astype(np.float32), log_change, regions)
