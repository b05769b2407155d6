"""Liu's network: every published count, the grids that it fits, and what its architecture implies."""

from __future__ import annotations

import pytest
import torch

from gen3d.nets.classifiers.base import num_weights
from gen3d.nets.classifiers.liu import LiuNetwork, positions_of, valid_sides

SHAPE = (96, 96, 96)


@pytest.mark.parametrize(("width", "count"), [(1, 963_115), (2, 2_138_963), (4, 6_710_947), (8, 24_736_067)])
def test_weights_of_every_width(width: int, count: int) -> None:
    with torch.device("meta"):
        assert num_weights(LiuNetwork(1, SHAPE, 3, width)) == count


def test_weights_of_the_released_code() -> None:
    with torch.device("meta"):
        executed = num_weights(LiuNetwork(1, SHAPE, 3, executed=True))
        with_age = num_weights(LiuNetwork(1, SHAPE, 3, executed=True, age=True))
    assert executed == 89_747_779
    assert with_age - executed == 788_992


def test_weights_of_the_options() -> None:
    def count(**options: object) -> int:
        with torch.device("meta"):
            return num_weights(LiuNetwork(2, (96, 98, 102), 2, 1, **options))  # type: ignore[arg-type]

    plain = count()
    assert count(normalisation="batch") - plain == 2 * (4 + 32 + 64 + 64)
    # The released code overwrites the third block's normalisation by the fourth's, so that one is missing.
    executed = count(executed=True)
    assert count(executed=True, normalisation="batch") - executed == 2 * (4 + 32 + 64)
    assert count(stem="wide") - plain == 2 * 4 * 26


@pytest.mark.parametrize(("executed", "sides"), [(False, range(87, 103)), (True, range(95, 103))])
def test_valid_sides_are_those_that_the_layers_allow(executed: bool, sides: range) -> None:
    assert valid_sides(executed) == sides
    assert [positions_of(side) for side in (96, 103, 118, 119, 60)] == [1, 2, 2, 3, 0]
    with torch.device("meta"):
        for side in (sides.start, sides.stop - 1):
            network = LiuNetwork(1, (side, 96, 96), 3, 1, executed)
            volumes = torch.rand(1, 1, side, 96, 96)
            assert network(volumes).shape == (1, 3)
    with pytest.raises(AssertionError):
        LiuNetwork(1, (sides.stop, 96, 96), 3, 1, executed)


def test_the_map_of_the_last_block_is_the_one_before_its_pooling() -> None:
    with torch.device("meta"):
        network = LiuNetwork(1, SHAPE, 3, 1)
        volumes = torch.rand(1, 1, *SHAPE)
        sides = [network.features(volumes, name).shape[-1] for name in network.stage_names[:-1]]
    assert sides == [47, 21, 8, 6]


def first_block(stem: str, normalisation: str) -> torch.Tensor:
    """Maps [F, voxels] of the first block without its pooling."""
    torch.manual_seed(0)
    network = LiuNetwork(1, SHAPE, 3, 8, stem=stem, normalisation=normalisation)  # type: ignore[arg-type]
    layers = list(network.stages["block1"])[:3]  # type: ignore[arg-type]
    maps = torch.rand(1, 1, 12, 12, 12)
    for layer in layers:
        maps = layer(maps)
    return maps[0].flatten(1).detach()


def test_the_published_first_block_has_rank_two() -> None:
    def rank(maps: torch.Tensor) -> int:
        return int(torch.linalg.matrix_rank(maps, rtol=1e-3))

    assert rank(first_block("seed", "instance")) == 2
    assert rank(first_block("wide", "instance")) > 20


def test_biases_before_instance_normalisation_have_no_gradient() -> None:
    torch.manual_seed(0)
    network = LiuNetwork(1, (87, 87, 87), 3, 1)
    network(torch.rand(1, 1, 87, 87, 87)).square().sum().backward()
    first_bias, first_kernel = (network.get_parameter(f"stages.block3.0.{name}").grad for name in ("bias", "weight"))
    assert first_bias is not None
    assert first_kernel is not None
    assert first_bias.abs().max() < 1e-4 * first_kernel.abs().max()


def test_age_is_added_where_it_is_known() -> None:
    torch.manual_seed(0)
    network = LiuNetwork(1, (87, 87, 87), 3, 1, age=True).eval()
    assert network.takes_age
    features = torch.rand(3, 64, 6, 6, 6)
    plain = network.from_features(features, "block4")
    aged = network.from_features(features, "block4", torch.tensor([70.0, float("nan"), 70.1]))
    assert torch.equal(aged[1], plain[1])
    assert not torch.allclose(aged[0], plain[0])
    one = features[:1].expand(2, -1, -1, -1, -1)
    older = network.from_features(one, "block4", torch.tensor([70.1, 90.0]))
    assert torch.allclose(older[0], aged[0], atol=1e-6)  # the same half year
    assert not torch.allclose(older[1], aged[0], atol=1e-6)
