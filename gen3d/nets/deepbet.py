"""deepbet's two networks (Fisch et al., NeuroImage 2024, "deepbet: Fast brain extraction of T1-weighted MRI", package 1.0.2, MIT).

A first network finds the brain's box in the scan at 128 x 128 x 128, a second the brain in that box at 256 x 256 x 256. The steps
between are those of `deepbet.bet.BrainExtraction`; the package is not imported, because it opens windows. Its files are
TorchScript, which is code: only the two files that were published are run.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.imaging.network_mask import NETWORK_MASKS, BrainNetwork, deepbet_files
from gen3d.imaging.volume import Volume

SHA256 = (
    "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
)
"""Of the files of deepbet 1.0.2, in the order of `deepbet_files`."""
BOX_SHAPE, BRAIN_SHAPE = (128, 128, 128), (256, 256, 256)
BOX_MARGIN = 0.1
"""Room on either side of the box, as a share of its own side."""
LEAST_OF_A_PLANE = 0.02
"""Share of a plane that is brain, from which on the plane belongs to the box."""
DARKEST, BRIGHTEST = 0.005, 0.995


def brain_network(method: str) -> BrainNetwork | None:
    """The network of a `brain_mask=`, None for the methods that have none.

    Raises:
        UserError: its package is missing, or its files are not those that were published.
    """
    return find_brain_in if method in NETWORK_MASKS and _networks() else None


def find_brain_in(scan: Volume) -> NDArray[np.bool_]:
    """[X, Y, Z] what deepbet calls brain, on the scan's voxels: before pieces are dropped and holes are filled.

    Args:
        scan: a whole head in any resolution, axes turned to RAS.
    """
    box_network, brain_network_ = _networks()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # scans are the parallel dimension, so that results do not depend on the machine
    try:
        with torch.inference_mode():
            return _brain(torch.from_numpy(np.ascontiguousarray(scan.data)), box_network, brain_network_)
    finally:
        torch.set_num_threads(threads)


def _brain(data: Tensor, box_network: Any, brain_network_: Any) -> NDArray[np.bool_]:
    found = np.zeros(data.shape, dtype=bool)
    small = _resized(data, BOX_SHAPE)
    low, high = (float(np.quantile(small.numpy(), share)) for share in (DARKEST, BRIGHTEST))
    if not high > low:
        return found
    box = _box((box_network(_normalised(small, low, high))[0, 1] > 0.5).numpy(), data.shape)
    if box is None:
        return found
    inside = brain_network_(_normalised(_resized(data[box], BRAIN_SHAPE), low, high))[0, 1]
    found[box] = (_resized(inside, found[box].shape) > 0.5).numpy()
    return found


def _resized(data: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(data[None, None], shape, mode="nearest-exact")[0, 0]


def _normalised(data: Tensor, low: float, high: float) -> Tensor:
    """[1, 1, D, H, W] as the networks were trained: between two quantiles, standardised, on the scale of pictures of ImageNet."""
    data = ((data - low) / (high - low)).clamp(0, 1)
    return (0.226 * (data - data.mean()) / data.std() + 0.449)[None, None]


def _box(small: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, slice, slice] | None:
    """The box around the largest piece, with its margin, in voxels of the scan; None where there is none."""
    labels, num = ndimage.label(small)
    if num == 0:
        return None
    piece = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    sides = []
    for axis, side in enumerate(shape):
        share = piece.mean(axis=tuple(other for other in range(3) if other != axis))
        planes = np.flatnonzero(share > LEAST_OF_A_PLANE)
        if len(planes) == 0:
            return None
        factor, first, end = side / len(share), int(planes[0]), int(planes[-1]) + 1
        centre, width = round(factor * (first + end) / 2), round((1 + 2 * BOX_MARGIN) * factor * (end - first))
        sides.append(slice(max(0, math.trunc(centre - width / 2)), min(side, math.trunc(centre + width / 2))))
    return sides[0], sides[1], sides[2]


@lru_cache(maxsize=1)
def _networks() -> tuple[Any, Any]:
    """Both networks, on the processor.

    Raises:
        UserError: see `brain_network`.
    """
    networks = []
    for path, expected in zip(deepbet_files(), SHA256, strict=True):
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise UserError(
                f"{path}: is not the file of deepbet 1.0.2, and TorchScript of unknown origin is not run; pip install "
                "--force-reinstall --no-deps deepbet==1.0.2."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is old
            networks.append(torch.jit.load(str(path), map_location="cpu").eval())
    return networks[0], networks[1]
