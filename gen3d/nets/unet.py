"""A U-Net of 3D volumes (Ronneberger et al. 2015; Cicek et al. 2016), built from the blocks of MONAI's AutoencoderKL."""

from __future__ import annotations

import torch
from monai.networks.nets.autoencoderkl import AEKLDownsample, AEKLResBlock
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

EPSILON = 1e-6


class UNet(nn.Module):
    """[B, C_in, X, Y, Z] -> [B, C_out, X, Y, Z]; every side divisible by `reduction`.

    `stem` = 2 folds each 2 x 2 x 2 block of voxels into channels before the first convolution and unfolds them after
    the last, which makes a step several times cheaper than convolving at full resolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: tuple[int, ...],
        num_groups: int,
        stem: int,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.stem, self.gradient_checkpointing = stem, gradient_checkpointing
        self.reduction = stem * 2 ** (len(widths) - 1)
        folded = stem**3
        self.first = nn.Conv3d(in_channels * folded, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        previous = widths[0]
        for level, width in enumerate(widths):
            self.down.append(AEKLResBlock(3, previous, num_groups, EPSILON, width))
            if level < len(widths) - 1:
                self.shrink.append(AEKLDownsample(3, width))
            previous = width
        self.grow = nn.ModuleList()
        self.up = nn.ModuleList()
        for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.grow.append(nn.ConvTranspose3d(below, width, 2, stride=2))
            self.up.append(AEKLResBlock(3, 2 * width, num_groups, EPSILON, width))
        # No normalisation here: the size of a change must not depend on how much else there is to change.
        self.last = nn.Conv3d(widths[0], out_channels * folded, 3, padding=1)

    def blocks(self) -> list[nn.Module]:
        """The blocks worth compiling, first to last."""
        return [*self.down, *self.up, self.last]

    def start_at_zero(self) -> None:
        """Set the last convolution to zero, so that the untrained network gives zero everywhere."""
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, volumes: Tensor) -> Tensor:
        features = self.first(pixelunshuffle(volumes, 3, self.stem) if self.stem > 1 else volumes)
        kept = []
        for level, block in enumerate(self.down):
            features = self._run(block, features)
            if level < len(self.shrink):
                kept.append(features)
                features = self.shrink[level](features)
        for grow, block in zip(self.grow, self.up, strict=True):
            features = self._run(block, torch.cat([grow(features), kept.pop()], dim=1))
        features = self.last(features)
        return pixelshuffle(features, 3, self.stem) if self.stem > 1 else features

    def _run(self, block: nn.Module, features: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            features = checkpoint(block, features, use_reentrant=False)
        else:
            features = block(features)
        return features
