"""One scan against another: errors in the brain and on the frame, and what a picture of a brain reads as."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3d.core.tables import Row
from gen3d.imaging.similarity import mse, psnr, ssim
from gen3d.models.transition.framing import Pictures

SSIM_SIGMA = 1.5
WHITE_PERCENTILE = 90.0
"""Of the values inside the brain of a scan: what counts as its white matter."""


@dataclass(frozen=True)
class Thresholds:
    """Shares of the white level below which a pixel of the brain is fluid, and above which it is tissue."""

    fluid: float
    tissue: float


def errors(made: Pictures, real: Pictures, brain: NDArray[np.bool_], data_range: float, flat: bool) -> Row:
    """MSE, PSNR (dB) and SSIM of two scans [S, *padded], in the brain and on the frame; `flat`: pictures one by one."""
    sigma = (0.0, SSIM_SIGMA, SSIM_SIGMA) if flat else SSIM_SIGMA
    first, second, inside = (made, real, brain) if flat else (made[0], real[0], brain[0])
    row: Row = {}
    for name, mask in (("brain", inside), ("frame", np.ones(first.shape, dtype=bool))):
        if not mask.any():
            mask = np.ones(first.shape, dtype=bool)
        row[f"mse_{name}"] = mse(first, second, mask)
        row[f"psnr_{name}"] = psnr(first, second, data_range, mask)
        row[f"ssim_{name}"] = ssim(first, second, data_range, mask, sigma)
    return row


def white_level(pictures: Pictures, brain: NDArray[np.bool_]) -> float:
    """The bright level of a scan inside its brain."""
    return float(np.percentile(pictures[brain] if brain.any() else pictures, WHITE_PERCENTILE))


def reading(pictures: Pictures, brain: NDArray[np.bool_], white: float, at: Thresholds) -> Row:
    """Shares of the brain that are fluid and tissue, and the mean intensity there.

    `brain` and `white` are those of the scan that everything was made from, so that neither can be moved by what made it.
    """
    values = pictures[brain] if brain.any() else pictures
    return {
        "fluid": float((values < at.fluid * white).mean()),
        "tissue": float((values > at.tissue * white).mean()),
        "intensity": float(values.mean()),
    }


def nearest(made: NDArray[np.floating], sources: NDArray[np.floating]) -> NDArray[np.int64]:
    """Place of the source scan that correlates best with each made one, [n]; rows are flattened scans [n, p]."""

    def standardised(values: NDArray[np.floating]) -> NDArray[np.float64]:
        centred = values - values.mean(axis=1, keepdims=True, dtype=np.float64)
        return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12))

    return np.asarray((standardised(made) @ standardised(sources).T).argmax(axis=1), dtype=np.int64)
