"""Small random changes of training volumes that keep a brain what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from gen3d.core.config import Config
from gen3d.models.task import Batch

AUGMENTATION_NOISE = 2
"""Stream number of augmentation's noise (see `Batch.noise`)."""

INTENSITY_CHANNEL = "t1w"

SCANNER = ("motion", "blur", "bias_field", "noise", "gamma")
"""Settings of `AugmentConfig` that TorchIO carries out on the CPU, in this order."""


class AugmentConfig(Config):
    """Augmentation from per-volume seeds, the same in any number of processes. All off by default."""

    flip: bool = Field(False, description="mirror half of the volumes left to right")
    intensity: float = Field(
        0.0, ge=0, le=0.3, description="standard deviation of a random change of t1w brightness and contrast"
    )
    motion: float = Field(
        0.0, ge=0, le=20, description="t1w: two movements during the scan of up to so many degrees and voxels"
    )
    blur: float = Field(
        0.0, ge=0, le=5, description="t1w: largest standard deviation of a Gaussian blur, voxels (Liu et al. 2022: 1)"
    )
    bias_field: float = Field(
        0.0, ge=0, le=1, description="t1w: largest coefficient of the logarithm of a smooth bias field"
    )
    noise: float = Field(
        0.0, ge=0, le=0.5, description="t1w: largest standard deviation of added noise, white-matter median = 1"
    )
    gamma: float = Field(0.0, ge=0, le=1, description="t1w: largest logarithm of the power that values are raised to")
    share: float = Field(
        1.0, gt=0, le=1, description="share of the volumes that motion, blur, bias_field, noise and gamma each change"
    )

    @property
    def of_scans(self) -> tuple[str, ...]:
        """Names of the settings in use that change intensities of scans, and so have no meaning for latents."""
        return tuple(name for name in ("intensity", *SCANNER) if getattr(self, name) > 0)

    @property
    def changes(self) -> bool:
        """Whether volumes are changed at all."""
        return self.flip or bool(self.of_scans)


def augment(batch: Batch, channels: tuple[str, ...], config: AugmentConfig) -> Batch:
    """The batch with each volume mirrored and the intensities of its t1w channel changed at random.

    The grid's x axis is centred on the mid-sagittal plane, so that mirroring is a flip of that axis. The
    log-Jacobian is a measurement and keeps its values.
    """
    if not config.changes:
        return batch
    noise = batch.noise((3,), AUGMENTATION_NOISE)
    volumes = batch.volumes
    if config.flip:
        mirrored = (noise[:, 0] > 0).view(-1, 1, 1, 1, 1)
        volumes = torch.where(mirrored, volumes.flip(2), volumes)
    if config.of_scans and INTENSITY_CHANNEL in channels:
        index = channels.index(INTENSITY_CHANNEL)
        volumes = volumes.clone()
        amounts = {name: float(getattr(config, name)) for name in SCANNER if getattr(config, name) > 0}
        if amounts:
            volumes[:, index] = _scanned(volumes[:, index], amounts, config.share, batch.seeds)
        if config.intensity > 0:
            t1w = volumes[:, index]
            gain = torch.exp(config.intensity * noise[:, 1]).view(-1, 1, 1, 1)
            gamma = torch.exp(config.intensity * noise[:, 2]).view(-1, 1, 1, 1)
            volumes[:, index] = gain * t1w.clamp(min=0) ** gamma
    return replace(batch, volumes=volumes)


def _scanned(t1w: Tensor, amounts: Mapping[str, float], share: float, seeds: tuple[int, ...]) -> Tensor:
    """T1w volumes [B, X, Y, Z] with TorchIO's changes, volume by volume."""
    from gen3d.train.augment_torchio import scanned  # seconds to load, for trainings that use it

    changed = [scanned(volume, amounts, share, seed) for volume, seed in zip(t1w.cpu(), seeds, strict=True)]
    return torch.stack(changed).to(t1w.device)
