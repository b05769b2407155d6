"""What the network of a deformation rate optimises: what the measured rates have beyond the ridge's prediction."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.cohort.regions import regions_on
from gen3d.models.forecast.deformation_rate import DeformationRate, DeformationRateConfig
from gen3d.models.task import Batch, Losses, Task
from gen3d.nets.precision import without_autocast
from gen3d.nets.unet import UNet


class DeformationRateTask(Task):
    """loss = error of the rate map + weight x error of regional rates + weight x (mean rate over the brain)^2.

    All are in units of the SD of measured rates. A pair counts by the square of its years, as the variance of a rate is that of
    a measurement divided by it. The last term is the prior that fluid takes up what tissue loses, so that the brain and its
    fluid keep their outline.

    `batch.volumes` are scans with the measured rate map as a further, last channel; `batch.conditions` indicators;
    `batch.labels` [B] the weight of every pair.
    """

    exact_on_cpu = True

    def __init__(self, model: DeformationRate, config: DeformationRateConfig, num_steps: int) -> None:
        super().__init__()
        self.model, self.config = model, config
        labels = torch.as_tensor(np.array(regions_on(model.plan), dtype=np.int64).ravel())
        self.register_buffer("labels", labels)
        self.register_buffer(
            "sizes", torch.as_tensor(np.bincount(regions_on(model.plan).ravel(), minlength=model.num_regions + 1))
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        channels, *sides = self.model.volume_shape
        return (channels + 1, *sides)

    def repeated_blocks(self) -> list[nn.Module]:
        return cast(UNet, self.model.network).blocks()

    def weights(self, player: str) -> nn.Module:
        return self.model

    def forward(self, batch: Batch, player: str) -> Losses:
        model, volumes = self.model, batch.volumes[:, :-1]
        target = batch.volumes[:, -1].float()
        unknown = volumes.new_full((len(volumes), model.num_covariates), torch.nan)
        covariates = model.coded(batch.conditions if batch.conditions is not None else unknown)
        with torch.no_grad(), without_autocast(volumes.device):
            ridge = model.map_of(model.predicted(volumes.float(), covariates)[:, : model.num_voxels])
        added = model.added(volumes, covariates, ridge)
        weight = batch.labels.float() if batch.labels is not None else volumes.new_ones(len(volumes))
        with without_autocast(volumes.device):
            mask, num = model.brain_mask, model.num_voxels
            rate, wanted = (values * mask / model.rate_sd for values in (ridge + added, target))
            wrong = rate - wanted
            error = (weight * wrong.square().flatten(1).sum(dim=1) / num).mean()
            regions = (weight * self._regional(wrong).square().mean(dim=1)).mean()
            outline = (rate.flatten(1).sum(dim=1) / num).square().mean()
            loss = error + self.config.region_weight * regions + self.config.fluid_weight * outline
        return {"loss": loss, "error": error.detach(), "regions": regions.detach(), "outline": outline.detach()}

    def _regional(self, maps: Tensor) -> Tensor:
        """Means [B, regions] of maps [B, X, Y, Z] over the regions; 0 where a region has no voxel."""
        labels, sizes = cast(Tensor, self.labels), cast(Tensor, self.sizes)
        sums = maps.new_zeros((len(maps), len(sizes))).index_add(1, labels, maps.flatten(1))
        return (sums / sizes.clamp(min=1))[:, 1:]
