"""`kind: pca`: the expectation is the projection on the principal components of healthy volumes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.core.memory import announce_memory
from gen3d.imaging.plan import GridPlan
from gen3d.models.base import BaseModelConfig, Statistics, VolumeSet
from gen3d.models.normative.linear import LinearModel, least_squares_weights


class PCAConfig(BaseModelConfig):
    """Principal components of the standardised values inside the mask, all channels together."""

    kind: Literal["pca"] = Field("pca", description="principal components")
    num_components: int = Field(20, gt=0, description="components kept; fewer than the training volumes")
    covariates: bool = Field(False, description="regress out age, age squared, sex and site first; false: the mean")

    @property
    def form(self) -> str:
        return f"{self.num_components} components"

    @property
    def closed_form(self) -> bool:
        return True

    @property
    def uses_covariates(self) -> bool:
        return self.covariates

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """n volumes about their mean span n - 1 dimensions."""
        if self.num_components >= num_volumes:
            raise UserError(
                f"model.num_components={self.num_components} needs more than {self.num_components} training volumes, "
                f"a member has {num_volumes}; lower model.num_components."
            )

    def build(self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int) -> PCAModel:
        """The unfitted model."""
        return PCAModel(statistics, self.num_components, num_covariates if self.covariates else 0)


class PCAModel(LinearModel):
    """expectation = covariates @ coefficients + (x - covariates @ coefficients) V' V, with V [k, V] orthonormal rows."""

    coefficients: Tensor
    components: Tensor
    component_std: Tensor

    def __init__(self, statistics: Statistics, num_components: int, num_covariates: int) -> None:
        super().__init__(statistics)
        self.uses_covariates = num_covariates > 0
        self.register_buffer("coefficients", torch.zeros(max(1, num_covariates), self.num_values))
        self.register_buffer("components", torch.zeros(num_components, self.num_values))
        self.register_buffer("component_std", torch.zeros(num_components))

    def fit(self, volumes: VolumeSet) -> None:
        """Dual PCA: eigenvectors of the n x n Gram matrix of residuals, so that no V x V matrix is ever formed.

        With H the design's projector, the residuals are R = (I - H) X and R R' = (I - H) X X' (I - H). If U, s are the
        eigenvectors and root eigenvalues of R R', the components are s^-1 U' R = s^-1 U' X, as U lies in the range
        of I - H. Volumes are read in blocks, pair by pair for the Gram matrix and once more for the components.
        """
        what = f"the inner products of {volumes.num_volumes} training volumes (pca)"
        announce_memory(what, 5 * 8 * volumes.num_volumes**2, "train on fewer people or with model=voxelwise")
        design = np.ones((volumes.num_volumes, 1)) if not self.uses_covariates else volumes.covariates
        assert design is not None, "a model with covariates was given none"
        weights = least_squares_weights(design)
        outside = np.eye(volumes.num_volumes) - design @ weights
        gram = outside @ self._gram(volumes) @ outside
        values, vectors = np.linalg.eigh((gram + gram.T) / 2)
        num_components = len(self.components)
        kept = np.argsort(values)[::-1][:num_components]
        scale = np.sqrt(values[kept].clip(min=0))
        if scale[-1] <= 1e-6 * scale[0]:
            raise UserError(
                f"the training volumes span fewer than model.num_components={num_components} dimensions once the "
                "covariates are taken out; lower model.num_components or train on more people."
            )
        self._set(volumes, weights, vectors[:, kept] / scale)
        degrees_of_freedom = max(1, volumes.num_volumes - np.linalg.matrix_rank(design))
        self.component_std.copy_(torch.from_numpy(scale / np.sqrt(degrees_of_freedom)))

    def _gram(self, volumes: VolumeSet) -> np.ndarray:
        gram = np.zeros((volumes.num_volumes, volumes.num_volumes))
        blocks = list(volumes.blocks(self.block_size()))
        for number, rows in enumerate(blocks):
            first = self.to_vectors(volumes.load(rows))
            for columns in blocks[number:]:
                second = first if columns is rows else self.to_vectors(volumes.load(columns))
                product = _product(first, second)
                gram[np.ix_(rows, columns)] = product
                gram[np.ix_(columns, rows)] = product.T
        return gram

    def _set(self, volumes: VolumeSet, weights: np.ndarray, directions: np.ndarray) -> None:
        """Accumulate coefficients [p, V] and components [k, V] over one more pass."""
        combined = torch.from_numpy(np.vstack([weights, directions.T]))
        total = torch.zeros(len(combined), self.num_values, dtype=torch.float64)
        for rows in volumes.blocks(self.block_size()):
            total += combined[:, torch.from_numpy(rows)] @ self.to_vectors(volumes.load(rows)).double()
        self.coefficients.copy_(total[: len(weights)])
        self.components.copy_(_fixed_signs(total[len(weights) :]))

    def expect_vectors(self, vectors: Tensor, covariates: Tensor | None) -> Tensor:
        centre = self._centre(vectors, covariates)
        return centre + (vectors - centre) @ self.components.T @ self.components

    def _encode(self, volumes: Tensor, covariates: Tensor | None) -> Tensor:
        vectors = self.to_vectors(volumes)
        return (vectors - self._centre(vectors, covariates)) @ self.components.T

    def _centre(self, vectors: Tensor, covariates: Tensor | None) -> Tensor:
        if covariates is None:
            return self.coefficients.expand(len(vectors), -1)
        return (covariates.double() @ self.coefficients.double()).float()


def _product(first: Tensor, second: Tensor, chunk: int = 1 << 16) -> np.ndarray:
    """first @ second.T summed in float64 over chunks of columns."""
    total = torch.zeros(len(first), len(second), dtype=torch.float64)
    for start in range(0, first.shape[1], chunk):
        total += first[:, start : start + chunk].double() @ second[:, start : start + chunk].double().T
    return total.numpy()


def _fixed_signs(components: Tensor) -> Tensor:
    """Each row with its largest entry positive, so that a refit gives the same latents."""
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return components * torch.sign(largest)
