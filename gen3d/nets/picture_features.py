"""Features of grey pictures by EfficientNet-Lite0 with ImageNet weights: distances between two pictures, vectors of sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gen3d.nets.classifiers.lite0 import Lite0
from gen3d.nets.pretrained import LITE, fill

NAME = "EfficientNet-Lite0, unit-normalised, unweighted"
"""What a distance by it is called. It is not LPIPS, whose weights per feature were learned from people's judgements."""

LONGER_SIDE = 128
"""Pixels to which the longer side of a picture is brought."""


@dataclass(frozen=True)
class PictureFeatures:
    """Maps of five depths, unit-normalised over features [B, F, h, w] each, and the mean of the last one [B, 1280]."""

    maps: tuple[Tensor, ...]
    vectors: Tensor

    def distance(self, first: int, second: int) -> float:
        """Squared difference of two of the pictures, summed over features, averaged over positions and depths.

        The form of Zhang et al. 2018 (LPIPS) with every weight 1.
        """
        parts = [(of_depth[first] - of_depth[second]).square().sum(0).mean() for of_depth in self.maps]
        return float(torch.stack(parts).mean())


class PictureNetwork(nn.Module):
    """EfficientNet-Lite0 without its head, on grey pictures."""

    def __init__(self, weights: Path) -> None:
        """`weights` is a file of the published ImageNet weights.

        Raises:
            UserError: it is not that.
        """
        super().__init__()
        self.network = Lite0()
        fill(self.network, weights, "efficientnet_lite0")
        self.network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PictureNetwork:
        """It stays in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def features(self, pictures: Tensor) -> PictureFeatures:
        """Of pictures [B, H, W] whose black is 0 and whose white is 1; values beyond are cut."""
        size = LONGER_SIDE / max(pictures.shape[1:])
        sides = [max(32, round(side * size)) for side in pictures.shape[1:]]
        grey = nn.functional.interpolate(
            pictures.clamp(0, 1)[:, None], size=sides, mode="bilinear", align_corners=False
        )
        mean, std = (grey.new_tensor(values).view(1, 3, 1, 1) for values in (LITE.mean, LITE.std))
        maps, features = [], (grey.expand(-1, 3, -1, -1) - mean) / std
        for part in self.network.parts().values():
            features = part(features)
            maps.append(nn.functional.normalize(features, dim=1, eps=1e-6))
        return PictureFeatures(tuple(maps), features.flatten(2).mean(2))
