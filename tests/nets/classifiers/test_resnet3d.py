"""The residual 3D network: weights of MedicalNet's layout, shortcuts that learn, and widened kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets.resnet import resnet18

from gen3d.core.errors import UserError
from gen3d.nets.classifiers.resnet3d import ResidualNetwork3d

VOLUMES = torch.rand(2, 1, 20, 24, 22, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published() -> torch.nn.Module:
    torch.manual_seed(0)
    network = resnet18(
        spatial_dims=3, n_input_channels=1, conv1_t_stride=2, shortcut_type="A", feed_forward=False
    )  # as MedicalNet's
    return network.eval()


@pytest.fixture(scope="module")
def weights(published: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {f"module.{name}": value for name, value in published.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "resnet_18_23dataset.pth"
    torch.save({"state_dict": tensors | {"module.conv_seg.0.weight": torch.zeros(1)}}, path)
    return path


def test_weights_give_what_monai_gives(published: torch.nn.Module, weights: Path) -> None:
    network = ResidualNetwork3d(1, 2, 18, weights).eval()
    with torch.no_grad():
        maps = network.features(VOLUMES, "layer4")
        torch.testing.assert_close(maps.mean((2, 3, 4)), published(VOLUMES), rtol=1e-4, atol=1e-5)
        two = ResidualNetwork3d(2, 2, 18, weights).eval()
        torch.testing.assert_close(
            two.features(VOLUMES.expand(-1, 2, -1, -1, -1), "layer4"), maps, rtol=1e-4, atol=1e-5
        )


def test_widened_kernels_keep_the_resolution(weights: Path) -> None:
    network = ResidualNetwork3d(1, 2, 18, weights, dilated=True)
    sides = [network.features(VOLUMES, name).shape[2:] for name in network.stage_names[:-1]]
    assert sides == [(5, 6, 6), (5, 6, 6), (3, 3, 3), (3, 3, 3), (3, 3, 3)]


@pytest.mark.parametrize("layers", [10, 18, 50])
def test_every_depth_learns_through_its_shortcuts(layers: int) -> None:
    torch.manual_seed(0)
    network = ResidualNetwork3d(1, 3, layers)  # type: ignore[arg-type]
    network(VOLUMES).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    # With every convolution of a stage silent, what reaches the end came through the shortcuts alone.
    if layers == 18:
        for name in ("bn2",):
            for block in network.stages["layer2"]:  # type: ignore[union-attr]
                torch.nn.init.zeros_(getattr(block, name).weight)
        volumes = VOLUMES.clone().requires_grad_()
        network.eval().features(volumes, "layer2").sum().backward()
        assert volumes.grad is not None
        assert volumes.grad.abs().sum() > 0


def test_weights_of_another_depth_are_a_sentence(weights: Path) -> None:
    with pytest.raises(UserError, match="not the weights of resnet3d"):
        ResidualNetwork3d(1, 2, 10, weights)
