"""The interface of every model: volumes in, the healthy expectation of the same volumes out, in stored units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from gen3d.core.config import Config
from gen3d.imaging.plan import GridPlan
from gen3d.maths.design import Design
from gen3d.models import registry

Covariates = NDArray[np.float64]
"""Rows of a fitted design (gen3d.maths.design), [n, p], intercept included."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training volumes that a model is built from, in stored units.

    Mean and standard deviation of each channel over all training volumes inside the mask [C]; the mask [X, Y, Z]; and
    the mean volume [C, X, Y, Z], or None where the weights of the model hold it.
    """

    channel_mean: NDArray[np.float32]
    channel_std: NDArray[np.float32]
    mask: NDArray[np.bool_]
    mean_volume: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Expectation:
    """What a model expects: mean [B, C, X, Y, Z] in stored units, zero outside the mask.

    `std` is the spread of the expectation over posterior samples, or None for a model whose expectation is a point
    or with fewer than two samples. It is not the spread of the population.
    """

    mean: Tensor
    std: Tensor | None


@dataclass(frozen=True)
class VolumeSet:
    """The volumes a closed-form model is fitted to; reading them twice is allowed, holding them all is not needed.

    `load(rows)` returns [n, C, X, Y, Z] in stored units; `covariates` has one row per volume, or is None.
    """

    num_volumes: int
    load: Callable[[NDArray[np.int64]], Tensor]
    covariates: Covariates | None = None

    def blocks(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Row numbers in consecutive blocks of at most `size`."""
        for start in range(0, self.num_volumes, size):
            yield np.arange(start, min(start + size, self.num_volumes))


class Model(nn.Module, ABC):
    """A fitted or trainable normative model of volumes on one grid.

    Buffers `channel_mean`, `channel_std` [C] and `brain_mask` [X, Y, Z] are saved with the weights, so that stored
    units go in and come out and no argument can be forgotten.
    """

    channel_mean: Tensor
    channel_std: Tensor
    brain_mask: Tensor

    has_latent = True
    """Whether `encode` has an answer."""

    uses_covariates = False
    """Whether `expect` and `encode` need covariates."""

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        self.register_buffer("channel_mean", torch.as_tensor(statistics.channel_mean, dtype=torch.float32))
        self.register_buffer("channel_std", torch.as_tensor(statistics.channel_std, dtype=torch.float32))
        self.register_buffer("brain_mask", torch.as_tensor(statistics.mask, dtype=torch.bool))

    @property
    def volume_shape(self) -> tuple[int, ...]:
        """(C, X, Y, Z) of one volume."""
        return (len(self.channel_mean), *self.brain_mask.shape)

    def normalise(self, volumes: Tensor) -> Tensor:
        """Stored units -> zero mean and unit variance inside the mask, zero outside. [B, C, X, Y, Z]."""
        mean, std = (value.view(-1, 1, 1, 1) for value in (self.channel_mean, self.channel_std))
        return (volumes - mean) / std * self.brain_mask

    def denormalise(self, volumes: Tensor) -> Tensor:
        """The inverse of `normalise` inside the mask, zero outside."""
        mean, std = (value.view(-1, 1, 1, 1) for value in (self.channel_mean, self.channel_std))
        return (volumes * std + mean) * self.brain_mask

    @torch.no_grad()
    def expect(
        self,
        volumes: Tensor,
        covariates: Tensor | None = None,
        samples: int = 0,
        generator: torch.Generator | None = None,
    ) -> Expectation:
        """The healthy expectation of volumes.

        Args:
            volumes: [B, C, X, Y, Z] in stored units.
            covariates: [B, p] rows of the fitted design; models without `uses_covariates` ignore them.
            samples: draws from the posterior to average over; 0 decodes the posterior mean.
            generator: a CPU generator for those draws.
        """
        rows = self._checked(volumes, covariates)
        was_training = self.training
        self.eval()
        try:
            expectation = self._expect(volumes, rows, samples, generator)
        finally:
            self.train(was_training)
        assert expectation.mean.shape == volumes.shape, (expectation.mean.shape, volumes.shape)
        return expectation

    @torch.no_grad()
    def encode(self, volumes: Tensor, covariates: Tensor | None = None) -> Tensor:
        """The latent mean [B, ...] of volumes [B, C, X, Y, Z] in stored units."""
        assert self.has_latent, f"{type(self).__name__} has no latent space"
        rows = self._checked(volumes, covariates)
        was_training = self.training
        self.eval()
        try:
            return self._encode(volumes, rows)
        finally:
            self.train(was_training)

    @abstractmethod
    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        """`expect` after its checks."""

    def _encode(self, volumes: Tensor, covariates: Tensor | None) -> Tensor:
        raise AssertionError(f"{type(self).__name__} has no latent space")

    def _checked(self, volumes: Tensor, covariates: Tensor | None) -> Tensor | None:
        """The covariates the model uses: those given, or None for a model that has no use for them."""
        assert tuple(volumes.shape[1:]) == self.volume_shape, (tuple(volumes.shape), self.volume_shape)
        assert covariates is not None or not self.uses_covariates, f"{type(self).__name__} needs covariates"
        return covariates if self.uses_covariates else None


