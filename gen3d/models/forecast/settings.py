"""Settings that every forecaster shares: what it is conditioned on, and which pairs of visits it learns from."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from gen3d.cohort.coding import Coding
from gen3d.models.base import BaseModelConfig


class ForecastConfig(BaseModelConfig):
    """A model that says how a scan will look after some years, learned from people who came more than once."""

    material: ClassVar[Literal["scans", "latents", "labels", "visits", "latent_visits", "stages"]] = "visits"
    written_by_train: ClassVar[tuple[str, ...]] = ("coding", "longest_years")

    conditions: tuple[str, ...] = Field(
        ("age_years", "sex", "diagnosis"),
        description="columns of the cohort table that change may depend on; one with a single value is left out",
    )
    calibration: float = Field(
        0.25,
        gt=0,
        lt=0.6,
        description="with cross_fit=1: share of the people with visits who are kept out of the training; their errors become "
        "the intervals. With cross_fit=K everybody is kept out of one member",
    )
    min_years: float = Field(
        0.25, gt=0, description="years between the visits of a pair, at least: closer ones show no rate"
    )
    across_scanners: bool = Field(
        False, description="also learn from visits at different sites, where a change may be the scanner's"
    )
    backward: bool = Field(
        True, description="also learn the rate from the later scan of a pair, as of a change back in time"
    )
    permuted: int = Field(
        0,
        ge=0,
        description="further members trained with the times of visits permuted: a control that must forecast nothing",
    )
    error_draws: int = Field(
        16, ge=2, description="draws per forecast of a person kept out, from a model that draws: their SD is the spread"
    )
    coding: dict[str, Any] = Field(default_factory=dict, description="written by gen3d: how conditions become numbers")
    longest_years: float = Field(
        0.0, ge=0, description="written by gen3d: longest time between two visits learned from"
    )

    @model_validator(mode="after")
    def _distinct(self) -> ForecastConfig:
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions={list(self.conditions)} names a column twice")
        return self

    @property
    def coded(self) -> Coding:
        """How conditions become numbers."""
        return Coding.from_dict(self.coding)

    @property
    def form(self) -> str:
        return ", ".join(self.coded.names) if self.coding else ""

    @property
    def has_expectation(self) -> bool:
        return False

    @property
    def used_with(self) -> str:
        return "gen3d forecast"

    @property
    def learned(self) -> dict[str, Any]:
        """The settings that floors of the same run share with its model."""
        names = (
            "conditions",
            "calibration",
            "min_years",
            "across_scanners",
            "backward",
            "permuted",
            *ForecastConfig.written_by_train,
        )
        return {name: getattr(self, name) for name in names}

    def fitting(self, num_people: int) -> ForecastConfig:
        """The settings for members that learn from so many people, at least."""
        return self
