"""Material and measures of `sampling.py`: latents of known statistics, networks for them, distances with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from diffusion_step import Arrays
from torch import Tensor

from gen3d.models.diffusion.latent_diffusion import LatentDiffusion
from gen3d.models.diffusion.noising import Noising, clean
from gen3d.models.diffusion.samplers import SAMPLERS, SPACING, Denoise

SHAPE = (3, 8, 8, 8)
SHARE, OFFSET, DETAIL = 0.6, 0.5, 0.2
"""Share of the first of two groups, half the distance between their means, and standard deviation of the white detail."""
PER_CALL = 50
NUM_RESAMPLED = 500


def _waves(frequency: int) -> Tensor:
    """A smooth pattern [C, X, Y, Z] of unit mean square that differs from channel to channel."""
    x, y, z = (torch.arange(side) * torch.pi * frequency / side for side in SHAPE[1:])
    waves = [
        torch.cos(x + channel)[:, None, None] * torch.cos(y - channel)[:, None] * torch.cos(z)
        for channel in range(SHAPE[0])
    ]
    pattern = torch.stack(waves)
    return pattern / pattern.square().mean().sqrt()


def draw_known(num: int, seed: int) -> Tensor:
    """Latents [num, *SHAPE] of two groups: +-OFFSET times a pattern, smooth individual variation, and white detail."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.where(torch.rand(num, 1, 1, 1, 1, generator=generator) < SHARE, 1.0, -1.0)
    coarse = torch.randn(num, SHAPE[0], *(side // 2 for side in SHAPE[1:]), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=SHAPE[1:], mode="trilinear", align_corners=True)
    detail = DETAIL * torch.randn(num, *SHAPE, generator=generator)
    return OFFSET * group * _waves(1) + smooth + detail


def share_of_group(latents: Tensor) -> float:
    """Share of latents on the side of the first group."""
    return float(((latents.cpu() * _waves(1)).flatten(1).sum(1) > 0).float().mean())


def detail_of(latents: Tensor) -> float:
    """Standard deviation of the finest Haar detail (differences over all three axes), to which only white detail contributes."""
    values = latents.cpu()
    for axis in (2, 3, 4):
        even, odd = (
            values.index_select(axis, _every(values, axis, 0)),
            values.index_select(axis, _every(values, axis, 1)),
        )
        values = (even - odd) / np.sqrt(2)
    return float(values.square().mean().sqrt())


def _every(values: Tensor, axis: int, first: int) -> Tensor:
    return torch.arange(first, values.shape[axis] - values.shape[axis] % 2, 2)


def train(model: LatentDiffusion, latents: Tensor, steps: int, batch_size: int, device: str) -> None:
    """Train a model's denoiser on latents with our task and engine; the averaged weights stay in the model."""
    from gen3d.train.augment import AugmentConfig
    from gen3d.train.batches import Batches
    from gen3d.train.engine.config import EngineConfig
    from gen3d.train.engine.start import start_engine
    from gen3d.train.optim import OptimConfig

    model.latent_mean.copy_(latents.mean((0, 2, 3, 4)))
    model.latent_std.copy_(latents.std((0, 2, 3, 4)))
    optim = OptimConfig(steps=steps, batch_size=batch_size)
    engine = start_engine(EngineConfig(device=device, precision="fp32"), model.config.task_of(model, steps), optim)
    rows = np.arange(len(latents))
    batches = Batches(Arrays(latents.numpy()), rows, batch_size, 1, (0, 0), AugmentConfig(), engine.device)
    for step in range(steps):
        engine.backward(engine.forward(batches.at(step, 0), "model"), "model", 0, 1)
        engine.update("model", step)
    batches.close()
    model.denoiser.load_state_dict(engine.export())
    model.to(engine.device).eval()


class Network(Protocol):
    """Interface that a sampler needs of a network."""

    noising: Noising
    latent_shape: tuple[int, ...]

    def estimate(self, conditions: Tensor) -> Denoise:
        """x_t, t -> the estimate of the clean standardised latents."""

    def unstandardise(self, latents: Tensor) -> Tensor:
        """Standardised latents in the units of the data."""


class Learned:
    """The network of a model."""

    def __init__(self, model: LatentDiffusion) -> None:
        self.model, self.noising, self.latent_shape = model, model.noising, model.latent_shape

    def estimate(self, conditions: Tensor) -> Denoise:
        model, noising = self.model, self.noising
        device = model.latent_mean.device
        conditions = conditions.to(device)

        def denoise(x: Tensor, time: float) -> Tensor:
            t = torch.full((len(x),), time, dtype=torch.float64, device=device)
            output = model.denoiser(x.to(device), noising.position(t), conditions)
            return clean(model.config.predicted, output, x.to(device), noising.alpha(t), noising.sigma(t))

        return denoise

    def unstandardise(self, latents: Tensor) -> Tensor:
        return self.model.unstandardise(latents.to(self.model.latent_mean))


class Exact:
    """The best denoiser of `draw_known`, in closed form: both groups are Gaussian, with one covariance in every channel."""

    latent_shape = SHAPE

    def __init__(self, noising: Noising) -> None:
        self.noising = noising
        impulses = torch.eye(64).reshape(64, 1, *(side // 2 for side in SHAPE[1:]))
        blur = torch.nn.functional.interpolate(impulses, size=SHAPE[1:], mode="trilinear", align_corners=True).flatten(
            1
        )
        covariance = blur.double().T @ blur.double() + DETAIL**2 * torch.eye(blur.shape[1])
        mean = OFFSET * _waves(1).double().flatten(1)
        # One scale for all, near the standard deviation, so that it sees the noise levels that a network sees.
        self.scale = float((covariance.diagonal().mean() + mean.square().mean()).sqrt())
        self.variances, self.axes = torch.linalg.eigh(covariance / self.scale**2)
        self.mean = mean / self.scale @ self.axes

    def estimate(self, conditions: Tensor) -> Denoise:
        logit = float(np.log(SHARE / (1 - SHARE)))

        def denoise(x: Tensor, time: float) -> Tensor:
            alpha, sigma = self.noising.at(time)
            total = alpha**2 * self.variances + sigma**2
            along = x.flatten(2).double() @ self.axes
            belief = torch.tanh(0.5 * logit + alpha * (along * self.mean / total).sum((1, 2)))[:, None, None]
            mean = belief * self.mean
            return ((mean + alpha * self.variances / total * (along - alpha * mean)) @ self.axes.T).view_as(x).to(x)

        return denoise

    def unstandardise(self, latents: Tensor) -> Tensor:
        return self.scale * latents


@dataclass(frozen=True)
class Row:
    """A sampler and its number of steps, and the noising whose network it samples from.

    `clipped`: the estimate of the clean data is clipped to [-1, 1], as MONAI's DDPMScheduler does by default.
    """

    noising: str
    sampler: str
    steps: int
    clipped: bool = False

    @property
    def evaluations(self) -> int:
        """Calls of the network per sample."""
        return 2 * self.steps - 1 if self.sampler == "heun" else self.steps

    def times(self, noising: Noising) -> Tensor:
        """The sampler's times, spaced as suits it."""
        return noising.times(self.steps, spacing=SPACING[self.sampler])

    def sample(self, network: Network, conditions: Tensor, first: Tensor, times: Tensor, seed: int) -> Tensor:
        """Standardised latents at the last of `times`, from standard normals."""
        generator, best = torch.Generator().manual_seed(seed), network.estimate(conditions)

        def denoise(x: Tensor, time: float) -> Tensor:
            return best(x, time).clamp(-1, 1) if self.clipped else best(x, time)

        def fresh(step: int) -> Tensor:
            return torch.randn(first.shape, generator=generator).to(first)

        with torch.no_grad():
            return SAMPLERS[self.sampler](denoise, first, network.noising, times, fresh)


def sampled(row: Row, network: Network, conditions: Tensor, device: str) -> Tensor:
    """Latents in the units of the data, one per row of conditions [n, p]; the same first noise whatever the sampler."""
    parts = []
    for place, part in enumerate(conditions.split(PER_CALL)):
        generator = torch.Generator().manual_seed(1000 + place)
        first = torch.randn((len(part), *network.latent_shape), generator=generator).to(device)
        latents = row.sample(network, part, first, row.times(network.noising), 2000 + place)
        parts.append(network.unstandardise(latents).cpu())
    return torch.cat(parts)


class Distances:
    """Energy distance of sets of samples to held-out data, relative to its largest value, with bootstrap intervals.

    1 - (E|X - X'| + E|Y - Y'|) / (2 E|X - Y|) (Szekely and Rizzo 2013, section 4) over pairs of different items, so that
    its mean is about 0 when both sets come from one distribution. Resampling draws items, the same places for all sets
    (sample k of every sampler begins at the same noise), and leaves out pairs of an item with itself.
    """

    def __init__(self, held_out: Tensor, seed: int = 0) -> None:
        self.held_out = held_out.flatten(1)
        self.rng = np.random.default_rng(seed)
        self.weights: dict[int, np.ndarray] = {}
        self.within = self._distances(self.held_out, self.held_out)

    def of(self, samples: Tensor) -> np.ndarray:
        """[1 + NUM_RESAMPLED]: the distance, then its resampled values."""
        flat = samples.flatten(1)
        own, between = self._distances(flat, flat), self._distances(flat, self.held_out)
        mine, theirs = self._counts(len(flat), 0), self._counts(len(self.held_out), 1)
        within = _over_pairs(own, mine) + _over_pairs(self.within, theirs)
        crossed = np.einsum("ri,ij,rj->r", mine, between, theirs) / (mine.sum(1) * theirs.sum(1))
        return 1 - within / (2 * crossed)

    def _counts(self, num: int, which: int) -> np.ndarray:
        """How often each item is drawn; first everybody once."""
        key = 2 * num + which
        if key not in self.weights:
            drawn = self.rng.multinomial(num, np.full(num, 1 / num), NUM_RESAMPLED)
            self.weights[key] = np.concatenate([np.ones((1, num)), drawn])
        return self.weights[key]

    @staticmethod
    def _distances(first: Tensor, second: Tensor) -> np.ndarray:
        return torch.cdist(first.double(), second.double()).numpy()


def _over_pairs(distances: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean distance over pairs of different items, for every row of counts."""
    pairs = counts.sum(1) ** 2 - (counts**2).sum(1)
    return np.einsum("ri,ij,rj->r", counts, distances, counts) / pairs


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values, moved so that their mean is the value itself.

    The distance between two resampled sets is larger on average, because each lacks the items that were not drawn.
    """
    moved = values[1:] - values[1:].mean() + values[0]
    return float(np.quantile(moved, 0.025)), float(np.quantile(moved, 0.975))


def floor_of(first: Tensor, second: Tensor) -> tuple[float, float]:
    """The middle 95 % of the distance between two real sets of this size: random halves of both together."""
    pool, rng = torch.cat([first, second]), np.random.default_rng(0)
    distances = torch.cdist(pool.flatten(1).double(), pool.flatten(1).double()).numpy()
    values = []
    for _ in range(NUM_RESAMPLED):
        left, right = np.split(rng.permutation(2 * len(first)), 2)
        own = [distances[np.ix_(part, part)].sum() / (len(part) * (len(part) - 1)) for part in (left, right)]
        values.append(1 - sum(own) / (2 * distances[np.ix_(left, right)].mean()))
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


STATISTICS: dict[str, Callable[[Tensor], float]] = {"group 1": share_of_group, "detail": detail_of}
