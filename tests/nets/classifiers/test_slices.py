"""Networks of slices: really learned weights know a palace and a daisy, inflated ones give the same, and slices are pooled."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from sklearn.datasets import load_sample_image
from torch import Tensor

from gen3d.nets.classifiers.base import num_weights, recalibrate
from gen3d.nets.classifiers.lite0 import Lite0, inflated, initialise
from gen3d.nets.classifiers.slices import InflatedNetwork, SliceNetwork, positions_of_slices
from gen3d.nets.pretrained import IMAGENET, LITE, fill, lite0_file
from gen3d.nets.torchvision_models import efficientnet_b4, resnet18

PALACE, DAISY = 698, 985


@pytest.fixture(scope="module")
def weights() -> Path:
    return lite0_file()


@pytest.fixture(scope="module")
def learned(weights: Path) -> Lite0:
    network = Lite0()
    head = {name: value.clone() for name, value in network.state_dict().items() if name.startswith("_fc")}
    fill(network, weights, "efficientnet_lite0")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in head.items())
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


def picture(name: str) -> Tensor:
    """The middle of a picture [1, 3, 224, 224], between 0 and 1."""
    pixels = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None].float() / 255
    rows, columns = pixels.shape[2:]
    left = (columns - rows) // 2
    return functional.interpolate(pixels[..., left : left + rows], size=(224, 224), mode="bilinear", antialias=True)


@pytest.mark.parametrize(("name", "label"), [("china.jpg", PALACE), ("flower.jpg", DAISY)])
def test_learned_weights_recognise_pictures(learned: Lite0, name: str, label: int) -> None:
    assert num_weights(learned) == 4_652_008
    with torch.no_grad():
        scores = learned((picture(name) - LITE.mean[0]) / LITE.std[0])[0]
    assert int(scores.argmax()) == label
    assert float(scores.softmax(0)[label]) > 0.15


def test_a_slice_gives_what_the_grey_picture_gives(learned: Lite0, weights: Path) -> None:
    grey = picture("flower.jpg").mean(1, keepdim=True)[:, :, :65, :97]
    volume = grey[0, 0].flip(0).T[None, None, :, :, None].repeat(1, 1, 1, 1, 3)  # x is columns, y upwards
    network = SliceNetwork(1, (97, 65, 3), 4, num_slices=2, weights=weights).eval()
    with torch.no_grad():
        maps = network.features(volume, "backbone")
        expected = ((grey - LITE.mean[0]) / LITE.std[0]).expand(-1, 3, -1, -1)
        for part in learned.parts().values():
            expected = part(expected)
    assert maps.shape == (1, 1280, 4, 3, 2)
    for number in range(2):
        # Sides of 2^n + 1 are padded equally at both ends, so that turned kernels meet the same pixels.
        torch.testing.assert_close(maps[..., number], expected.flip(2).transpose(2, 3), rtol=1e-3, atol=1e-3)


def test_inflated_weights_give_the_same_for_equal_slices(learned: Lite0) -> None:
    pictures = picture("china.jpg")[..., ::4, ::4]
    with torch.no_grad():
        expected = learned(pictures)
        volumes = pictures[:, :, None].expand(-1, -1, 9, -1, -1)
        torch.testing.assert_close(inflated(learned).eval()(volumes), expected, rtol=1e-3, atol=1e-3)


def test_an_inflated_network_sees_grey_volumes_as_pictures(learned: Lite0, weights: Path) -> None:
    grey = picture("flower.jpg").mean(1, keepdim=True)[:, :, :65, :97]
    volume = grey[0, 0].flip(0).T[None, None, :, :, None].repeat(1, 1, 1, 1, 9)
    network = InflatedNetwork(1, 2, "axial", weights).eval()
    twin = InflatedNetwork(1, 2, "axial").eval()
    with torch.no_grad():
        maps = network.features(volume, "layer4")
        expected = ((grey - LITE.mean[0]) / LITE.std[0]).expand(-1, 3, -1, -1)
        for part in learned.parts().values():
            expected = part(expected)
        expected = expected.flip(2).transpose(2, 3)[..., None].expand_as(maps)
        torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(twin.features(volume, "layer4"), maps, rtol=0.1, atol=0.1)
    assert list(twin.state_dict()) == list(network.state_dict())
    assert num_weights(twin) == num_weights(network)


def test_published_count_of_b4() -> None:
    torch.manual_seed(0)
    network = SliceNetwork(3, (32, 32, 8), 4, "efficientnet_b4", num_slices=1)
    assert num_weights(network) == 17_555_788


@pytest.mark.parametrize("backbone", ["efficientnet_b4", "efficientnet_lite0", "resnet18"])
def test_random_features_do_not_vanish(backbone: str) -> None:
    """A twin whose features are nothing would be beaten by anything."""
    torch.manual_seed(0)
    network = SliceNetwork(1, (48, 40, 32), 2, backbone, "coronal", num_slices=2).eval()  # type: ignore[arg-type]
    volumes = functional.interpolate(torch.rand(2, 1, 6, 5, 4), size=(48, 40, 32), mode="trilinear")
    with torch.no_grad():
        maps = network.features(volumes, "backbone")
    assert maps.shape[2:] == (2, 2, 1)
    assert 0.05 < float(maps.std()) < 20
    assert float((maps[0] - maps[1]).std()) > 0.02


@pytest.mark.parametrize("backbone", ["efficientnet_b4", "resnet18"])
def test_other_backbones_see_what_torchvision_sees(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = efficientnet_b4() if backbone == "efficientnet_b4" else resnet18()
    initialise(published)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    recalibrate(published, [(torch.rand(8, 1, 65, 33).expand(-1, 3, -1, -1) - mean) / std])
    torch.save(published.eval().state_dict(), tmp_path / "draft.pth")
    digits = hashlib.sha256((tmp_path / "draft.pth").read_bytes()).hexdigest()[:8]
    weights = (tmp_path / "draft.pth").rename(tmp_path / f"{backbone}-{digits}.pth")
    network = SliceNetwork(1, (33, 3, 65), 2, backbone, "coronal", num_slices=1, weights=weights).eval()  # type: ignore[arg-type]
    volumes = torch.rand(1, 1, 33, 3, 65)
    rows = volumes[:, :, :, 1].transpose(2, 3).flip(2)  # from the top; columns from the left
    with torch.no_grad():
        expected = (rows.expand(-1, 3, -1, -1) - mean) / std
        parts = [published.features] if backbone == "efficientnet_b4" else list(published.children())[:-2]
        for part in parts:
            expected = part(expected)
        maps = network.features(volumes, "backbone")
    torch.testing.assert_close(maps[:, :, :, 0], expected.flip(2).transpose(2, 3), rtol=1e-3, atol=1e-3)


def test_slices_lie_evenly() -> None:
    assert positions_of_slices(16, 16) == list(range(16))
    assert positions_of_slices(96, 4) == [12, 36, 60, 84]
    assert positions_of_slices(7, 1) == [3]


def test_scores_are_the_mean_of_the_slices_and_attention_can_choose_one() -> None:
    torch.manual_seed(0)
    network = SliceNetwork(1, (32, 32, 6), 3, "resnet18", num_slices=6).eval()
    volumes = torch.rand(2, 1, 32, 32, 6)
    with torch.no_grad():
        maps = network.features(volumes, "backbone")
        alone = [network.from_features(maps[..., number, None], "backbone") for number in range(6)]
        torch.testing.assert_close(network(volumes), torch.stack(alone).mean(0))
        chosen = SliceNetwork(1, (32, 32, 6), 3, "resnet18", num_slices=6, pooling="attention").eval()
        head = chosen.stages["head"]
        weight = head.attention(maps.flatten(2, 3).mean(2).transpose(1, 2))  # type: ignore[operator]
    torch.testing.assert_close(weight.sum(1), torch.ones(2, 1))
    assert weight.shape == (2, 6, 1)


def test_slices_are_brought_to_a_side_and_keep_their_shape() -> None:
    """As a picture of twice the size would be seen: the network itself meets pictures of 64 x 48 pixels."""
    torch.manual_seed(0)
    network = SliceNetwork(1, (32, 24, 4), 2, "resnet18", num_slices=2, side=64).eval()
    seen: list[tuple[int, ...]] = []
    network.stages["backbone"].network.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda _, inputs: seen.append(tuple(inputs[0].shape))
    )
    volumes = torch.rand(1, 1, 32, 24, 4)
    with torch.no_grad():
        scores = network(volumes)
        large = torch.nn.functional.interpolate(volumes, size=(64, 48, 4), mode="trilinear")
        plain = SliceNetwork(1, (64, 48, 4), 2, "resnet18", num_slices=2).eval()
        plain.load_state_dict(network.state_dict())
        torch.testing.assert_close(scores, plain(large))
    assert seen == [(2, 1, 64, 48)]


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    for network in (
        SliceNetwork(2, (32, 32, 6), 3, "efficientnet_lite0", num_slices=3, pooling="attention"),
        InflatedNetwork(2, 3, "sagittal"),
    ):
        network(torch.rand(2, 2, 32, 32, 6)).square().sum().backward()
        missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert missing == []
