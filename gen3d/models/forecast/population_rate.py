"""`kind: population_rate`: everybody changes as people of that age, sex and diagnosis do on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.forecast.base import Future, KnownVisits
from gen3d.models.forecast.lessons import LearnedForecaster, Lessons, array, covariate_blocks, measured_ratio
from gen3d.models.forecast.settings import ForecastConfig

Values = NDArray[np.float64]


class PopulationRateConfig(ForecastConfig):
    """The mean rate of change of every voxel, by ridge on the conditions."""

    kind: Literal["population_rate"] = Field("population_rate", description="mean rate of people with these conditions")

    @property
    def closed_form(self) -> bool:
        return True

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> PopulationRate:
        """The unfitted model."""
        return PopulationRate(self, plan, channels, statistics)


class PopulationRate(LearnedForecaster):
    """rates = conditions @ coefficients [1 + p, V + R], of voxels and of regions; penalties chosen by leaving out people.

    Regions have their own coefficients, because a map loses some of a small region's change on the way to a person's voxels.
    """

    coefficients: Tensor

    def __init__(
        self, config: PopulationRateConfig, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics
    ) -> None:
        super().__init__(config, plan, channels, statistics)
        num_outcomes = self.num_voxels + self.num_regions
        self.register_buffer("coefficients", torch.zeros(1 + self.num_covariates, num_outcomes))

    def learn(self, lessons: Lessons) -> None:
        """Weighted ridge of all voxels and regions at once."""
        design = self._learn_centre(lessons.frame)
        ratio, _ = measured_ratio(lessons, design)
        fitted = lessons.ridge(design, covariate_blocks(self.num_covariates), ratio, lessons.rates)
        self.coefficients.copy_(torch.from_numpy(fitted.coefficients))

    def rates(self, known: KnownVisits) -> tuple[Values, Values]:
        """Rates per year of the V voxels and the R regions (NaN without a voxel)."""
        rates: Values = self._covariates(known) @ array(self.coefficients).astype(np.float64)
        return rates[: self.num_voxels], self._with_voxels(known, rates[self.num_voxels :])

    def region_changes(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> Values:
        return np.outer(np.asarray(years, np.float64), self.rates(known)[1])

    def futures(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> list[Future]:
        voxels, regions = self.rates(known)
        return self._futures(known, self._velocity(known, self._as_map(voxels), regions), years)
