"""The networks: shapes, receptive structure of the stem, and checkpointing that changes nothing."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import AutoencoderKL

from gen3d.nets.autoencoder import Architecture, Autoencoder, DenseAutoencoder, SpatialAutoencoder

SHAPE = (16, 8, 16)


def build(kind: str, stem: int = 2, gradient_checkpointing: bool = False) -> Autoencoder:
    torch.manual_seed(0)
    architecture = Architecture(2, (8, 16), 1, 8, stem, gradient_checkpointing)
    if kind == "dense":
        return DenseAutoencoder(architecture, SHAPE, latent_size=5, bottleneck_channels=3)
    return SpatialAutoencoder(architecture, latent_channels=3)


@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("kind", ["dense", "spatial"])
def test_shapes(kind: str, stem: int) -> None:
    network = build(kind, stem)
    mean, log_variance = network.encode(torch.randn(2, 2, *SHAPE))
    reduction = 2 * stem
    latent = (5,) if kind == "dense" else (3, *(side // reduction for side in SHAPE))
    assert mean.shape == log_variance.shape == (2, *latent)
    assert network.decode(mean).shape == (2, 2, *SHAPE)


@pytest.mark.parametrize("kind", ["dense", "spatial"])
def test_posterior_is_float32_under_autocast(kind: str) -> None:
    network = build(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, log_variance = network.encode(torch.randn(1, 2, *SHAPE))
    assert mean.dtype == log_variance.dtype == torch.float32


@pytest.mark.parametrize("kind", ["dense", "spatial"])
def test_gradient_checkpointing_gives_the_same_gradients(kind: str) -> None:
    volumes = torch.randn(1, 2, *SHAPE)
    gradients = []
    for checkpointing in (False, True):
        network = build(kind, gradient_checkpointing=checkpointing)
        network.decode(network.encode(volumes)[0]).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_spatial_network_takes_monai_weights() -> None:
    network = build("spatial", stem=1)
    assert isinstance(network, SpatialAutoencoder)
    monai = AutoencoderKL(
        spatial_dims=3,
        in_channels=2,
        out_channels=2,
        channels=(8, 16),
        num_res_blocks=(1, 1),
        attention_levels=(False, False),
        latent_channels=3,
        norm_num_groups=8,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )
    network.network.load_state_dict(monai.state_dict(), strict=True)
    volumes = torch.randn(1, 2, *SHAPE)
    assert torch.equal(network.encode(volumes)[0], monai.encode(volumes)[0])
    decoded, expected = network.decode(network.encode(volumes)[0]), monai.reconstruct(volumes)
    assert torch.allclose(decoded, expected, atol=1e-5)  # the doubled map is convolved in another order
