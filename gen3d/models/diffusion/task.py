"""What a latent diffusion model optimises: telling noise from latents at every noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gen3d.models.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from gen3d.models.diffusion.noising import draw_times, snr_weight, target
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.precision import without_autocast

TIME, NOISE, FORGET = 11, 12, 13
"""Stream numbers of the times, the noise, and the forgotten conditions (see `Batch.noise`)."""


class LatentDiffusionTask(Task):
    """loss = weight(t) |prediction - target|^2, averaged; `batch.volumes` are latents, `batch.conditions` coded rows.

    Only the denoiser is trained and moved to the device: the autoencoder stays where it is until it is exported again.
    """

    centre: Tensor
    latent_std: Tensor

    def __init__(self, model: LatentDiffusion, config: LatentDiffusionConfig, num_steps: int) -> None:
        super().__init__()
        self._whole = (model,)  # a tuple, so that torch does not register the autoencoder as part of the task
        self.config, self.noising = config, model.noising
        self.denoiser = model.denoiser
        self.register_buffer("centre", model.latent_mean.view(-1, 1, 1, 1) + model.mean_latent)
        self.register_buffer("latent_std", model.latent_std.view(-1, 1, 1, 1).clone())

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._whole[0].latent_shape

    def repeated_blocks(self) -> list[nn.Module]:
        return self.denoiser.blocks()

    def weights(self, player: str) -> nn.Module:
        return self.denoiser

    def complete(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        whole = self._whole[0].state_dict()
        return whole | {f"denoiser.{name}": tensor for name, tensor in tensors.items()}

    def forward(self, batch: Batch, player: str) -> Losses:
        x0 = (batch.volumes - self.centre) / self.latent_std
        noise = batch.noise(x0.shape[1:], NOISE)
        t = draw_times(self.config.times, batch.noise((), TIME), self.config.time_shift)
        alpha, sigma = (value.view(-1, 1, 1, 1, 1) for value in (self.noising.alpha(t), self.noising.sigma(t)))
        output = self.denoiser(alpha * x0 + sigma * noise, self.noising.position(t), self._conditions(batch))
        with without_autocast(x0.device):
            predicted = self.config.predicted
            error = (output.float() - target(predicted, x0, noise, alpha, sigma)).square().flatten(1).mean(1)
            weight = snr_weight(predicted, alpha.flatten(), sigma.flatten(), self.config.snr_gamma)
            return {"loss": (weight * error).mean(), "error": error.mean().detach()}

    def _conditions(self, batch: Batch) -> Tensor:
        """The batch's conditions, of which some volumes forget all and every volume may forget single ones."""
        num = len(self._whole[0].coding.covariates)
        conditions = (
            batch.conditions if batch.conditions is not None else batch.volumes.new_zeros((len(batch.seeds), num))
        )
        drawn = batch.noise((num + 1,), FORGET)
        forgotten = torch.special.ndtr(drawn) < self.config.condition_dropout
        return torch.where(forgotten[:, 1:] | forgotten[:, :1], torch.nan, conditions)
