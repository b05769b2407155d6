"""Networks that turn a brain volume into feature vectors, so that sets of scans can be compared.

Two are pretrained and read from weights that lie on disk: MedicalNet's 3D ResNet-50 ("Med3D", Chen et al. 2019) and
RadImageNet's 2D ResNet-50 (Mei et al. 2022). `BrainFeatures` needs no weights: its own stay as they were drawn. Nothing is
ever downloaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from monai.networks.nets.resnet import ResNetBottleneck, resnet50
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.nets.classifiers.resnet3d import MEDICALNET_DILATION, dilate
from gen3d.nets.pretrained import read_weights

RADIMAGENET_MEAN = (0.406, 0.456, 0.485)
"""Subtracted from the three equal channels, in the order that RadImageNet's weights expect (MAISI's reference code)."""

KERAS_EPSILON = 1.001e-5
SMALLEST_SD = 1e-3


class Extractor(nn.Module, ABC):
    """T1w volumes [B, X, Y, Z] in stored units and their brain mask [X, Y, Z] -> one tensor [B, k, d] per plane.

    `planes` sets of features are compared separately and their distances averaged; k vectors belong to one scan.
    `normalisation` says in words what is done to intensities first: it belongs to the name of every distance.
    """

    normalisation: str

    @abstractmethod
    def features(self, volumes: Tensor, mask: Tensor) -> list[Tensor]:
        """The feature vectors of each plane."""


def z_scored(volumes: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance inside the brain of each volume, zero outside. [B, X, Y, Z]."""
    inside = volumes[:, mask]
    mean, std = inside.mean(dim=1), inside.std(dim=1)
    return (volumes - mean.view(-1, 1, 1, 1)) / std.clamp_min(1e-6).view(-1, 1, 1, 1) * mask


class BrainFeatures(Extractor):
    """Four strided 3D convolutions; features are mean and SD over the brain of every channel of every layer.

    Early layers see texture (noise, blur), late ones anatomy; each layer is normalised as a whole, so that fine against coarse
    remains. Buffers `feature_mean` and `feature_std` [d] bring every feature to one scale; they are set from real scans.
    """

    normalisation = "z-scored brain"
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        inputs = (1, *widths[:-1])
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv3d(i, o, 3, stride=2, padding=1), nn.GroupNorm(1, o), nn.SiLU())
            for i, o in zip(inputs, widths, strict=True)
        )
        self.num_features = 2 * sum(widths)
        self.register_buffer("feature_mean", torch.zeros(self.num_features))
        self.register_buffer("feature_std", torch.ones(self.num_features))

    def pooled(self, volumes: Tensor, mask: Tensor) -> Tensor:
        """Normalised volumes [B, 1, X, Y, Z] and weights [1 or B, 1, X, Y, Z] -> raw features [B, d]."""
        maps, weights, vectors = volumes, mask, []
        for layer in self.layers:
            maps = layer(maps)
            # The same halving as the convolution's, so that both cover the same voxels.
            weights = nn.functional.avg_pool3d(weights, 3, stride=2, padding=1)
            total = weights.sum(dim=(2, 3, 4)).clamp_min(1e-6)
            mean = (maps * weights).sum(dim=(2, 3, 4)) / total
            squares = ((maps - mean[:, :, None, None, None]).square() * weights).sum(dim=(2, 3, 4)) / total
            vectors += [mean, (squares + 1e-8).sqrt()]
        return torch.cat(vectors, dim=1)

    def raw(self, volumes: Tensor, mask: Tensor) -> Tensor:
        """Features [B, d] of volumes [B, X, Y, Z] in stored units before they are brought to one scale."""
        return self.pooled(z_scored(volumes, mask)[:, None], mask[None, None].float())

    def set_scale(self, raw: Tensor) -> None:
        """Take mean and SD of every feature from those of real scans [n, d]."""
        spread = raw.std(dim=0)
        self.feature_mean.copy_(raw.mean(dim=0))
        self.feature_std.copy_(spread.clamp_min(max(SMALLEST_SD * float(spread.median()), 1e-12)))

    def features(self, volumes: Tensor, mask: Tensor) -> list[Tensor]:
        return [((self.raw(volumes, mask) - self.feature_mean) / self.feature_std)[:, None]]


class Med3D(Extractor):
    """MedicalNet's ResNet-50: 2048 features, the global average over the volume (the protocol of HA-GAN, Sun et al. 2022)."""

    normalisation = "z-scored brain"

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = _resnet50(3, 1)
        # MedicalNet dilates its last two stages where MONAI's network, whose weights have the same shapes, halves them.
        for stage, dilation in MEDICALNET_DILATION.items():
            dilate(self.network.get_submodule(stage), dilation)
        _fill(self.network, _read(weights, "MedicalNet's ResNet-50"), weights, "MedicalNet's ResNet-50")

    def features(self, volumes: Tensor, mask: Tensor) -> list[Tensor]:
        return [self.network(z_scored(volumes, mask)[:, None]).unsqueeze(1)]