class ClosedFormModel(Model):
    """A model whose weights are computed, not trained."""

    @abstractmethod
    def fit(self, volumes: VolumeSet) -> None:
        """Compute the weights from the training volumes."""


class BaseModelConfig(Config):
    """What every model's settings offer to the verbs."""

    material: ClassVar[Literal["scans", "latents", "labels", "visits", "latent_visits", "stages", "modalities"]] = (
        "scans"
    )
    """What the model is trained on."""

    written_by_train: ClassVar[tuple[str, ...]] = ()
    """Fields that a user leaves out: training computes them and writes them into the run."""

    kind: str = Field("", description="which model")

    @property
    def title(self) -> str:
        """The kind in words, as the report and pictures call it."""
        return registry.title(self.kind)

    @property
    def form(self) -> str:
        """What distinguishes it among models of its kind, for tables; "" for nothing."""
        return ""

    @property
    def closed_form(self) -> bool:
        """Whether the model is fitted in one pass instead of trained in steps."""
        return False

    @property
    def uses_covariates(self) -> bool:
        """Whether the model needs age, sex and site of every person."""
        return False

    @property
    def has_expectation(self) -> bool:
        """Whether the model expects a scan to look like something; a classifier tells what it shows, a forecaster what comes."""
        return True

    @property
    def used_with(self) -> str:
        """The verbs that a run without an expectation is for, as a sentence names them."""
        return "gen3d classify or gen3d explain"

    @property
    def asks_for_healthy(self) -> bool:
        """Whether diagnosis is a condition set to healthy, so that training on patients does not make patients expected."""
        return False

    @property
    def variance_floor(self) -> float:
        """Least SD of a voxel when maps of this model are calibrated, as a share of the root mean square over voxels."""
        return 0.0

    def covariates_for(self, design: Design, age_years: Any, sex: Any, site: Any) -> NDArray[np.float64]:
        """Covariates of people of these ages, sexes and sites, [n, p]: rows of the fitted design."""
        return design.matrix(age_years, sex, site)

    def check(self, plan: GridPlan, num_volumes: int) -> None:
        """Raise a UserError when the model cannot be built for this grid or from so few volumes."""

    def build(self, plan: GridPlan, channels: tuple[str, ...], statistics: Statistics, num_covariates: int) -> Model:
        """The untrained model."""
        raise AssertionError(f"{type(self).__name__} defines no build()")

    def task_of(self, model: Any, num_steps: int) -> Any:
        """What is optimised when the model is trained in steps: the gen3d.models.task.Task that the registry names.

        A task imports its model, never the other way round.
        """
        return registry.task_class(self.kind)(model, self, num_steps)
