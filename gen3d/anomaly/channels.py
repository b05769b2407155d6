"""What one scan shows against its expectation, as channels of masked values.

`residual`: T1w minus expectation, in units of the white-matter level, smoothed; 0 where the scan has no brain (skull
stripping differs between tools, and what was cut away says nothing of the tissue). `structural`: cube root of
1 - local SSIM.
`deformation`: log-Jacobian minus its expectation (the log-Jacobian itself when the model did not learn it), smoothed.
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
"""T1w of a prepared scan up to which there is no brain; fluid has 0.1 and more."""

Masked = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """Volumes of one scan and its expectation: channel name -> array [X, Y, Z]; `expected` may lack some."""

    observed: dict[str, NDArray[np.float32]]
    expected: dict[str, NDArray[np.float32]]


class ChannelMaker:
    """Turns comparisons into masked channel values; holds the smoothing kernel's weights of one mask."""

    def __init__(self, mask: NDArray[np.bool_], spacing_mm: float, smoothing_mm: float) -> None:
        self.mask = mask
        self._smooth: Callable[[NDArray[np.floating]], Masked] = smoother(mask, smoothing_mm, spacing_mm)

    def sharp(self, comparison: Comparison, channel: Channel) -> Masked:
        """Values [V] before smoothing: what region means are made from."""
        observed, expected = comparison.observed, comparison.expected
        if channel == "structural":
            similarity = ssim_map(observed[T1W], expected[T1W], DATA_RANGE, self.mask)
            # The cube root brings the skewed, bounded dissimilarity close to normal (Wilson and Hilferty 1931).
            return np.cbrt(np.maximum(1.0 - similarity[self.mask], 0.0)).astype(np.float32)
        if channel == "residual":
            values = observed[T1W][self.mask]
            return np.where(values > BACKGROUND, values - expected[T1W][self.mask], 0).astype(np.float32)
        values = observed[LOG_JACOBIAN][self.mask]
        known = LOG_JACOBIAN in expected
        return np.asarray(values - expected[LOG_JACOBIAN][self.mask] if known else values, dtype=np.float32)

    def smooth(self, values: Masked, channel: Channel) -> Masked:
        """Values [V] as they enter the voxel maps; SSIM is local already."""
        return values if channel == "structural" else self._smooth(values)


def available(wanted: Sequence[Channel], model_channels: Sequence[str], plan_channels: Sequence[str]) -> list[Channel]:
    """The wanted channels that these data and this model can give, in the usual order.

    Raises:
        UserError: none of them can be made.
    """
    possible: set[Channel] = set()
    if T1W in model_channels:
        possible |= {"residual", "structural"}
    if LOG_JACOBIAN in plan_channels:
        possible.add("deformation")
    kept = [channel for channel in CHANNELS if channel in wanted and channel in possible]
    if not kept:
        raise UserError(
            f"none of the channels {', '.join(wanted)} can be made: the model learned {', '.join(model_channels)} "
            f"and the cohort has {', '.join(plan_channels)}; possible here: {', '.join(sorted(possible)) or 'none'}."
        )
    return kept
