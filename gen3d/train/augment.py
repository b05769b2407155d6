"""Small random changes of training volumes that keep a healthy brain healthy."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from gen3d.core.config import Config
from gen3d.models.task import Batch

AUGMENTATION_NOISE = 2
"""Stream number of augmentation's noise (see `Batch.noise`)."""

INTENSITY_CHANNEL = "t1w"


class AugmentConfig(Config):
    """Augmentation, done on the device from per-volume seeds. All off by default."""

    flip: bool = Field(False, description="mirror half of the volumes left to right")
    intensity: float = Field(
        0.0, ge=0, le=0.3, description="standard deviation of a random change of t1w brightness and contrast"
    )


def augment(batch: Batch, channels: tuple[str, ...], config: AugmentConfig) -> Batch:
    """The batch with each volume mirrored and its t1w channel rescaled at random.

    The grid's x axis is centred on the mid-sagittal plane, so that mirroring is a flip of that axis. The
    log-Jacobian is a measurement and keeps its values.
    """
    if not config.flip and config.intensity == 0:
        return batch
    noise = batch.noise((3,), AUGMENTATION_NOISE)
    volumes = batch.volumes
    if config.flip:
        mirrored = (noise[:, 0] > 0).view(-1, 1, 1, 1, 1)
        volumes = torch.where(mirrored, volumes.flip(2), volumes)
    if config.intensity > 0 and INTENSITY_CHANNEL in channels:
        index = channels.index(INTENSITY_CHANNEL)
        volumes = volumes.clone()
        t1w = volumes[:, index]
        gain = torch.exp(config.intensity * noise[:, 1]).view(-1, 1, 1, 1)
        gamma = torch.exp(config.intensity * noise[:, 2]).view(-1, 1, 1, 1)
        volumes[:, index] = gain * t1w.clamp(min=0) ** gamma
    return replace(batch, volumes=volumes)
