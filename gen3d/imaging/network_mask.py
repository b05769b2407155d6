"""A brain mask that a network proposes for a whole head: when it is believed, and why not.

The network itself is handed in as a function, so that nothing here needs torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.core.errors import UserError
from gen3d.imaging.affine import depth_in_template, registration_template
from gen3d.imaging.resample import sample, working_copy
from gen3d.imaging.volume import Volume

BrainNetwork = Callable[[Volume], NDArray[np.bool_]]
"""A scan -> [X, Y, Z] what the network calls brain, on the scan's own voxels."""

NETWORK_MASKS = ("deepbet",)
DEEPBET_FILES = ("bbox_model.pt", "model.pt")
DEEPBET_EXTRA = "pip install 'gen3d[masks]'"

SMALLEST_L, LARGEST_L = 0.7, 2.0
"""Brains of adults and schoolchildren with their fluid; what is outside is half a brain, or a head."""
LEAST_IN_ONE_PIECE = 0.95
LEAST_OVERLAP = 0.85
"""Dice of the mask and the template's brain, which was registered to what the mask left: 0.85 is also what a verdict asks for."""


def deepbet_files() -> tuple[Path, Path]:
    """The files of deepbet's two networks: that which finds the brain's box, and that which finds the brain.

    They are found by the package's list of files; the package itself, which opens windows, is not imported.

    Raises:
        UserError: deepbet is not installed, or without its networks.
    """
    try:
        files = importlib.metadata.files("deepbet") or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"brain_mask=deepbet needs the package deepbet; {DEEPBET_EXTRA}, or use brain_mask=auto."
        ) from None
    by_name = {file.name: Path(str(file.locate())) for file in files if file.parent.name == "models"}
    box, brain = (by_name.get(name, Path(name)) for name in DEEPBET_FILES)
    if not (box.is_file() and brain.is_file()):
        raise UserError(
            f"brain_mask=deepbet: its package lacks {' or '.join(DEEPBET_FILES)}; pip install --force-reinstall --no-deps "
            "deepbet==1.0.2, or use brain_mask=auto."
        )
    return box, brain


def proposed(network: BrainNetwork, scan: Volume) -> tuple[NDArray[np.bool_], str]:
    """The network's brain on the working copy of a scan, in one piece and without holes; and why it cannot be right, or ""."""
    found = network(scan)
    labels, num = ndimage.label(found)
    if num == 0:
        return working_copy(Volume(found.astype(np.float32), scan.affine)).data > 0.5, "it found no brain"
    sizes = np.bincount(labels.ravel())[1:]
    whole = ndimage.binary_fill_holes(labels == 1 + int(sizes.argmax()))
    mask: NDArray[np.bool_] = working_copy(Volume(whole.astype(np.float32), scan.affine)).data > 0.5
    share, litres = float(sizes.max() / sizes.sum()), float(whole.sum() * np.prod(scan.spacing_mm)) / 1e6
    if share < LEAST_IN_ONE_PIECE:
        return mask, f"its brain lies in pieces, the largest of which holds {100 * share:.0f} %"
    if not SMALLEST_L <= litres <= LARGEST_L:
        return mask, f"its brain has {litres:.2f} L, and {SMALLEST_L:g} to {LARGEST_L:g} L are believed"
    return mask, ""


def overlap_with_template(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], template_to_scan: NDArray[np.float64]
) -> float:
    """Dice of a mask [X, Y, Z] on voxels of `affine` and the registered template's brain."""
    to_template = np.linalg.inv(template_to_scan) @ affine
    depth_mm = sample(
        Volume(depth_in_template(), registration_template().affine), to_template, mask.shape, outside=-100.0
    )
    inside = depth_mm > 0
    return float(2 * (mask & inside).sum() / max(int(mask.sum() + inside.sum()), 1))
