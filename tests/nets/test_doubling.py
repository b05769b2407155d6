"""The small kernels give what convolving the doubled map gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from monai.networks.blocks import UpSample
from monai.networks.nets.autoencoderkl import Decoder
from torch import Tensor

from gen3d.nets.autoencoder import Architecture, SpatialAutoencoder
from gen3d.nets.doubling import convolution_of_doubling, double_and_convolve


def convolved_doubled_map(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.conv3d(
        functional.interpolate(features, scale_factor=2.0, mode="nearest"), weight, bias, padding=1
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_the_same(layout: torch.memory_format, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((2, 5, 4, 6, 3), dtype=torch.double, generator=generator).contiguous(memory_format=layout)
    weight = torch.randn((7, 5, 3, 3, 3), dtype=torch.double, generator=generator)
    bias = torch.randn(7, dtype=torch.double, generator=generator) if with_bias else None
    inputs = [tensor.requires_grad_() for tensor in (features, weight, bias) if tensor is not None]
    expected, found = convolved_doubled_map(features, weight, bias), double_and_convolve(features, weight, bias)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    direction = torch.randn(expected.shape, dtype=torch.double, generator=generator)
    for first, second in zip(
        torch.autograd.grad(expected, inputs, direction), torch.autograd.grad(found, inputs, direction), strict=True
    ):
        assert torch.allclose(first, second, rtol=0, atol=1e-11)


def test_only_repeating_voxels_is_replaced() -> None:
    nearest = UpSample(spatial_dims=3, mode="nontrainable", in_channels=4, out_channels=4, interp_mode="nearest")
    linear = UpSample(spatial_dims=3, mode="nontrainable", in_channels=4, out_channels=4, interp_mode="linear")
    transposed = UpSample(spatial_dims=3, mode="deconv", in_channels=4, out_channels=4)
    assert [convolution_of_doubling(block) for block in (nearest, linear, transposed, torch.nn.Identity())] == [
        None
    ] * 4


@pytest.mark.parametrize("transposed", [False, True])
def test_the_decoder_is_monais(transposed: bool) -> None:
    torch.manual_seed(0)
    architecture = Architecture(1, (8, 16, 16), 1, 8, 1, False, transposed)
    autoencoder = SpatialAutoencoder(architecture, 3)
    decoder = autoencoder.network.decoder
    assert isinstance(decoder, Decoder)
    found = sum(convolution_of_doubling(block) is not None for block in decoder.blocks)
    assert found == (0 if transposed else 2)
    latents = torch.randn(1, 3, 4, 5, 6)
    with torch.no_grad():
        expected = autoencoder.network.decode(latents)
        assert torch.allclose(autoencoder.decode(latents), expected, atol=1e-5)
