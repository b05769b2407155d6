"""Background at 0, whatever value an export gave it: offsets, z-scores inside a mask, codes such as -1024."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.imaging.volume import Volume

Floats = NDArray[np.float32]

FEW_NEGATIVES = 0.01  # share of voxels; more of them are an offset, not ringing at edges
SMALL = 0.1  # of the bright level: an undershoot or a background of less is no offset
PLATEAU = 0.5  # share of the voxels on the six faces that have the one value of a constant background
MANY_NEGATIVES = 0.1  # share of the voxels inside: half of a z-scored brain, the rim of one that rings
FAR = 0.5  # of the range inside: a background farther below the darkest tissue is a code, not air on the tissue's scale
SMALLEST_PATCH = 100  # voxels of the background's value that do not reach a face, such as emptied ventricles


def background_at_zero(scan: Volume) -> Volume:
    """The scan with a background of 0 and no value below.

    A constant background is the value of most voxels on the six faces. Where it lies just below the tissue, it is air on the
    tissue's scale and is taken off everything (a signed export). Where it lies among or above the tissue's values or far
    below, it is a code: its voxels become 0, and the tissue is raised above 0 if many of its values are negative (z-scored
    inside a mask). Without such a background, an undershoot that is small or rare (ringing) is cut off, and any other
    minimum is taken off everything.
    """
    data, low = scan.data, float(scan.data.min())
    plateau = constant_background(data)
    if low >= 0 and not plateau:
        return scan
    bright = bright_level(data)
    at_zero = plateau is None or plateau < SMALL * bright
    if at_zero and low >= 0:
        return scan
    if at_zero and -low < SMALL * bright:
        return _from(scan, data)
    if plateau is None:
        ringing = float(np.mean(data < 0)) < FEW_NEGATIVES
        return _from(scan, data if ringing else data - np.float32(low))
    return _from(scan, _without_plateau(data, plateau))


def constant_background(data: Floats) -> float | None:
    """The one value that most voxels on the six faces of [X, Y, Z] have; None where the background is noise."""
    faces = np.concatenate([face.ravel() for axis in range(3) for face in (data.take(0, axis), data.take(-1, axis))])
    values, counts = np.unique(faces, return_counts=True)
    most = int(counts.argmax())
    return float(values[most]) if counts[most] >= PLATEAU * faces.size else None


def bright_level(data: Floats) -> float:
    """98th percentile of the positive voxels; 0 where there are none."""
    positive = data[data > 0]
    return float(np.percentile(positive, 98)) if positive.size else 0.0


def _without_plateau(data: Floats, plateau: float) -> Floats:
    background = _patches(data == np.float32(plateau))
    inside = data[~background]
    if inside.size == 0:
        return data - np.float32(plateau)
    low, high = (float(value) for value in np.percentile(inside, (0.1, 99.9)))
    if plateau and -FAR * 0.01 * (high - low) <= low - plateau <= FAR * (high - low):
        return data - np.float32(plateau)
    negative = float(np.mean(inside < 0)) >= MANY_NEGATIVES
    return np.where(background, 0, data - np.float32(min(low, 0.0) if negative else 0.0)).astype(np.float32)


def _patches(same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pieces that reach a face or are large: single voxels of tissue may have the background's value by chance."""
    pieces, _ = ndimage.label(same)
    kept = np.bincount(pieces.ravel()) >= SMALLEST_PATCH
    for axis in range(3):
        for side in (0, -1):
            kept[np.unique(pieces.take(side, axis))] = True
    kept[0] = False
    found: NDArray[np.bool_] = kept[pieces]
    return found


def _from(scan: Volume, data: Floats) -> Volume:
    return Volume(np.maximum(data, 0).astype(np.float32, copy=False), scan.affine, scan.assumed)
