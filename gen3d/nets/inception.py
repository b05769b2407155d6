"""The Inception network of the FID (Heusel et al. 2017), from a file of its published weights; nothing is downloaded.

`pt_inception-2015-12-05-6726825d.pth` of pytorch-fid: TensorFlow's Inception of 2015, with 1,008 classes. It differs
from torchvision's Inception v3 in its poolings alone: averages leave the padding out, and the last block takes a maximum.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from gen3d.nets.pretrained import fill
from gen3d.nets.torchvision_models import inception_v3

SIDE, NUM_CLASSES, NUM_FEATURES = 299, 1008, 2048
AVERAGED = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")
"""Blocks whose pooled branch averages without counting the padding; that of `Mixed_7c` takes the maximum."""


class _Pooled(nn.Module):
    """A block of branches whose pooled branch is pooled as in 2015."""

    def __init__(self, block: nn.Module, largest: bool) -> None:
        super().__init__()
        self.block, self.largest = block, largest

    def forward(self, maps: Tensor) -> Tensor:
        pooled = (
            max_pool2d(maps, 3, stride=1, padding=1)
            if self.largest
            else avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)
        )
        outputs = list(self.block._forward(maps))  # type: ignore[operator]
        return torch.cat([*outputs[:-1], self.block.branch_pool(pooled)], 1)  # type: ignore[operator]


class FidInception(nn.Module):
    """Grey pictures [B, H, W] from 0 to 1 -> 2,048 features each [B, 2048]."""

    def __init__(self, weights: Path) -> None:
        """`weights`: the file of pytorch-fid.

        Raises:
            UserError: no such file, another name or hash, or other weights.
        """
        super().__init__()
        network = inception_v3(weights=None, num_classes=NUM_CLASSES, aux_logits=False, init_weights=False)
        fill(network, weights, "fid_inception")
        self.network = network
        for name in (*AVERAGED, "Mixed_7c"):
            setattr(network, name, _Pooled(getattr(network, name), largest=name == "Mixed_7c"))
        network.fc = nn.Identity()
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FidInception:
        """It stays in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """[B, 2048] of pictures whose black is 0 and whose white is 1; values beyond are cut."""
        colours = 2 * pictures.clamp(0, 1)[:, None].expand(-1, 3, -1, -1) - 1
        features: Tensor = self.network(interpolate(colours, size=(SIDE, SIDE), mode="bilinear", align_corners=False))
        return features
