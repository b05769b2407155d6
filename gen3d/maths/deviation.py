"""How far a latent vector is from those of controls: Mahalanobis distance on a few principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from gen3d.core.errors import UserError
from gen3d.maths.left_out import left_out_together

PEOPLE_PER_COMPONENT = 5
MIN_PEOPLE = 5

Array = NDArray[np.floating]


@dataclass(frozen=True)
class DeviationModel:
    """Mean [d], principal axes [k, d], and the inverse covariance of the scores on them [k, k]."""

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    precision: NDArray[np.float64]
    num_people: int

    @property
    def num_components(self) -> int:
        """Number of principal components used."""
        return len(self.axes)


def fit_deviation(latents: Array, max_components: int = 20) -> DeviationModel:
    """Fit on the latents [n, d] of held-out controls: PCA to k <= n / 5, then Ledoit and Wolf 2004 covariance.

    Raises UserError with fewer than 5 people, or latents that do not vary.
    """
    values = np.asarray(latents, dtype=np.float64)
    num = len(values)
    if num < MIN_PEOPLE:
        raise UserError(f"{num} controls are too few for a latent deviation: give at least {MIN_PEOPLE}.")
    mean = values.mean(axis=0)
    centred = values - mean
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    scale = max(float(np.abs(values).max()), np.finfo(float).tiny)
    varying = int(np.sum(singular > 1e-7 * scale * np.sqrt(num)))
    if varying == 0:
        raise UserError("The latents of the controls are all the same: the model has collapsed or was never trained.")
    axes = axes[: min(max_components, num // PEOPLE_PER_COMPONENT, varying)]
    covariance = LedoitWolf(assume_centered=True).fit(centred @ axes.T)
    return DeviationModel(mean, axes, np.asarray(covariance.precision_), num)


def deviation(model: DeviationModel, latents: Array) -> NDArray[np.float64]:
    """Mahalanobis distance D [m] of latents [m, d]."""
    scores = (np.asarray(latents, dtype=np.float64) - model.mean) @ model.axes.T
    squared = np.einsum("mk,kl,ml->m", scores, model.precision, scores)
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def held_out_deviation(latents: Array, max_components: int = 20) -> NDArray[np.float64]:
    """D [n] of each control from a model fitted on the other n - 1, or without a group of them (`left_out_together`).

    All n latents lie in a space of at most n dimensions, so they are rotated into it once; the refits then cost the
    same for any d and give the same distances.
    """
    values = np.asarray(latents, dtype=np.float64)
    if values.shape[1] > values.shape[0]:
        _, _, basis = np.linalg.svd(values, full_matrices=False)
        values = values @ basis.T
    distances = np.empty(len(values))
    for group in left_out_together(len(values)):
        others = np.ones(len(values), dtype=bool)
        others[group] = False
        distances[group] = deviation(fit_deviation(values[others], max_components), values[group])
    return distances
