"""Differences between a scan and its expectation, as channels of masked values.

`residual`: T1w minus expectation, in units of the white-matter level, smoothed; 0 where the scan has no brain (skull
stripping differs between tools, and voxels that were cut away carry no information on the tissue). `structural`: cube
root of 1 - local SSIM. `deformation`: log-Jacobian minus its expectation (the log-Jacobian itself if the model does not
predict it), smoothed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.channels import CHANNELS, DATA_RANGE, LOG_JACOBIAN, T1W, Channel
from gen3d.core.errors import UserError
from gen3d.imaging.similarity import smoother, ssim_map

BACKGROUND = 0.02
"""T1w of a prepared scan up to which a voxel is outside the brain; fluid has at least 0.1."""

Masked = NDArray[np.float32]


@dataclass(frozen=True)
class ScanComparison:
    """Volumes of one scan and its expectation: channel name -> array [X, Y, Z]; `expected` may lack some."""

    observed: dict[str, NDArray[np.float32]]
    expected: dict[str, NDArray[np.float32]]


class ChannelMaker:
    """Computes masked channel values of scans; holds the weights of the smoothing kernel for one mask."""

    def __init__(self, mask: NDArray[np.bool_], spacing_mm: float, smoothing_mm: float) -> None:
        self.mask = mask
        self._smooth: Callable[[NDArray[np.floating]], Masked] = smoother(mask, smoothing_mm, spacing_mm)

    def sharp(self, comparison: ScanComparison, channel: Channel) -> Masked:
        """Values [V] before smoothing, from which region means are computed."""
        observed, expected = comparison.observed, comparison.expected
        if channel == "structural":
            similarity = ssim_map(observed[T1W], expected[T1W], DATA_RANGE, self.mask)
            # The cube root brings the skewed, bounded dissimilarity close to normal (Wilson and Hilferty 1931).
            return np.cbrt(np.maximum(1.0 - similarity[self.mask], 0.0)).astype(np.float32)
        if channel == "residual":
            values = observed[T1W][self.mask]
            return np.where(values > BACKGROUND, values - expected[T1W][self.mask], 0).astype(np.float32)
        values = observed[LOG_JACOBIAN][self.mask]
        predicted = LOG_JACOBIAN in expected
        return np.asarray(values - expected[LOG_JACOBIAN][self.mask] if predicted else values, dtype=np.float32)

    def smooth(self, values: Masked, channel: Channel) -> Masked:
        """Values [V] of the voxel maps; SSIM is a local mean already, so it is not smoothed again."""
        return values if channel == "structural" else self._smooth(values)


def available(
    requested: Sequence[Channel], model_channels: Sequence[str], plan_channels: Sequence[str]
) -> list[Channel]:
    """The requested channels that these data and this model allow, in the usual order.

    Raises:
        UserError: none of them can be computed.
    """
    possible: set[Channel] = set()
    if T1W in model_channels:
        possible |= {"residual", "structural"}
    if LOG_JACOBIAN in plan_channels:
        possible.add("deformation")
    kept = [channel for channel in CHANNELS if channel in requested and channel in possible]
    if not kept:
        raise UserError(
            f"none of the channels {', '.join(requested)} can be computed: the model learned {', '.join(model_channels)} "
            f"and the cohort has {', '.join(plan_channels)}; possible here: {', '.join(sorted(possible)) or 'none'}."
        )
    return kept
