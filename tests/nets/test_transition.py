"""The networks of a transition have exactly the weights that were published, and the shapes that they promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gen3d.nets.transition import Generator, StageCritic


def weights_of(network: nn.Module, kind: tuple[type[nn.Module], ...]) -> int:
    return sum(
        weights.numel() for module in network.modules() if isinstance(module, kind) for weights in module.parameters()
    )


def test_the_generator_has_the_published_number_of_weights() -> None:
    generator = Generator()
    assert weights_of(generator, (nn.Conv2d, nn.ConvTranspose2d)) == 1_313_409
    assert weights_of(generator, (nn.BatchNorm2d,)) == 1_280
    norms = [module.num_features for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == [64, 128, 256, 128, 64]
    strides = [module.stride for module in generator.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert strides == [(2, 2)] * 6


def test_the_critic_has_four_convolutions_leaky_below_zero_and_one_answer() -> None:
    critic = StageCritic()
    assert len([module for module in critic.modules() if isinstance(module, nn.Conv2d)]) == 4
    assert {module.negative_slope for module in critic.modules() if isinstance(module, nn.LeakyReLU)} == {0.2}
    assert critic(torch.zeros(3, 1, 64, 48)).shape == (3,)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_goes_in_comes_out_at_its_size_between_minus_one_and_one(dimensions: int) -> None:
    sides = (32, 24, 16)[:dimensions]
    torch.manual_seed(0)
    generator = Generator((4, 4, 8), dimensions)  # type: ignore[arg-type]
    made = generator(5 * torch.randn(2, 1, *sides))
    assert made.shape == (2, 1, *sides)
    assert made.abs().max() <= 1
    assert StageCritic((4, 4, 8), dimensions)(made).shape == (2,)  # type: ignore[arg-type]
