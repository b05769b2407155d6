"""Decoding in tiles: equal where a decoder sees only its own voxel, close where it sees neighbours, and without edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gen3d.imaging.plan import GridPlan
from gen3d.models.base import Statistics
from gen3d.models.normative.vae import VAEConfig
from gen3d.synthesis import tiling
from gen3d.synthesis.tiling import BLEND, CONTEXT, SMALLEST_TILE, TiledDecoder, starts


class Pointwise(nn.Module):
    """Doubles every side; each voxel depends on one latent voxel, so that tiles cannot differ from the whole."""

    def decode(self, latents: Tensor) -> Tensor:
        doubled = nn.functional.interpolate(latents, scale_factor=2, mode="nearest")
        return torch.cat([doubled.square().sum(1, keepdim=True), doubled[:, :1]], dim=1)


@pytest.mark.parametrize("tile", [SMALLEST_TILE, SMALLEST_TILE + 1, 17, 40])
def test_every_voxel_gets_its_own_value(tile: int) -> None:
    latents = torch.randn((2, 3, 21, 12, 30), generator=torch.Generator().manual_seed(0))
    whole = Pointwise().decode(latents)
    torch.testing.assert_close(TiledDecoder(Pointwise(), tile).decode(latents), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("side", "tile"), [(12, 12), (13, 12), (24, 12), (40, 12), (57, 16), (20, 19), (100, 33)])
def test_tiles_cover_a_side_and_share_enough(side: int, tile: int) -> None:
    found = starts(side, tile)
    assert found[0] == 0
    assert found[-1] + min(tile, side) == side
    steps = np.diff(found)
    assert (steps > 0).all()
    assert (steps <= tile - 2 * CONTEXT - BLEND).all()


def small_vae() -> nn.Module:
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in np.eye(4))
    plan = GridPlan(spacing_mm=4.0, shape=(36, 48, 36), affine=rows)
    blank = Statistics(np.zeros(1, np.float32), np.ones(1, np.float32), np.ones(plan.shape, bool))
    torch.manual_seed(0)
    vae = VAEConfig(latent="spatial", base_channels=8, max_channels=8, levels=1).build(plan, ("t1w",), blank, 1)
    for parameter in vae.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.05)
    return vae.eval()


def blocks() -> Tensor:
    """Latents whose level differs from place to place, so that a tile's own mean and variance are not the volume's."""
    coarse = torch.randn((2, 4, 5, 6, 5), generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, (18, 24, 18))


@torch.no_grad()
def test_with_enough_context_tiles_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """This decoder reaches 5 latent voxels far. The tiles share the volume's statistics in its three normalisations."""
    network = small_vae().network
    whole = network.decode(blocks())  # type: ignore[operator]
    monkeypatch.setattr(tiling, "CONTEXT", 5)
    tiled = TiledDecoder(network, 15)  # type: ignore[arg-type]
    torch.testing.assert_close(tiled.decode(blocks()), whole, rtol=1e-4, atol=1e-5)
    other = blocks().flip(2) + 1
    torch.testing.assert_close(tiled.decode(other), small_vae().network.decode(other), rtol=1e-4, atol=1e-5)  # type: ignore[operator]


@torch.no_grad()
def test_with_the_usual_context_there_are_no_seams() -> None:
    network = small_vae().network
    whole = network.decode(blocks())  # type: ignore[operator]
    error = TiledDecoder(network, 14).decode(blocks()) - whole  # type: ignore[arg-type]
    assert 0 < float(error.abs().mean()) < 0.003 * float(whole.std())
    assert float(error.diff(dim=2).abs().max()) < 0.02 * float(whole.diff(dim=2).abs().max()), "an edge between tiles"


@torch.no_grad()
def test_a_small_latent_is_decoded_whole() -> None:
    vae = small_vae()
    latents = torch.randn((1, 4, 18, 24, 18), generator=torch.Generator().manual_seed(1))
    whole = vae.network.decode(latents)  # type: ignore[operator]
    torch.testing.assert_close(TiledDecoder(vae.network, 24).decode(latents), whole)  # type: ignore[arg-type]
