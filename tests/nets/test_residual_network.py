"""The residual head's network: any shape, what starts as the identity, and what may not be normalised away."""

from __future__ import annotations

import pytest
import torch

from gen3d.nets.classifiers.residual import ResidualBlock, ResidualHead, halvings


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((3, 3, 3), []),
        ((4, 4, 4), [(2, 2, 2)]),
        ((8, 8, 8), [(2, 2, 2), (2, 2, 2)]),
        ((24, 24, 24), [(2, 2, 2)] * 3),
        ((9, 4, 2), [(2, 2, 1), (2, 1, 1)]),
    ],
)
def test_every_axis_is_halved_until_it_is_short(sides: tuple[int, ...], expected: list[tuple[int, ...]]) -> None:
    assert halvings(sides) == expected


@pytest.mark.parametrize("sides", [(2, 2, 2), (2, 3, 5), (7, 7, 7), (8, 9, 3), (1, 1, 1)])
@pytest.mark.parametrize("channels", [8, 6])
def test_any_shape_works_and_learns(sides: tuple[int, int, int], channels: int) -> None:
    torch.manual_seed(0)
    net = ResidualHead(3, sides, outputs=2, channels=channels, blocks=2)
    answers = net(torch.randn(4, 3, *sides))
    assert answers.shape == (4, 2)
    answers.square().sum().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_a_block_starts_as_the_identity() -> None:
    features = torch.randn(2, 8, 3, 3, 3)
    assert torch.equal(ResidualBlock(8)(features), features)


def test_the_strength_of_a_pattern_reaches_the_output() -> None:
    torch.manual_seed(1)
    net = ResidualHead(2, (4, 4, 4), outputs=1, channels=8).eval()
    pattern = torch.randn(1, 2, 4, 4, 4)
    weak, strong = net(pattern), net(4 * pattern)
    assert abs(float((strong - weak).detach())) > 0.5 * abs(float(weak.detach()))


def test_one_scan_is_not_changed_by_its_neighbours_in_the_batch() -> None:
    torch.manual_seed(2)
    net = ResidualHead(2, (5, 4, 4), outputs=3, channels=8).eval()
    batch = torch.randn(6, 2, 5, 4, 4)
    torch.testing.assert_close(net(batch)[2:3], net(batch[2:3]))
