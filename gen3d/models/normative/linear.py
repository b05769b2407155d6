"""Shared arithmetic of the closed-form models: volumes as vectors of masked, standardised values."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d.models.base import ClosedFormModel, Covariates, Expectation, Statistics

MAX_BLOCK_BYTES = 1 << 29
"""Volumes held at once while fitting."""


class LinearModel(ClosedFormModel):
    """A closed-form model on vectors [n, V] of the standardised values inside the mask, channels one after another."""

    def __init__(self, statistics: Statistics) -> None:
        super().__init__(statistics)
        self.num_values = int(statistics.mask.sum()) * len(statistics.channel_mean)

    def block_size(self) -> int:
        """Volumes per block, so that a block stays within `MAX_BLOCK_BYTES`."""
        return max(1, MAX_BLOCK_BYTES // (4 * int(np.prod(self.volume_shape))))

    def to_vectors(self, volumes: Tensor) -> Tensor:
        """[B, C, X, Y, Z] in stored units -> [B, V]."""
        return self.normalise(volumes)[:, :, self.brain_mask].flatten(1)

    def to_volumes(self, vectors: Tensor) -> Tensor:
        """[B, V] -> [B, C, X, Y, Z] in stored units, zero outside the mask."""
        volumes = vectors.new_zeros((len(vectors), *self.volume_shape))
        volumes[:, :, self.brain_mask] = vectors.unflatten(1, (self.volume_shape[0], -1))
        return self.denormalise(volumes)

    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        return Expectation(self.to_volumes(self.expect_vectors(self.to_vectors(volumes), covariates)), None)

    def expect_vectors(self, vectors: Tensor, covariates: Tensor | None) -> Tensor:
        """The expectation of vectors [B, V]."""
        raise AssertionError(f"{type(self).__name__} defines no expect_vectors()")


def least_squares_weights(covariates: Covariates) -> NDArray[np.float64]:
    """The matrix W [p, n] with coefficients = W @ values: the pseudo-inverse of the design [n, p].

    The pseudo-inverse gives a column without variation (a site that these people do not have) the coefficient 0.
    """
    return np.asarray(np.linalg.pinv(covariates, rcond=1e-10), dtype=np.float64)
