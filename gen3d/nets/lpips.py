"""LPIPS (Zhang et al. 2018) of grey pictures, from two files of published weights; nothing is downloaded.

The backbone is torchvision's AlexNet (`alexnet-owt-7be5be79.pth`), the linear heads are those of the package lpips, version 0.1
(`alex.pth`): five vectors of weights per feature, learned from people's judgements.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.nets.pretrained import fill, read_weights

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the colours of pictures from -1 to 1 (lpips's scaling layer)."""

FEATURES = (64, 192, 384, 256, 256)
ENDS = (1, 4, 7, 9, 11)
"""Layers of AlexNet, the rectifiers, whose maps are compared."""

SMALLEST_SIDE = 64
HEAD = "lin{}.model.1.weight"
EPSILON = 1e-10


class AlexNetFeatures(nn.Module):
    """The convolutions of AlexNet (Krizhevsky 2014) with torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """The five maps of pictures [B, 3, H, W], each [B, F, h, w]."""
        maps = []
        for number, layer in enumerate(self.features):
            pictures = layer(pictures)
            if number in ENDS:
                maps.append(pictures)
        return maps


class Lpips(nn.Module):
    """LPIPS 0.1 with AlexNet: squared differences of unit maps, weighted, averaged over positions, summed over depths."""

    def __init__(self, backbone: Path, heads: Path) -> None:
        """Files of the backbone and of the linear heads.

        Raises:
            UserError: no such file, another name or hash, or other weights.
        """
        super().__init__()
        self.network = AlexNetFeatures()
        fill(self.network, backbone, "alexnet")
        for number, weights in enumerate(_read_heads(heads)):
            self.register_buffer(f"head_{number}", weights)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Of pairs of grey pictures [B, H, W] each, black 0 and white 1 (values beyond are cut): [B]."""
        maps = [self.network(self._prepared(pictures)) for pictures in (first, second)]
        total = torch.zeros(len(first), device=first.device)
        for number, (a, b) in enumerate(zip(*maps, strict=True)):
            apart = (_unit(a) - _unit(b)).square() * self.get_buffer(f"head_{number}").view(1, -1, 1, 1)
            total = total + apart.sum(1).mean(dim=(1, 2))
        return total

    def _prepared(self, pictures: Tensor) -> Tensor:
        colours = (2 * pictures.clamp(0, 1) - 1)[:, None]
        shortest = min(pictures.shape[1:])
        if shortest < SMALLEST_SIDE:
            factor = SMALLEST_SIDE / shortest
            colours = nn.functional.interpolate(colours, scale_factor=factor, mode="bilinear", align_corners=False)
        shift, scale = (colours.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        return (colours.expand(-1, 3, -1, -1) - shift) / scale


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(1, keepdim=True).sqrt() + EPSILON)


def _read_heads(path: Path) -> list[Tensor]:
    """The five vectors of weights [F] of lpips's linear heads."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file of LPIPS heads; give the path of lpips's weights/v0.1/alex.pth, or leave lpips out."
        )
    tensors = read_weights(path, "the heads of LPIPS")
    wanted = {HEAD.format(number): (1, num, 1, 1) for number, num in enumerate(FEATURES)}
    wrong = [name for name, shape in wanted.items() if name not in tensors or tuple(tensors[name].shape) != shape]
    if wrong or len(tensors) != len(wanted):
        what = (
            f"{wrong[0]} is missing or of another shape"
            if wrong
            else f"{len(tensors)} tensors instead of {len(wanted)}"
        )
        raise UserError(f"{path}: not the heads of LPIPS 0.1 with AlexNet ({what}).")
    return [tensors[name].float().flatten() for name in wanted]
