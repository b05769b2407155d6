"""Extractors: what they are sensitive to, the layouts of pretrained weights, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets.resnet import resnet50
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.nets.extractors import BrainFeatures, Med3D, RadImageNet, z_scored

SHAPE = (24, 32, 24)


@pytest.fixture(scope="module")
def mask() -> Tensor:
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[4:20, 5:27, 4:20] = True
    return inside


@pytest.fixture(scope="module")
def volumes(mask: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((2, *SHAPE), generator=generator) * mask


@pytest.fixture(scope="module")
def medicalnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {f"module.{key}": value for key, value in random_weights(3, 1).items()}
    tensors["module.conv_seg.0.weight"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("weights") / "resnet_50_23dataset.pth"
    torch.save({"state_dict": tensors}, path)
    return path


def random_weights(spatial_dims: int, num_channels: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        network = resnet50(
            spatial_dims=spatial_dims, n_input_channels=num_channels, feed_forward=False, bias_downsample=False
        )
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for key, value in network.state_dict().items():
        if value.ndim > 1:
            fan_in = value[0].numel()
            tensors[key] = torch.empty(value.shape).uniform_(-1, 1, generator=generator) * (6 / fan_in) ** 0.5
        else:
            tensors[key] = torch.ones(value.shape) if key.endswith(("weight", "var")) else torch.zeros(value.shape)
    return tensors


def radimagenet(folder: Path, layout: str) -> Path:
    tensors = random_weights(2, 3)
    if layout == "keras":
        tensors |= {key.removesuffix("weight") + "bias": torch.randn(len(value)) for key, value in tensors.items()
                    if value.ndim == 4}  # fmt: skip
    if layout == "numbered":
        numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
        tensors = {
            f"backbone.{numbers[key.split('.')[0]]}.{key.partition('.')[2]}": value for key, value in tensors.items()
        }
    path = folder / f"{layout}.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, volumes: Tensor, mask: Tensor) -> list[Tensor]:
    """Features of the layout that torchvision has."""
    return RadImageNet(radimagenet(tmp_path_factory.mktemp("weights"), "torchvision")).features(volumes, mask)


def test_z_scored_inside_zero_outside(volumes: Tensor, mask: Tensor) -> None:
    normalised = z_scored(volumes * 3 + 1, mask)
    assert torch.allclose(normalised[:, mask].mean(dim=1), torch.zeros(2), atol=1e-5)
    assert torch.allclose(normalised[:, mask].std(dim=1), torch.ones(2), atol=1e-5)
    assert not normalised[:, ~mask].any()


def test_brain_features_ignore_gain_and_background_and_see_texture(volumes: Tensor, mask: Tensor) -> None:
    torch.manual_seed(3)
    network = BrainFeatures((8, 16)).requires_grad_(False)
    (first,) = network.features(volumes, mask)
    assert first.shape == (2, 1, 48)
    (brighter,) = network.features(2 * volumes + (~mask) * 5.0, mask)
    assert torch.allclose(first, brighter, atol=1e-4)
    smooth = torch.nn.functional.avg_pool3d(volumes[:, None], 3, stride=1, padding=1)[:, 0]
    (blurred,) = network.features(smooth, mask)
    assert float((first - blurred).abs().mean()) > 0.01


def test_scale_is_taken_from_real_scans() -> None:
    network = BrainFeatures((8,))
    raw = torch.randn(50, 16) * 7 + 3
    raw[:, 0] = 1.0  # a feature that never varies must not become infinite
    network.set_scale(raw)
    scaled = (raw - network.feature_mean) / network.feature_std
    assert torch.allclose(scaled[:, 1:].std(dim=0), torch.ones(15), atol=1e-5)
    assert torch.isfinite(scaled).all()


def test_med3d_has_2048_features_at_an_eighth_of_the_resolution(
    medicalnet: Path, volumes: Tensor, mask: Tensor
) -> None:
    network = Med3D(medicalnet)
    sizes = []
    network.network.layer4.register_forward_hook(lambda *call: sizes.append(tuple(call[2].shape[2:])))
    (found,) = network.features(volumes, mask)
    assert found.shape == (2, 1, 2048)
    assert sizes == [(3, 4, 3)]
    assert torch.isfinite(found).all()


def test_radimagenet_has_a_vector_per_central_slice(plain: list[Tensor]) -> None:
    assert [tuple(plane.shape) for plane in plain] == [(2, 9, 2048), (2, 9, 2048), (2, 13, 2048)]


@pytest.mark.parametrize("layout", ["numbered", "keras"])
def test_radimagenet_tells_layouts_apart(
    tmp_path: Path, layout: str, volumes: Tensor, mask: Tensor, plain: list[Tensor]
) -> None:
    network = RadImageNet(radimagenet(tmp_path, layout))
    block = network.network.layer2[0]
    assert (block.conv1.stride == (2, 2)) == (layout == "keras")
    assert (block.conv2.stride == (2, 2)) == (layout != "keras")
    assert (block.conv1.bias is not None) == (layout == "keras")
    planes = network.features(volumes, mask)
    assert all(torch.equal(a, b) for a, b in zip(planes, plain, strict=True)) == (layout != "keras")


def test_a_file_that_is_not_there_or_of_another_network(tmp_path: Path, medicalnet: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pth: no such file of weights for the extractor MedicalNet"):
        Med3D(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match=r"not the weights of RadImageNet's ResNet-50 \(conv1\.weight is \(64, 1, 7"):
        RadImageNet(medicalnet)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read as weights of MedicalNet"):
        Med3D(broken)