class RadImageNet(Extractor):
    """RadImageNet's ResNet-50 on the central slices of three planes, every slice one vector (MAISI's 2.5D protocol).

    Two layouts of the weights exist and are recognised: the authors' PyTorch one, and a conversion from Keras, whose
    convolutions have biases and whose first 1 x 1 convolution of a stage does the halving.
    """

    normalisation = "scaled 0 to 1"

    def __init__(self, weights: Path, central_share: float = 0.4, max_slices: int = 24) -> None:
        super().__init__()
        self.central_share, self.max_slices = central_share, max_slices
        name = "RadImageNet's ResNet-50"
        tensors = _torchvision_names(_read(weights, name))
        self.network = _resnet50(2, 3)
        if "conv1.bias" in tensors:
            _as_keras(self.network)
        _fill(self.network, tensors, weights, name)

    def features(self, volumes: Tensor, mask: Tensor) -> list[Tensor]:
        low, high = volumes.amin(dim=(1, 2, 3), keepdim=True), volumes.amax(dim=(1, 2, 3), keepdim=True)
        scaled = (volumes - low) / (high - low).clamp_min(1e-6)
        mean = volumes.new_tensor(RADIMAGENET_MEAN).view(1, 3, 1, 1)
        vectors = []
        for axis in (3, 1, 2):  # axial, sagittal, coronal
            slices = scaled.index_select(axis, self._central(volumes.shape[axis], volumes.device)).movedim(axis, 1)
            pictures = slices.flatten(0, 1).unsqueeze(1).expand(-1, 3, -1, -1) - mean
            vectors.append(self.network(pictures).unflatten(0, (len(volumes), -1)))
        return vectors

    def _central(self, size: int, device: torch.device) -> Tensor:
        first, last = int((1 - self.central_share) / 2 * size), int((1 + self.central_share) / 2 * size)
        step = max(1, -(-(last - first) // self.max_slices))
        return torch.arange(first, max(last, first + 1), step, device=device)


def _resnet50(spatial_dims: int, num_channels: int) -> nn.Module:
    """The network without weights: every tensor comes from a file."""
    with torch.device("meta"):
        return resnet50(
            spatial_dims=spatial_dims,
            n_input_channels=num_channels,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )


def _as_keras(network: nn.Module) -> None:
    """Biases for every convolution, halving in a block's first convolution, Keras's epsilon."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.empty(module.out_channels, device="meta"))
        if isinstance(module, nn.BatchNorm2d):
            module.eps = KERAS_EPSILON
        if isinstance(module, ResNetBottleneck) and module.conv2.stride != (1, 1):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)


def check_weights(weights: Path, name: str) -> None:
    """Raise a UserError when there is no file of weights for an extractor."""
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such file of weights for the extractor {name}; download them yourself and give their path, "
            "or use the extractors that need none (extractors=[random])."
        )


def _read(weights: Path, name: str) -> dict[str, Tensor]:
    check_weights(weights, name)
    return read_weights(weights, name)


def _torchvision_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """RadImageNet's own release numbers the children of the network: backbone.0 is conv1, backbone.4 is layer1."""
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    renamed = {}
    for key, value in tensors.items():
        if key.startswith("backbone."):
            number, _, rest = key.removeprefix("backbone.").partition(".")
            key = f"{names.get(number, number)}.{rest}"
        renamed[key] = value
    return renamed


def _fill(network: nn.Module, tensors: dict[str, Tensor], weights: Path, name: str) -> None:
    """Load every tensor of the network; heads of other tasks in the file are left alone.

    Raises:
        UserError: tensors are missing or of other shapes.
    """
    wanted = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in tensors]
    if missing:
        raise UserError(f"{weights}: not the weights of {name} ({len(missing)} tensors missing, such as {missing[0]}).")
    wrong = [key for key in wanted if tensors[key].shape != wanted[key].shape]
    if wrong:
        shapes = f"{tuple(tensors[wrong[0]].shape)} instead of {tuple(wanted[wrong[0]].shape)}"
        raise UserError(f"{weights}: not the weights of {name} ({wrong[0]} is {shapes}).")
    counters = {key: torch.tensor(0) for key in network.state_dict() if key not in wanted}
    network.load_state_dict({key: tensors[key].float() for key in wanted} | counters, assign=True)
    network.requires_grad_(False).eval()
