"""Networks of video for volumes: one axis of the brain is time, the slices across it are the frames.

`VideoNetwork` are the residual networks of Tran et al. (2018, CVPR), `VideoTransformer` is MViT v2 small of Li et al. (2022,
CVPR), both as torchvision builds them. The frames are seen as a viewer shows them, superior or anterior side up. With one
channel and two scores r3d_18 has 33,148,482 weights, 1,026 of them in the head and 24,909,826 in `layer4` and the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from gen3d.nets.classifiers.base import HEAD, StagedNetwork, new_head
from gen3d.nets.grey import GreyStem, paddings, turn
from gen3d.nets.pretrained import PUBLISHED, fill
from gen3d.nets.torchvision_models import MViT, VideoResNet, mc3_18, mvit_v2_s, r2plus1d_18, r3d_18

Frames = Literal["sagittal", "coronal", "axial"]
VideoResNetKind = Literal["r3d_18", "mc3_18", "r2plus1d_18"]

AXES: dict[Frames, tuple[int, int, int]] = {"sagittal": (0, 2, 1), "coronal": (1, 2, 0), "axial": (2, 1, 0)}
"""Axis of the volume (0 left-right, 1 back-front, 2 down-up) that is time, rows and columns. Rows run from the top."""

LAYERS = ("layer1", "layer2", "layer3", "layer4")


class VideoNetwork(StagedNetwork):
    """Volumes [B, C, X, Y, Z] to scores [B, num_scores]; the stages are stem, layer1 to layer4 and head.

    The kernels are turned, not the volume: every stage but the head gives a map [B, F, x, y, z] along the volume's axes.
    From 128 voxels a side and coronal frames the map of layer4 is 8 x 16 x 8.

    Args:
        in_channels: C.
        num_scores: numbers to give.
        kind: which network.
        frames: which slices are the frames of the video.
        weights: a file of weights learned on video; random weights without.
        z_scored: whether the volumes are z-scored instead of between 0 and 1, see `GreyStem`.

    Raises:
        UserError: see `gen3d.nets.pretrained.fill`.
    """

    def __init__(
        self,
        in_channels: int,
        num_scores: int,
        kind: VideoResNetKind = "r3d_18",
        frames: Frames = "coronal",
        weights: Path | None = None,
        z_scored: bool = False,
    ) -> None:
        network: VideoResNet = {"r3d_18": r3d_18, "mc3_18": mc3_18, "r2plus1d_18": r2plus1d_18}[kind]()
        if weights is not None:
            fill(network, weights, kind)
        network.stem[0] = GreyStem(network.stem[0], in_channels, PUBLISHED[kind].colours, z_scored)
        turn(network, [AXES[frames].index(axis) for axis in range(3)], [AXES[frames][1]])
        head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), new_head(network.fc.in_features, num_scores))
        super().__init__({"stem": network.stem, **{name: getattr(network, name) for name in LAYERS}, HEAD: head})


class VideoTransformer(StagedNetwork):
    """Volumes [B, C, X, Y, Z] to scores [B, num_scores]; the stages are stem, layer1 to layer4 and head.

    Every stage but the head gives tokens [B, 1 + T H W, F] along time, rows and columns behind a class token, so that there is
    no map of the volume. The positions of MViT v2 are relative and are interpolated to any grid; only the size of the grid
    has to be told. Time is stretched most: 16 frames were learned.

    Args:
        in_channels: C.
        shape: X, Y, Z.
        num_scores: numbers to give.
        frames: which slices are the frames of the video.
        weights: a file of weights learned on video; random weights without.
        z_scored: whether the volumes are z-scored instead of between 0 and 1, see `GreyStem`.

    Raises:
        UserError: see `gen3d.nets.pretrained.fill`.
    """

    def __init__(
        self,
        in_channels: int,
        shape: Sequence[int],
        num_scores: int,
        frames: Frames = "coronal",
        weights: Path | None = None,
        z_scored: bool = False,
    ) -> None:
        network: MViT = mvit_v2_s()
        if weights is not None:
            fill(network, weights, "mvit_v2_s")
        sides = _sides_after(network.conv_proj, [shape[axis] for axis in AXES[frames]])
        stem = GreyStem(network.conv_proj, in_channels, PUBLISHED["mvit_v2_s"].colours, z_scored)
        network.pos_encoding.temporal_size, network.pos_encoding.spatial_size = sides[0], sides[1:]
        stages: dict[str, nn.Module] = {"stem": _Tokens(stem, network.pos_encoding, frames)}
        groups: list[list[nn.Module]] = []
        grids: list[tuple[int, ...]] = []
        for block in network.blocks:
            halved = block.pool_skip is not None
            if not groups or halved:
                groups.append([])
                grids.append(sides)
            groups[-1].append(block)
            if halved:
                sides = _sides_after(block.attn.pool_q.pool, sides)
        for name, blocks, grid in zip(LAYERS, groups, grids, strict=True):
            stages[name] = _Blocks(blocks, grid)
        dropout, linear = network.head
        head = _ClassToken(network.norm, dropout, new_head(linear.in_features, num_scores))
        super().__init__({**stages, HEAD: head})


class _Tokens(nn.Module):
    """Volumes [B, C, X, Y, Z] to tokens [B, 1 + T H W, F]."""

    def __init__(self, stem: GreyStem, positions: nn.Module, frames: Frames) -> None:
        super().__init__()
        self.stem, self.positions, self.axes = stem, positions, AXES[frames]

    def forward(self, volumes: Tensor) -> Tensor:
        video = volumes.permute(0, 1, *(2 + axis for axis in self.axes)).flip(3)
        tokens: Tensor = self.positions(self.stem(video).flatten(2).transpose(1, 2))
        return tokens


class _Blocks(nn.Module):
    """Blocks of attention on tokens of a grid [T, H, W]; only the first block may make it coarser."""

    def __init__(self, blocks: Sequence[nn.Module], grid: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks, self.grid = nn.ModuleList(blocks), grid

    def forward(self, tokens: Tensor) -> Tensor:
        grid = self.grid
        for block in self.blocks:
            tokens, grid = block(tokens, grid)
        return tokens


class _ClassToken(nn.Module):
    """Scores [B, num_scores] from the first of the tokens."""

    def __init__(self, norm: nn.Module, dropout: nn.Dropout, linear: nn.Linear) -> None:
        super().__init__()
        self.norm, self.dropout, self.linear = norm, nn.Dropout(dropout.p), linear

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.linear(self.dropout(self.norm(tokens)[:, 0]))
        return scores


def _sides_after(convolution: nn.Conv3d, sides: Sequence[int]) -> tuple[int, ...]:
    pads = paddings(convolution, sides)
    along = zip(sides, pads, convolution.kernel_size, convolution.stride, strict=True)
    return tuple((side + sum(pad) - kernel) // stride + 1 for side, pad, kernel, stride in along)
