"""What a VAE optimises: its own losses, and those of its critic when there is one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from gen3d.models.normative import losses
from gen3d.models.normative.vae import VAE, VAEConfig
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.autoencoder import LOG_VARIANCE_RANGE
from gen3d.nets.critic import frozen, patch_critic
from gen3d.nets.perceptual import PerceptualDistance
from gen3d.nets.precision import without_autocast

POSTERIOR_NOISE = 1
"""Stream number of the posterior's noise (see `Batch.noise`)."""


class VAETask(Task):
    """Players: `model`, and `critic` from `adversarial_start` on when `adversarial_weight` > 0."""

    def __init__(self, model: VAE, config: VAEConfig, num_steps: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.num_steps = num_steps
        self.critic: nn.Module | None = None
        if config.adversarial_weight > 0:
            self.critic = patch_critic(model.volume_shape[0], config.critic_channels, config.critic_layers)
            self.players = ("model", "critic")
        self.perceptual: nn.Module | None = None
        if config.perceptual_weight > 0:
            self.perceptual = PerceptualDistance(config.perceptual_network, cast(Path, config.perceptual_weights))

    def repeated_blocks(self) -> list[nn.Module]:
        return self.model.network.blocks()

    def weights(self, player: str) -> nn.Module:
        return self.model if player == "model" else cast(nn.Module, self.critic)

    def playing(self, step: int) -> tuple[str, ...]:
        return self.players if step >= self.config.adversarial_start * self.num_steps else ("model",)

    def forward(self, batch: Batch, player: str) -> Losses:
        target = self.model.normalise(batch.volumes)
        if player == "critic":
            return self._critic_losses(target, batch)
        return self._model_losses(target, batch)

    def _model_losses(self, target: Tensor, batch: Batch) -> Losses:
        """loss = reconstruction + beta(step) KL / number of values + the optional terms."""
        config, mask = self.config, self.model.brain_mask
        reconstruction, mean, log_variance = self._reconstruct(target, batch)
        batch.shared["reconstruction"] = reconstruction.detach()
        with without_autocast(target.device):
            terms = {"reconstruction": losses.reconstruction_loss(reconstruction, target, mask, config.reconstruction)}
            kl = losses.kl_to_standard_normal(mean, log_variance)
            num_values = mask.sum() * target.shape[1]
            beta = losses.beta_at(batch.step, self.num_steps, config.beta, config.beta_warmup)
            loss = terms["reconstruction"] + beta * losses.kl_with_free_bits(kl, config.free_bits) / num_values
            terms["kl"] = kl.flatten(1).sum(1).mean().detach()
            terms["clipped"] = losses.share_clipped(log_variance, *LOG_VARIANCE_RANGE)
            if config.ssim_weight > 0:
                terms["ssim"] = losses.ssim_loss(reconstruction, target, mask)
                loss = loss + config.ssim_weight * terms["ssim"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(reconstruction, target)
            loss = loss + config.perceptual_weight * terms["perceptual"]
        if "critic" in self.playing(batch.step):
            terms["adversarial"] = self._adversarial(reconstruction)
            loss = loss + config.adversarial_weight * terms["adversarial"]
        return {"loss": loss, **terms}

    def _reconstruct(self, target: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """One draw from the posterior, decoded and masked; also the posterior's mean and log variance."""
        mean, log_variance = self.model.posterior(target)
        noise = batch.noise(mean.shape[1:], POSTERIOR_NOISE)
        latents = mean + torch.exp(0.5 * log_variance) * noise
        return self.model.decode(latents) * self.model.brain_mask, mean, log_variance

    def _adversarial(self, reconstruction: Tensor) -> Tensor:
        critic = cast(nn.Module, self.critic)
        with frozen(critic):
            scores = critic(reconstruction)[-1]
        return losses.critic_targets(scores, real=True)

    def _critic_losses(self, target: Tensor, batch: Batch) -> Losses:
        critic = cast(nn.Module, self.critic)
        reconstruction = batch.shared.get("reconstruction")
        if reconstruction is None:
            with torch.no_grad():
                reconstruction = self._reconstruct(target, batch)[0]
        real = losses.critic_targets(critic(target)[-1], real=True)
        fake = losses.critic_targets(critic(reconstruction.to(target.dtype))[-1], real=False)
        return {"loss": 0.5 * (real + fake), "real": real.detach(), "fake": fake.detach()}
