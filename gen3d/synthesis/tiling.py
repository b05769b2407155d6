"""Decoding latents piece by piece, when a whole volume's activations do not fit into memory.

A tile is decoded with latent voxels around it that are then dropped, because they lacked their own neighbours, and
neighbouring tiles fade into each other. Group normalisations would see the mean and variance of their tile instead of those
of the volume, which makes tiles differ in brightness. So the tiles are first run up to the first normalisation, to collect
the statistics of the volume there, then up to the second, which by now is right, and so on. Decoding takes about half as
many times longer as there are normalisations, and gives what decoding the whole gives, but for what reaches further than
the context (as attention does).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gen3d.models.diffusion.latent_diffusion import LatentDiffusion

CONTEXT = 4
"""Latent voxels at a tile's border, towards other tiles, that are decoded and dropped."""

BLEND = 2
"""Latent voxels over which one tile fades into the next."""

SMALLEST_TILE = 2 * CONTEXT + 2 * BLEND

Corner = tuple[int, ...]


class TiledDecoder(nn.Module):
    """A decoder in tiles of at most `tile` latent voxels along each side, in place of the network that it wraps."""

    def __init__(self, network: nn.Module, tile: int) -> None:
        super().__init__()
        self.network, self.tile = network, tile
        self.norms = nn.ModuleList(_share_norms(network))

    def __getattr__(self, name: str) -> Any:
        """Everything but decoding is the wrapped network's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, x, y, z] -> [B, C', X, Y, Z], each side as many times larger as the network makes it."""
        self._collect(latents)
        total: Tensor | None = None
        for corner, piece, weight in self._tiles(latents):
            decoded = cast(Any, self.network).decode(piece).float()
            scale = decoded.shape[2] // piece.shape[2]
            if total is None:
                total = decoded.new_zeros((*decoded.shape[:2], *(scale * side for side in latents.shape[2:])))
            x, y, z = (
                slice(scale * at, scale * (at + length)) for at, length in zip(corner, piece.shape[2:], strict=True)
            )
            total[..., x, y, z] += decoded * functional.interpolate(weight, scale_factor=scale, mode="trilinear")
        for norm in self.norms:
            cast(SharedNorm, norm).end()
        assert total is not None
        return total

    def _collect(self, latents: Tensor) -> None:
        """Give every normalisation the statistics of the whole volume, one after another."""
        for norm in self.norms:
            cast(SharedNorm, norm).begin()
        while True:
            reached: SharedNorm | None = None
            for _, piece, weight in self._tiles(latents):
                try:
                    cast(Any, self.network).decode(piece)
                except _Collecting as stop:
                    reached = stop.norm
                    reached.collect(stop.grouped, weight)
            if reached is None:
                return
            reached.share()

    def _tiles(self, latents: Tensor) -> Iterator[tuple[Corner, Tensor, Tensor]]:
        """Corner, latents and weight [1, 1, x, y, z] of each tile; the weights of all tiles add up to 1 in every voxel."""
        sides = latents.shape[2:]
        spans = [starts(side, self.tile) for side in sides]
        profiles = [_profiles(side, self.tile).to(latents) for side in sides]
        for places in itertools.product(*(range(len(span)) for span in spans)):
            corner = tuple(span[place] for span, place in zip(spans, places, strict=True))
            x, y, z = (slice(at, at + self.tile) for at in corner)
            weight = torch.einsum("x,y,z->xyz", *(p[place] for p, place in zip(profiles, places, strict=True)))
            yield corner, latents[..., x, y, z], weight[None, None]


class SharedNorm(nn.Module):
    """A group normalisation (Wu and He 2018) over all tiles of a volume. Until it has their statistics, no tile gets past."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.end()

    def begin(self) -> None:
        """Let no tile past, for the statistics of a volume."""
        self.end()
        self._in_tiles = True

    def end(self) -> None:
        """Be the group normalisation that this was."""
        self._in_tiles = False
        self._sums: Tensor | None = None
        self._statistics: tuple[Tensor, Tensor] | None = None

    def forward(self, features: Tensor) -> Tensor:
        if not self._in_tiles:
            return cast(Tensor, self.norm(features))
        grouped = features.float().unflatten(1, (self.norm.num_groups, -1))
        if self._statistics is None:
            raise _Collecting(self, grouped)
        mean, inverse_sd = (value.view(*value.shape, 1, 1, 1, 1) for value in self._statistics)
        normalised = ((grouped - mean) * inverse_sd).flatten(1, 2)
        gain, offset = (value.view(1, -1, 1, 1, 1) for value in (self.norm.weight, self.norm.bias))
        return (normalised * gain + offset).to(features.dtype)

    def collect(self, grouped: Tensor, weight: Tensor) -> None:
        """Add the weighted count, sum and sum of squares of a tile's features [B, groups, C / groups, x, y, z].

        Args:
            weight: of the tile's latent voxels, [1, 1, x, y, z].
        """
        fine = functional.interpolate(weight.float(), grouped.shape[3:], mode="nearest")[:, :, None]
        parts = (torch.ones_like(grouped), grouped, grouped.square())
        sums = torch.stack([(part * fine).flatten(2).double().sum(2) for part in parts])
        self._sums = sums if self._sums is None else self._sums + sums

    def share(self) -> None:
        """Normalise with what was collected, from now on."""
        assert self._sums is not None
        total, values, squares = self._sums.unbind()
        mean = values / total
        variance = (squares / total - mean.square()).clamp(min=0)
        self._statistics = mean.float(), torch.rsqrt(variance.float() + self.norm.eps)


class _Collecting(Exception):
    """A tile has come to a normalisation that still collects."""

    def __init__(self, norm: SharedNorm, grouped: Tensor) -> None:
        super().__init__()
        self.norm, self.grouped = norm, grouped


def starts(side: int, tile: int) -> list[int]:
    """First latent voxel of each tile along a side: evenly spread, neighbours sharing their contexts and what they blend."""
    if side <= tile:
        return [0]
    num = -(-(side - tile) // (tile - 2 * CONTEXT - BLEND)) + 1
    return [round(index * (side - tile) / (num - 1)) for index in range(num)]


def _profiles(side: int, tile: int) -> Tensor:
    """Weights [tiles, voxels] of each tile along a side: 0 in its context, rising over the blend, 1 in sum."""
    corners, length = starts(side, tile), min(tile, side)
    place = torch.arange(length) + 0.5 - CONTEXT
    weights = torch.zeros(len(corners), side)
    for row, at in enumerate(corners):
        profile = torch.ones(length)
        if at > 0:
            profile = profile.minimum((place / BLEND).clamp(min=0))
        if at + length < side:
            profile = profile.minimum((place.flip(0) / BLEND).clamp(min=0))
        weights[row, at : at + length] = profile
    weights /= weights.sum(0)
    return torch.stack([weights[row, at : at + length] for row, at in enumerate(corners)])


def _share_norms(module: nn.Module) -> list[SharedNorm]:
    """Put a shared normalisation in the place of every group normalisation below a module."""
    shared = []
    for name, below in list(module.named_children()):
        if isinstance(below, nn.GroupNorm):
            shared.append(SharedNorm(below))
            setattr(module, name, shared[-1])
        else:
            shared += _share_norms(below)
    return shared


def decode_in_tiles(model: LatentDiffusion, tile: int) -> None:
    """Let the model decode in tiles of `tile` latent voxels from now on; a latent no larger than that is decoded whole."""
    if any(side > tile for side in model.latent_shape[1:]):
        model.autoencoder.network = TiledDecoder(cast(nn.Module, model.autoencoder.network), tile)
