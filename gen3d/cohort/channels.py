"""Names of the volumes that are stored of every scan, and of the channels in which maps and region tables show it."""

from __future__ import annotations

from typing import Literal

T1W, LOG_JACOBIAN, MODULATED = "t1w", "log_jacobian", "modulated_density"
"""The volumes of a prepared scan; the last one is stored where it was asked for."""

DEFORMED = (LOG_JACOBIAN, MODULATED)
"""Volumes that live on the template's voxels; the T1w lives in the affinely aligned scan."""

DATA_RANGE = 1.2
"""Range of T1w values in a prepared brain: background 0, white matter 1, vessels and fat a little more."""

Channel = Literal["residual", "structural", "deformation"]
CHANNELS: tuple[Channel, ...] = ("residual", "structural", "deformation")
"""Channels of voxel maps."""

SIZE, CONTRAST, VOLUME = "size", "contrast", "volume"
"""Channels of region tables alone."""

LOG_VOLUMES = ("deformation", SIZE, CONTRAST, VOLUME)
"""Channels whose effects are logarithms of volume."""

ON_TEMPLATE = ("deformation",)
"""Channels whose maps live on the template's voxels; those of the others live in the affinely aligned scan."""
