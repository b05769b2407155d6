"""From settings to the network that classifies volumes, and whether a grid fits it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gen3d.core.errors import UserError
from gen3d.models.supervised.networks import (
    LiuSettings,
    NetworkSettings,
    ResNet3dSettings,
    SlicesSettings,
    VideoSettings,
)
from gen3d.nets.classifiers.base import StagedNetwork
from gen3d.nets.classifiers.liu import LiuNetwork, valid_sides
from gen3d.nets.classifiers.resnet3d import ResidualNetwork3d
from gen3d.nets.classifiers.slices import InflatedNetwork, SliceNetwork
from gen3d.nets.classifiers.video import AXES, VideoNetwork, VideoTransformer
from gen3d.nets.pretrained import PUBLISHED, lite0_file

SMALLEST_SIDE = 8
"""Voxels per axis below which a network that halves its maps five times has nothing left."""


def build_network(
    settings: NetworkSettings,
    in_channels: int,
    shape: Sequence[int],
    num_scores: int,
    pretrained: bool = True,
    z_scored: bool = False,
) -> StagedNetwork:
    """The network of these settings for volumes [B, in_channels, *shape], with scores [B, num_scores].

    Args:
        settings: which network.
        in_channels: channels of a volume.
        shape: X, Y, Z of the volumes that it will see.
        num_scores: numbers to give.
        pretrained: load `settings.weights`; otherwise the same network with random weights, as its twin or to receive
            the weights of a run. Its batch normalisations hold statistics of noise; before stages of random weights are frozen,
            give them those of scans by `gen3d.nets.classifiers.base.recalibrate`.
        z_scored: the volumes are z-scored, instead of between 0 and 1 as pictures are; settles how learned weights of
            colour pictures are turned into those of grey volumes. Black is at `black_of(settings)`.

    Raises:
        UserError: the grid does not fit, or the weights cannot be used; in one sentence.
    """
    check_grid(settings, shape)
    if isinstance(settings, LiuSettings):
        executed = settings.kind == "liu_executed"
        return LiuNetwork(
            in_channels,
            shape,
            num_scores,
            settings.width,
            executed,
            settings.normalisation,
            settings.stem,
            settings.age,
        )
    if isinstance(settings, VideoSettings):
        weights = settings.weights if pretrained else None
        if settings.kind == "mvit_v2_s":
            return VideoTransformer(in_channels, shape, num_scores, settings.frames, weights, z_scored)
        return VideoNetwork(in_channels, num_scores, settings.kind, settings.frames, weights, z_scored)
    if isinstance(settings, ResNet3dSettings):
        weights = settings.weights if pretrained else None
        return ResidualNetwork3d(
            in_channels, num_scores, settings.layers, weights, dilated=settings.weights is not None
        )
    weights = weights_of_slices(settings) if pretrained else None
    if settings.inflate:
        return InflatedNetwork(in_channels, num_scores, settings.plane, weights, z_scored)
    return SliceNetwork(
        in_channels,
        shape,
        num_scores,
        settings.backbone,
        settings.plane,
        settings.num_slices,
        settings.pooling,
        weights,
        z_scored,
        settings.side,
    )


def weights_of_slices(settings: SlicesSettings) -> Path | None:
    """The file of weights of a network of slices, also where it is that of the package.

    Raises:
        UserError: the package is not installed.
    """
    return lite0_file() if settings.weights == "package" else settings.weights


def check_grid(settings: NetworkSettings, shape: Sequence[int]) -> None:
    """Raise a UserError that says which axes do not fit the network, and what to pad or crop to."""
    sides = sides_of(settings)
    if isinstance(settings, SlicesSettings) and not settings.inflate:
        check_slices(settings, shape)
        return
    unfit = [f"{name}={side}" for name, side in zip("xyz", shape, strict=True) if side not in sides]
    if not unfit:
        return
    grid = "x".join(str(side) for side in shape)
    wanted = f"{sides.start} to {sides.stop - 1}" if isinstance(settings, LiuSettings) else f"{sides.start} or more"
    nearest = [min(max(side, sides.start), sides.stop - 1) for side in shape]
    raise UserError(
        f"model.network={settings.kind}: needs {wanted} voxels along every axis, but the volumes have {grid} "
        f"({', '.join(unfit)}); pad or crop them with model.grid={nearest}, or prepare at another voxel size."
    )


def check_slices(settings: SlicesSettings, shape: Sequence[int]) -> None:
    """Raise a UserError when there are fewer voxels across the plane than slices, or too few in it."""
    axis = AXES[settings.plane][0]
    if shape[axis] < settings.num_slices:
        raise UserError(
            f"model.network.num_slices={settings.num_slices}: the volumes have only {shape[axis]} {settings.plane} slices; "
            "ask for fewer."
        )
    if not settings.side and any(side < SMALLEST_SIDE for other, side in enumerate(shape) if other != axis):
        raise UserError(
            f"model.network=slices: {settings.plane} slices of volumes of {'x'.join(map(str, shape))} voxels have fewer than "
            f"{SMALLEST_SIDE} along a side; pad them with model.grid, or prepare at a smaller voxel size."
        )


def black_of(settings: NetworkSettings) -> float | None:
    """The value of black in z-scored volumes for a network that learned on pictures; None where nothing was learned."""
    if isinstance(settings, LiuSettings | ResNet3dSettings) or settings.weights is None:
        return None
    kind = settings.backbone if isinstance(settings, SlicesSettings) else settings.kind
    return PUBLISHED[kind].colours.black


def sides_of(settings: NetworkSettings) -> range:
    """Voxels along an axis that fit the network."""
    if isinstance(settings, LiuSettings):
        return valid_sides(settings.kind == "liu_executed")
    return range(SMALLEST_SIDE, 2**16)
