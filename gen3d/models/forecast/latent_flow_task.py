"""What a latent flow optimises: the change of a person's latent, estimated from every place of the path to the later scan."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gen3d.models.forecast.latent_flow import LatentFlow, LatentFlowConfig
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.precision import without_autocast

PLACE, START, NOISE, FORGET = 21, 22, 23, 24
"""Stream numbers of the places, who stands at the start, the noise, and the forgotten conditions (see `Batch.noise`)."""

YEARS = 1
"""Numbers in front of the earlier visits' years in a row of a batch's conditions: the years to the target."""


class LatentFlowTask(Task):
    """loss = |change - (z1 - z0)|^2 in units of the usual change, averaged: about 1 for a model that forecasts none.

    `batch.volumes` are the latents of the scan, of the later one and of the earlier visits, [B, (2 + past) C, ...];
    `batch.conditions` [B, 1 + past + p] the years to the later scan and what `LatentFlow.change` calls conditions. The term
    `copy_forward` is the loss of no change on the same pairs. Only the network is trained and moved to the device.
    """

    def __init__(self, model: LatentFlow, config: LatentFlowConfig, num_steps: int) -> None:
        super().__init__()
        self._whole = (model,)  # a tuple, so that torch does not register the autoencoder as part of the task
        self.config = config
        self.denoiser = model.denoiser

    @property
    def input_shape(self) -> tuple[int, ...]:
        num_channels, *sides = self._whole[0].latent_shape
        return ((2 + self.config.past) * num_channels, *sides)

    def repeated_blocks(self) -> list[nn.Module]:
        return self.denoiser.blocks()

    def weights(self, player: str) -> nn.Module:
        return self.denoiser

    def complete(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        whole = self._whole[0].state_dict()
        return whole | {f"denoiser.{name}": tensor for name, tensor in tensors.items()}

    def forward(self, batch: Batch, player: str) -> Losses:
        model = self._on(batch.volumes.device)
        latents = batch.volumes.unflatten(1, (-1, model.latent_shape[0]))
        start, past = latents[:, 0], latents[:, 2:]
        years, conditions = self._conditions(batch)
        target = model.offset(latents[:, 1], start)
        place = torch.special.ndtr(batch.noise((), PLACE))
        begins = torch.special.ndtr(batch.noise((), START)) < self.config.start_share
        place = torch.where(begins, torch.zeros_like(place), place)
        along = place.view(-1, 1, 1, 1, 1)
        offset = along * target
        if self.config.bridge_noise:
            noise = batch.noise(target.shape[1:], NOISE)
            offset = offset + (along * (1 - along)).sqrt() * model.noise_scale(years) * noise
        change = model.change(offset, place, start, past, years, conditions)
        with without_autocast(change.device):
            error = (change.float() - target).square().mean()
            return {"loss": error, "copy_forward": target.square().mean().detach()}

    def _on(self, device: torch.device) -> LatentFlow:
        """The model, with the small buffers that a step needs on the device of the batch."""
        model = self._whole[0]
        for name in ("change_std", "typical_years", "latent_mean", "latent_std", "mean_latent"):
            setattr(model, name, getattr(model, name).to(device))
        return model

    def _conditions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Years [B], and the other conditions, of which some pairs forget all and every pair may forget single ones."""
        num = self.config.past + len(self._whole[0].coding.covariates)
        if batch.conditions is None:  # in the plan of a step
            nothing = batch.volumes.new_full((len(batch.seeds), num), torch.nan)
            return batch.volumes.new_ones(len(batch.seeds)), nothing
        conditions = batch.conditions[:, YEARS:]
        forgotten = torch.special.ndtr(batch.noise((num + 1,), FORGET)) < self.config.condition_dropout
        kept = torch.where(forgotten[:, 1:] | forgotten[:, :1], torch.nan, conditions)
        return batch.conditions[:, 0], kept
