"""From settings to the network that classifies volumes, and whether a grid fits it."""

from __future__ import annotations

from collections.abc import Sequence

from gen3d.core.errors import UserError
from gen3d.models.supervised.networks import LiuSettings, NetworkSettings, VideoSettings
from gen3d.nets.classifiers.base import StagedNetwork
from gen3d.nets.classifiers.liu import LiuNetwork, valid_sides
from gen3d.nets.classifiers.video import VideoNetwork, VideoTransformer

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
            the weights of a run.
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
    raise AssertionError(settings)


def check_grid(settings: NetworkSettings, shape: Sequence[int]) -> None:
    """Raise a UserError that says which axes do not fit the network, and what to pad or crop to."""
    sides = sides_of(settings)
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


def sides_of(settings: NetworkSettings) -> range:
    """Voxels along an axis that fit the network."""
    if isinstance(settings, LiuSettings):
        return valid_sides(settings.kind == "liu_executed")
    return range(SMALLEST_SIDE, 2**16)
