"""`kind: copy_forward`: nothing changes. The floor that every forecaster has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.forecast.base import Future, KnownVisits
from gen3d.models.forecast.lessons import LearnedForecaster, Lessons
from gen3d.models.forecast.settings import ForecastConfig


class CopyForwardConfig(ForecastConfig):
    """The scan is carried forward as it is."""

    kind: Literal["copy_forward"] = Field("copy_forward", description="the scan as it is: no change")

    @property
    def form(self) -> str:
        return "no change"

    @property
    def closed_form(self) -> bool:
        return True

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> CopyForward:
        """The model, which has nothing to learn."""
        return CopyForward(self, plan, channels, statistics)


class CopyForward(LearnedForecaster):
    """Every future is the scan."""

    def learn(self, lessons: Lessons) -> None:
        """Nothing."""

    def futures(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> list[Future]:
        return [self._unchanged(known) for _ in years]
