"""From settings to networks: each kind is built, and a grid that does not fit is a sentence."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from gen3d.core.errors import UserError
from gen3d.models.supervised.building import build_network, check_grid, sides_of
from gen3d.models.supervised.networks import LiuSettings, Network, VideoSettings


@pytest.mark.parametrize("kind", ["r3d_18", "mc3_18", "r2plus1d_18", "mvit_v2_s"])
def test_short_names_build_networks(kind: str) -> None:
    settings = TypeAdapter(Network).validate_python(kind)
    torch.manual_seed(0)
    network = build_network(settings, 2, (16, 20, 18), 3).eval()
    with torch.no_grad():
        volumes = torch.rand(2, 2, 16, 20, 18)
        assert network(volumes).shape == (2, 3)
        for name in network.stage_names:
            kept = network.features(volumes, name)
            torch.testing.assert_close(network.from_features(kept, name), network(volumes))


def test_liu_is_built_as_set() -> None:
    with torch.device("meta"):
        network = build_network(LiuSettings(kind="liu", width=1, age=True, stem="wide"), 2, (96, 96, 96), 3)
    assert network.takes_age
    assert network.stages["block1"][0].kernel_size == (3, 3, 3)  # type: ignore[index]


def test_a_grid_that_does_not_fit_is_a_sentence() -> None:
    with pytest.raises(
        UserError, match=r"needs 87 to 102 voxels .* 80x96x120 \(x=80, z=120\); .*model.grid=\[87, 96, 102\]"
    ):
        check_grid(LiuSettings(kind="liu"), (80, 96, 120))
    with pytest.raises(UserError, match="needs 95 to 102 voxels"):
        build_network(LiuSettings(kind="liu_executed"), 1, (90, 96, 96), 2)
    with pytest.raises(UserError, match="needs 8 or more voxels"):
        build_network(VideoSettings(), 1, (90, 7, 96), 2)
    assert sides_of(LiuSettings(kind="liu")) == range(87, 103)
