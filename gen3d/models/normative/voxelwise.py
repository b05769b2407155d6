"""`kind: voxelwise`: the expectation is a regression of every voxel on age, sex and site. No network, no latent."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Statistics, VolumeSet
from gen3d.models.normative.linear import LinearModel, least_squares_weights


class VoxelwiseConfig(BaseModelConfig):
    """Voxelwise normative regression: the mean volume, moved by the person's covariates."""

    kind: Literal["voxelwise"] = Field("voxelwise", description="regression of every voxel")
    covariates: bool = Field(True, description="regress on age, age squared, sex and site; false: the plain mean")

    @property
    def form(self) -> str:
        return "age, sex and site per voxel" if self.covariates else "mean per voxel"

    @property
    def closed_form(self) -> bool:
        return True

    @property
    def uses_covariates(self) -> bool:
        return self.covariates

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """A regression needs more volumes than it has terms; the design's own check is stricter."""
        if num_volumes < 3:
            raise UserError(f"a voxelwise model needs at least 3 training volumes, there are {num_volumes}.")

    def build(
        self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int
    ) -> VoxelwiseModel:
        """The unfitted model."""
        return VoxelwiseModel(statistics, num_covariates if self.covariates else 0)


class VoxelwiseModel(LinearModel):
    """coefficients [p, V] of the standardised values; without covariates the one row is the mean."""

    coefficients: Tensor
    has_latent = False

    def __init__(self, statistics: Statistics, num_covariates: int) -> None:
        super().__init__(statistics)
        self.uses_covariates = num_covariates > 0
        self.register_buffer("coefficients", torch.zeros(max(1, num_covariates), self.num_values))

    def fit(self, volumes: VolumeSet) -> None:
        """Ordinary least squares of every voxel at once, one pass over the volumes."""
        design = _design_of(volumes, self.uses_covariates)
        weights = torch.from_numpy(least_squares_weights(design.numpy()))
        total = torch.zeros(len(weights), self.num_values, dtype=torch.float64)
        for rows in volumes.blocks(self.block_size()):
            vectors = self.to_vectors(volumes.load(rows))
            total += weights[:, torch.from_numpy(rows)] @ vectors.double()
        self.coefficients.copy_(total)

    def expect_vectors(self, vectors: Tensor, covariates: Tensor | None) -> Tensor:
        if covariates is None:
            return self.coefficients.expand(len(vectors), -1)
        return (covariates.double() @ self.coefficients.double()).float()


def _design_of(volumes: VolumeSet, uses_covariates: bool) -> Tensor:
    if not uses_covariates:
        return torch.ones(volumes.num_volumes, 1, dtype=torch.float64)
    assert volumes.covariates is not None, "a model with covariates was given none"
    return torch.as_tensor(volumes.covariates, dtype=torch.float64)
