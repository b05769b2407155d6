"""The perceptual distance reads weights from disk, in MedicalNet's layout, and says what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets.resnet import ResNetFeatures

from gen3d.core.errors import UserError
from gen3d.nets.perceptual import PerceptualDistance


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = ResNetFeatures("resnet10", pretrained=False)
    tensors = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors["module.conv_seg.0.weight"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("weights") / "resnet_10_23dataset.pth"
    torch.save({"state_dict": tensors}, path)
    return path


def test_distance_is_zero_only_for_equal_volumes(weights: Path) -> None:
    distance = PerceptualDistance("resnet10", weights).train()
    torch.manual_seed(1)
    volumes = torch.randn(2, 2, 16, 16, 16)
    other = (volumes + 0.5 * torch.randn_like(volumes)).requires_grad_()
    assert float(distance(volumes, volumes)) == 0
    far = distance(other, volumes)
    far.backward()
    assert float(far.detach()) > 1e-4
    assert other.grad is not None
    assert all(parameter.grad is None for parameter in distance.parameters())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pth: no such file of perceptual weights"):
        PerceptualDistance("resnet10", tmp_path / "nothing.pth")


def test_weights_of_another_network(weights: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read as weights of resnet50|not the weights of resnet50"):
        PerceptualDistance("resnet50", weights)


def test_a_file_that_is_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a torch file")
    with pytest.raises(UserError, match="cannot be read as weights of resnet10"):
        PerceptualDistance("resnet10", path)
