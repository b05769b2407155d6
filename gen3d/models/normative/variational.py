"""What autoencoders with a Gaussian posterior share: an expectation decoded from the posterior's mean or from draws of it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from gen3d.models.base import Expectation, Model


class VariationalModel(Model):
    """A model with `posterior` and `decode`; both work on standardised volumes."""

    @abstractmethod
    def posterior(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clamped log variance [B, *latent], float32, of standardised volumes [B, C, X, Y, Z]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, *latent] -> standardised volumes [B, C, X, Y, Z]."""

    def _expect(
        self, volumes: Tensor, covariates: Tensor | None, samples: int, generator: torch.Generator | None
    ) -> Expectation:
        mean, log_variance = self.posterior(self.normalise(volumes))
        if samples == 0:
            return Expectation(self.denormalise(self.decode(mean)), None)
        total = torch.zeros_like(volumes)
        squares = torch.zeros_like(volumes)
        scale = torch.exp(0.5 * log_variance)
        for _ in range(samples):
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            decoded = self.denormalise(self.decode(mean + scale * noise))
            total += decoded
            squares += decoded.square()
        average = total / samples
        if samples == 1:
            return Expectation(average, None)
        variance = (squares / samples - average.square()).clamp(min=0) * (samples / (samples - 1))
        return Expectation(average, variance.sqrt())

    def _encode(self, volumes: Tensor, covariates: Tensor | None) -> Tensor:
        return self.posterior(self.normalise(volumes))[0]
