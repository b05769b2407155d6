"""Synthetic anomalies for training: what a healthy volume might look like with something wrong in it.

A network that sees the corrupted volume and must give back the healthy one learns to restore (denoising autoencoders for
anomaly detection: Kascenas et al. 2022, MIDL, "Denoising autoencoders for unsupervised anomaly detection in brain MRI";
implanted anomalies as the task: Tan et al. 2022, MELBA, "Detecting outliers with foreign patch interpolation").
Shapes, sizes, places and intensities are random and wider than any disease, so that no disease is learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from pydantic import Field, model_validator
from torch import Tensor

from gen3d.core.config import Config
from gen3d.models.task import Batch

PARAMETERS, TEXTURE = 3, 4
"""Stream numbers of the corruption's noise (see `Batch.noise`)."""

NUM_PARAMETERS, LATTICE = 16, 6
REACH = 2.0
"""A blob ends within this many of its radii."""

MIRRORED, DARK = 0.3, 0.5
"""Share of anomalies with a mirror image on the other side; share of fillings that are darker than the tissue."""

LARGEST_LEVEL, LARGEST_LOG_CHANGE = 1.3, 0.7
"""Brightest filling (white matter is 1), and largest change of a log-Jacobian (a factor of two)."""


class CorruptionConfig(Config):
    """How training volumes are corrupted. Everything is drawn per volume and step from the run's seed."""

    most: int = Field(
        3, ge=1, le=20, description="largest number of anomalies in a volume; the number is drawn from 0 on"
    )
    volume_ml: tuple[float, float] = Field(
        (0.2, 60.0), description="smallest and largest anomaly, ml, log-uniform between"
    )
    weight: float = Field(
        1.0, ge=0, description="extra weight of the error inside anomalies; 0: every voxel counts alike"
    )

    @model_validator(mode="after")
    def _ordered(self) -> CorruptionConfig:
        if not 0 < self.volume_ml[0] <= self.volume_ml[1]:
            raise ValueError("volume_ml is the smallest and the largest volume, both above 0")
        return self


def corrupt(
    batch: Batch, mask: Tensor, channels: Sequence[str], voxel_ml: float, config: CorruptionConfig
) -> tuple[Tensor, Tensor]:
    """Volumes with anomalies, and where they are.

    Args:
        batch: volumes [B, C, X, Y, Z] in stored units; its seeds decide everything random.
        mask: brain [X, Y, Z]; anomalies are centred in it and end at its border.
        channels: names of the C channels. `t1w` is filled or shifted; any other channel gets a smooth bump.
        voxel_ml: volume of a voxel, ml.
        config: how many and how large.

    Returns:
        Corrupted volumes [B, C, X, Y, Z] and opacity [B, 1, X, Y, Z] from 0 (untouched) to 1.
    """
    if batch.volumes.is_meta:  # an estimate of memory: shapes are all there is
        return batch.volumes, torch.zeros_like(batch.volumes[:, :1])
    parameters = 0.5 * (1 + torch.erf(batch.noise((config.most, NUM_PARAMETERS), PARAMETERS) / math.sqrt(2)))
    lattices = batch.noise((config.most, 2, LATTICE, LATTICE, LATTICE), TEXTURE)
    inside = mask.nonzero()
    volumes = batch.volumes.clone()
    opacity = torch.zeros_like(volumes[:, :1])
    for item in range(len(volumes)):
        wanted = int(parameters[item, 0, 0] * (config.most + 1))
        for draw, lattice in zip(parameters[item, :wanted].tolist(), lattices[item, :wanted], strict=True):
            _add(volumes[item], opacity[item, 0], inside, channels, voxel_ml, config, draw, lattice)
    return volumes * mask, opacity * mask


def _add(
    volume: Tensor,
    opacity: Tensor,
    inside: Tensor,
    channels: Sequence[str],
    voxel_ml: float,
    config: CorruptionConfig,
    draw: Sequence[float],
    lattice: Tensor,
) -> None:
    """One anomaly, in place, and its mirror image about the mid-sagittal plane in some."""
    low, high = (math.log(value) for value in config.volume_ml)
    radius = (3 / (4 * math.pi) * math.exp(low + draw[1] * (high - low)) / voxel_ml) ** (1 / 3)
    stretch = [math.exp(0.8 * (value - 0.5)) for value in draw[2:5]]
    mean = math.prod(stretch) ** (1 / 3)
    radii = [max(0.7, radius * value / mean) for value in stretch]
    centre = inside[min(int(draw[5] * len(inside)), len(inside) - 1)].tolist()
    centres = [centre]
    if draw[6] < MIRRORED:
        centres.append([volume.shape[1] - 1 - centre[0], *centre[1:]])
    for place in centres:
        box, alpha, texture = _blob(volume.shape[1:], place, radii, draw, lattice)
        opacity[box] = torch.maximum(opacity[box], alpha)
        for channel, name in enumerate(channels):
            values = volume[channel][box]
            if name == "t1w":
                volume[channel][box] = values + alpha * (_filling(values, draw, texture) - values)
            else:
                volume[channel][box] = values + alpha * LARGEST_LOG_CHANGE * (2 * draw[7] - 1)


def _filling(values: Tensor, draw: Sequence[float], texture: Tensor) -> Tensor:
    """What an anomaly looks like in T1w: a level of its own, or the tissue shifted; with texture."""
    if draw[8] < 0.7:
        top = float(values.mean()) if draw[9] < DARK else LARGEST_LEVEL
        filled = torch.full_like(values, draw[10] * top)
    else:
        filled = values + 0.6 * (draw[10] - 0.5) * 2
    return (filled + 0.1 * draw[11] * texture).clamp(min=0)


def _blob(
    shape: Sequence[int], centre: Sequence[int], radii: Sequence[float], draw: Sequence[float], lattice: Tensor
) -> tuple[tuple[slice, slice, slice], Tensor, Tensor]:
    """A box around an irregular ellipsoid, its opacity with soft edges, and a texture in the same box."""
    starts = [max(0, math.floor(c - REACH * r)) for c, r in zip(centre, radii, strict=True)]
    ends = [min(side, math.ceil(c + REACH * r) + 1) for c, r, side in zip(centre, radii, shape, strict=True)]
    axes = [
        (torch.arange(start, end, device=lattice.device) - c) / r
        for start, end, c, r in zip(starts, ends, centre, radii, strict=True)
    ]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()
    # grid_sample wants the last axis first, in units of half the lattice.
    fields = functional.grid_sample(
        lattice[None], places.flip(-1)[None] / REACH, mode="bilinear", padding_mode="border", align_corners=True
    )[0]
    distance = places.norm(dim=-1) + 0.35 * fields[0]
    softness = (0.3 + draw[12]) / min(radii)
    alpha = (0.3 + 0.7 * draw[13]) * torch.sigmoid((1 - distance) / (0.25 * softness))
    box = tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))
    return (box[0], box[1], box[2]), alpha, fields[1]
