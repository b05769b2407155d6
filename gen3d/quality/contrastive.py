"""Train brain features by telling people apart: two changed views of one scan shall be closer than those of two people.

Contrastive instance discrimination with the NT-Xent loss (Chen et al. 2020, "SimCLR"). All crops of a step are taken at one
place of the template, so that anatomy has to be told apart and not the place in the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from gen3d.core.config import Config
from gen3d.core.progress import track
from gen3d.nets.extractors import BrainFeatures, z_scored

ROTATION_DEGREES, LOG_SCALE, SHIFT_VOXELS = 8.0, 0.06, 1.5
GAIN, OFFSET, NOISE = 0.1, 0.1, 0.1
"""Standard deviations of the changes of a view; intensities are those of a z-scored brain."""

PROJECTION = 64

Load = Callable[[NDArray[np.int64]], Tensor]


class SelfTrained(Config):
    """Brain features trained here, on real scans, without labels; no weights are needed from anywhere."""

    kind: Literal["self"] = Field("self", description="trained here by telling real people apart")
    steps: int = Field(100, gt=0, description="training steps")
    batch_size: int = Field(12, ge=4, description="people per step, two views each")
    crop_voxels: int = Field(24, ge=16, description="side of the cube that a view shows, voxels")
    learning_rate: float = Field(3e-3, gt=0, description="of Adam")
    temperature: float = Field(0.2, gt=0, description="of NT-Xent")
    seed: int = Field(0, ge=0, description="of initial weights, views and order")


def train_features(config: SelfTrained, load: Load, num_scans: int, mask: Tensor) -> BrainFeatures:
    """Train on real scans, and take the scale of every feature from them.

    Args:
        config: settings; they and the scans determine the result.
        load: rows -> T1w volumes [B, X, Y, Z] in stored units, one scan per person.
        num_scans: rows that there are.
        mask: brain mask [X, Y, Z].

    Returns:
        the network; its buffer `recognised` is the share of views in the last quarter of the training whose nearest view
        was that of the same scan.
    """
    generator = torch.Generator().manual_seed(config.seed)
    network = untrained(config.seed)
    with _drawn_from(config.seed + 1):
        head = nn.Sequential(nn.BatchNorm1d(network.num_features), nn.Linear(network.num_features, PROJECTION))
    parameters = [*network.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    size, recognised = min(config.batch_size, num_scans), []
    for step in track(range(config.steps), "training the extractor"):
        rows = torch.randperm(num_scans, generator=generator)[:size].numpy()
        volumes = z_scored(load(rows), mask)
        centre = _centre(mask, config.crop_voxels, generator)
        crops = torch.cat([view(volumes, centre, config.crop_voxels, generator) for _ in range(2)])
        projected = head(network.pooled(crops, torch.ones_like(crops[:1])))
        loss, share = nt_xent(projected, config.temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step >= 3 * config.steps // 4:
            recognised.append(share)
    network.requires_grad_(False).eval()
    network.recognised.fill_(float(np.mean(recognised)))
    take_scale(network, load, num_scans, mask)
    return network


def take_scale(network: BrainFeatures, load: Load, num_scans: int, mask: Tensor) -> None:
    """Let real scans set the scale of every feature."""
    with torch.no_grad():
        network.set_scale(torch.cat([network.raw(load(np.array([row])), mask) for row in range(num_scans)]))


def untrained(seed: int) -> BrainFeatures:
    """The network with initial weights that depend on the seed alone."""
    with _drawn_from(seed):
        return BrainFeatures()


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Initial weights made in this context depend on the seed alone, and disturb no other random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def nt_xent(projected: Tensor, temperature: float) -> tuple[Tensor, float]:
    """The loss of two views each of B scans [2 B, d], views of one scan B rows apart; and how many views found their twin."""
    unit = nn.functional.normalize(projected.float(), dim=1)
    similarity = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    half = len(unit) // 2
    twin = torch.arange(2 * half, device=unit.device).roll(half)
    share = float((similarity.detach().argmax(dim=1) == twin).float().mean())
    return nn.functional.cross_entropy(similarity, twin), share


def view(volumes: Tensor, centre: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A turned, scaled, shifted cube around one place of every volume, brightness changed and noise added.

    [B, X, Y, Z] -> [B, 1, side, side, side].
    """
    num = len(volumes)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    turns = _rotations(torch.deg2rad(ROTATION_DEGREES * normal(num, 3)))
    cube = turns * torch.exp(LOG_SCALE * normal(num, 1, 3)) * (side / 2)
    shape = torch.tensor(volumes.shape[1:], dtype=torch.float32)
    middle = (centre + SHIFT_VOXELS * normal(num, 3)) * 2 / shape - 1
    # grid_sample counts axes from the last one.
    theta = torch.cat([(cube * 2 / shape[:, None]).flip(1, 2), middle.flip(1)[:, :, None]], dim=2)
    grid = nn.functional.affine_grid(theta, [num, 1, side, side, side], align_corners=False)
    crops = nn.functional.grid_sample(volumes[:, None], grid, align_corners=False)
    gain, offset, noise = (sd * normal(num, 1, 1, 1, 1) for sd in (GAIN, OFFSET, NOISE))
    return crops * torch.exp(gain) + offset + noise.abs() * normal(*crops.shape)


def _rotations(angles: Tensor) -> Tensor:
    """Rotation matrices [B, 3, 3] of angles [B, 3] about the three axes."""
    skew = torch.zeros(len(angles), 3, 3)
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        skew[:, first, second], skew[:, second, first] = -angles[:, axis], angles[:, axis]
    return torch.matrix_exp(skew)


def _centre(mask: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A place inside the brain [3], in voxels, around which a cube lies inside the grid as far as it fits."""
    places = torch.nonzero(mask)
    place = places[torch.randint(len(places), (1,), generator=generator)[0]].float()
    shape = torch.tensor(mask.shape, dtype=torch.float32)
    half = torch.minimum(torch.tensor(side / 2), shape / 2)
    return torch.minimum(torch.maximum(place + 0.5, half), shape - half)
