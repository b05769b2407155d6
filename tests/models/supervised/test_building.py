"""From settings to networks: each kind is built, and a grid that does not fit is a sentence."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from gen3d.core.errors import UserError
from gen3d.models.supervised.building import black_of, build_network, check_grid, sides_of
from gen3d.models.supervised.networks import LiuSettings, Network, ResNet3dSettings, SlicesSettings, VideoSettings


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


@pytest.mark.parametrize(
    "settings",
    [
        ResNet3dSettings(kind="resnet3d", layers=10),
        SlicesSettings(kind="slices", num_slices=2, weights="package"),
        SlicesSettings(kind="slices", num_slices=2, weights="package", inflate=True, plane="coronal"),
        SlicesSettings(kind="slices", num_slices=2, backbone="resnet18", pooling="attention"),
    ],
)
def test_a_twin_has_the_same_layout_and_takes_the_weights(settings: ResNet3dSettings | SlicesSettings) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):  # as a plan measures it
        assert build_network(settings, 2, (16, 20, 18), 3, pretrained=False)(torch.rand(2, 2, 16, 20, 18)).shape == (
            2,
            3,
        )
    network = build_network(settings, 2, (16, 20, 18), 3).eval()
    twin = build_network(settings, 2, (16, 20, 18), 3, pretrained=False).eval()
    volumes = torch.rand(2, 2, 16, 20, 18)
    with torch.no_grad():
        assert not torch.allclose(network(volumes), twin(volumes))
        twin.load_state_dict(network.state_dict())
        assert torch.equal(network(volumes), twin(volumes))
        for name in network.stage_names:
            torch.testing.assert_close(network.from_features(network.features(volumes, name), name), network(volumes))


def test_slices_need_voxels() -> None:
    with pytest.raises(UserError, match="num_slices=30: the volumes have only 20 coronal slices"):
        check_grid(SlicesSettings(kind="slices", plane="coronal", num_slices=30), (16, 20, 18))
    with pytest.raises(UserError, match="axial slices of volumes of 16x4x18 voxels have fewer than 8"):
        check_grid(SlicesSettings(kind="slices"), (16, 4, 18))
    check_grid(SlicesSettings(kind="slices", num_slices=1), (64, 64, 1))


@pytest.mark.parametrize("given", [{"inflate": True}, {"weights": "package"}])
def test_what_is_lite0s_alone_is_refused_for_others(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="is of efficientnet_lite0 only"):
        SlicesSettings.model_validate({"kind": "slices", "backbone": "resnet18", **given})


def test_black_is_known_where_pictures_were_learned() -> None:
    assert black_of(LiuSettings(kind="liu")) is None
    assert black_of(VideoSettings()) is None
    assert black_of(SlicesSettings(kind="slices", weights="package")) == pytest.approx(-127 / 128)
