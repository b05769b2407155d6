"""The two-point tissue rule: the same tissue has the same number in every scan, whatever the scanner's units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.core.errors import UserError
from gen3d.imaging.template import WM_LEVEL, Template

PURE_WM, PURE_GM = 0.95, 0.80
LIMITS = (0.0, 2.0)  # vessels and remains of fat end here; stored volumes hold up to 4


@dataclass(frozen=True)
class TissueLevels:
    """Median intensities of white and grey matter."""

    white: float
    grey: float


def tissue_levels(volume: NDArray[np.float32], template: Template, brain: NDArray[np.bool_]) -> TissueLevels:
    """Median white- and grey-matter intensities of an aligned scan, inside the pure parts of the template's tissues.

    The pure parts are where the template is almost certain of its tissue. Fluid that a shrunken cortex leaves there would
    lower the grey median, so grey voxels are those nearer to the first grey median than to white or to fluid.
    """
    white = _core(template.wm, PURE_WM) & brain
    grey = (template.gm > PURE_GM) & brain
    if white.sum() < 30 or grey.sum() < 30:
        raise UserError(
            "hardly any brain lies where the template's white and grey matter are; the registration failed."
        )
    white_level = float(np.median(volume[white]))
    values = volume[grey]
    grey_level = float(np.median(values))
    for _ in range(3):
        reach = max(abs(white_level - grey_level) / 2, 1e-6 * abs(white_level) + 1e-12)
        near = np.abs(values - grey_level) < reach
        if not near.any():
            break
        grey_level = float(np.median(values[near]))
    return TissueLevels(white_level, grey_level)


def apply_tissue_rule(
    volume: NDArray[np.float32], template: Template, brain: NDArray[np.bool_], levels: TissueLevels | None = None
) -> tuple[NDArray[np.float32], TissueLevels]:
    """Map white matter to 1 and grey matter to the template's grey linearly; clip to 0..2; background 0.

    Args:
        volume: [X, Y, Z] scan aligned to the template, in any linear unit.
        brain: [X, Y, Z] the person's brain on the same grid.
        levels: tissue levels measured otherwise; by default those under the template's tissues.

    Raises:
        UserError: no tissue where it should be, or grey matter not darker than white (then it is no T1w scan, or misplaced).
    """
    tissue = levels or tissue_levels(volume, template, brain)
    wanted_grey = tissue_levels(template.t1w, template, template.mask).grey
    if not tissue.grey < tissue.white:
        raise UserError(
            "grey matter is not darker than white matter; this is no T1-weighted scan, or its registration failed."
        )
    slope = (WM_LEVEL - wanted_grey) / (tissue.white - tissue.grey)
    scaled = WM_LEVEL + slope * (volume - tissue.white)
    return np.where(brain, np.clip(scaled, *LIMITS), 0.0).astype(np.float32), tissue


def _core(share: NDArray[np.float32], purity: float) -> NDArray[np.bool_]:
    """Voxels of high tissue share, eroded where enough of them remain."""
    pure = share > purity
    eroded: NDArray[np.bool_] = ndimage.binary_erosion(pure)
    return eroded if eroded.sum() >= 0.2 * pure.sum() else pure
