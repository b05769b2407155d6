"""Networks of video: published counts, the same answers as torchvision's on grey video, any axis as time, any grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gen3d.nets.classifiers.base import num_weights
from gen3d.nets.classifiers.video import AXES, Frames, VideoNetwork, VideoTransformer
from gen3d.nets.pretrained import MVIT, VIDEO
from gen3d.nets.torchvision_models import mc3_18, mvit_v2_s, r3d_18


def as_video(volumes: Tensor, frames: Frames) -> Tensor:
    """Grey volumes [B, 1, X, Y, Z] as colour video [B, 3, T, H, W], top up, values as they are."""
    time, rows, columns = AXES[frames]
    return volumes.permute(0, 1, 2 + time, 2 + rows, 2 + columns).flip(3).expand(-1, 3, -1, -1, -1)


def normalised(video: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    mean_of, std_of = (torch.tensor(values).view(1, 3, 1, 1, 1) for values in (mean, std))
    return (video - mean_of) / std_of


def test_published_counts() -> None:
    torch.manual_seed(0)
    network = VideoNetwork(1, 2)
    assert num_weights(network) == 33_148_482
    network.freeze("layer4")
    assert num_weights(network, trained=True) == 1_026
    thawed = VideoNetwork(1, 2)
    thawed.freeze("layer3")
    assert num_weights(thawed, trained=True) == 24_909_826


@pytest.mark.parametrize("frames", ["coronal", "axial", "sagittal"])
def test_grey_volumes_give_what_colour_video_gives(frames: Frames) -> None:
    # Sides of 2^n + 1 are halved to the same positions from either end, so that turned kernels meet the same voxels.
    volumes = torch.rand(1, 1, 17, 33, 17)
    torch.manual_seed(0)
    published = mc3_18().eval()
    torch.manual_seed(0)
    network = VideoNetwork(1, 2, "mc3_18", frames).eval()
    video = normalised(as_video(volumes, frames), VIDEO.mean, VIDEO.std)
    for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
        video = getattr(published, name)(video)
        time, rows, columns = (2 + AXES[frames].index(axis) for axis in range(3))
        expected = video.flip(3).permute(0, 1, time, rows, columns)
        torch.testing.assert_close(network.features(volumes, name), expected, rtol=1e-4, atol=1e-4)


def test_equal_channels_give_what_one_gives_and_z_scores_skip_the_normalisation() -> None:
    volumes = torch.rand(1, 1, 17, 17, 17)
    answers = []
    for channels, z_scored in ((1, False), (2, False), (1, True)):
        torch.manual_seed(0)
        network = VideoNetwork(channels, 2, "mc3_18", "axial", z_scored=z_scored).eval()
        answers.append(network.features(volumes.expand(-1, channels, -1, -1, -1), "layer1"))
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    published = mc3_18().eval()
    expected = published.layer1(published.stem(as_video(volumes, "axial")))
    torch.testing.assert_close(answers[2], expected.flip(3).permute(0, 1, 4, 3, 2), rtol=1e-4, atol=1e-4)


def test_black_is_where_video_has_it() -> None:
    assert VIDEO.black == pytest.approx(-1.81, abs=0.05)
    assert MVIT.black == pytest.approx(-2.0)


def test_frozen_stages_keep_their_statistics_and_features_can_be_kept() -> None:
    torch.manual_seed(0)
    network = VideoNetwork(1, 2, "mc3_18")
    network.freeze("layer3")
    network.train()
    before = {name: value.clone() for name, value in network.stages["layer3"].state_dict().items()}
    volumes = torch.rand(2, 1, 17, 17, 17)
    network(volumes).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.stages["layer3"].state_dict().items())
    assert network.stages["layer4"][0].conv1[0].weight.grad.abs().sum() > 0  # type: ignore[index,union-attr]
    network.eval()
    kept = network.features(volumes, "layer3")
    assert torch.equal(network.from_features(kept, "layer3"), network(volumes))


def test_the_transformer_is_torchvisions_on_the_grid_that_it_was_made_for() -> None:
    torch.manual_seed(0)
    published = mvit_v2_s().eval()
    torch.manual_seed(0)
    network = VideoTransformer(1, (64, 4, 64), 2, "coronal").eval()
    published.pos_encoding.temporal_size, published.pos_encoding.spatial_size = 2, (16, 16)
    volumes = torch.rand(1, 1, 64, 4, 64)
    video = normalised(as_video(volumes, "coronal"), MVIT.mean, MVIT.std)
    kept: list[Tensor] = []
    published.norm.register_forward_hook(lambda _module, given, _answer: kept.append(given[0]))
    with torch.no_grad():
        published(video)
        tokens = network.features(volumes, "layer4")
        torch.testing.assert_close(tokens, kept[0], rtol=1e-3, atol=1e-3)
        assert network(volumes).shape == (1, 2)


@pytest.mark.parametrize("shape", [(33, 20, 40), (16, 16, 16)])
def test_the_transformer_takes_any_grid(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = VideoTransformer(2, shape, 3, "axial")
    network(torch.rand(1, 2, *shape)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_r3d_has_the_published_map() -> None:
    with torch.device("meta"):
        network = VideoNetwork(1, 2)
        volumes = torch.rand(1, 1, 128, 128, 128)
        assert network.features(volumes, "layer3").shape == (1, 256, 16, 32, 16)
        assert network.features(volumes, "layer4").shape == (1, 512, 8, 16, 8)
        assert r3d_18().fc.in_features == 512
