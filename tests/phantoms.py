"""Scans made from the MNI152 template by a known affine, intensity and bias: what preparation must undo is known exactly."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from gen3d.imaging.template import full_template
from gen3d.imaging.volume import Volume


def matrix(
    angles_degrees: tuple[float, float, float] = (8.0, -4.0, 5.0),
    scales: tuple[float, float, float] = (0.95, 0.92, 0.9),
    shift_mm: tuple[float, float, float] = (4.0, -9.0, 12.0),
    shear: float = 0.0,
) -> NDArray[np.float64]:
    """Template world -> scan world: scales along the template's axes (and a shear), then a rotation and a shift."""
    linear = Rotation.from_euler("xyz", angles_degrees, degrees=True).as_matrix() @ np.diag(scales)
    linear = linear @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1.0]])
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = linear, shift_mm
    return result


def scan_of(
    template_to_scan: NDArray[np.float64],
    spacing_mm: float = 3.0,
    gain: float = 400.0,
    bias: float = 0.0,
    head: bool = False,
    noise: float = 0.01,
    seed: int = 0,
) -> Volume:
    """A scan of the template's brain as `template_to_scan` moves it.

    `bias` is the amplitude of a smooth log-intensity drift (see `log_drift`); `head` adds skull and scalp.
    """
    template = full_template()
    side = int(np.ceil(260 / spacing_mm))
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = template_to_scan[:3, 3] - spacing_mm * side / 2 + template_to_scan[:3, :3] @ [0, -18, 8]
    source = with_scalp(template.t1w) if head else template.t1w
    smooth = ndimage.gaussian_filter(source, spacing_mm / 2.5)
    to_template = np.linalg.inv(template.affine) @ np.linalg.inv(template_to_scan) @ affine
    data = ndimage.affine_transform(smooth, to_template[:3, :3], to_template[:3, 3], output_shape=(side,) * 3, order=1)
    tissue = data > 0.02
    noisy = data + noise * np.random.default_rng(seed).standard_normal(data.shape)
    data = np.where(tissue, np.maximum(noisy, 0.01) * np.exp(bias * log_drift(data.shape)), 0)
    return Volume((gain * data).astype(np.float32), affine)


def log_drift(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A smooth field [X, Y, Z] between about -1 and 1."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    return np.asarray(np.sin(2.0 * x + 0.5) * np.cos(1.5 * y) + 0.6 * z - 0.2)


def with_scalp(t1w: NDArray[np.float32]) -> NDArray[np.float32]:
    """The brain inside a dark skull of 8 mm and a bright scalp of 7 mm, with a neck below."""
    brain = ndimage.binary_closing(t1w > 0.05, iterations=3)
    distance = ndimage.distance_transform_edt(~brain[::2, ::2, ::2]) * 2
    distance = np.kron(distance, np.ones((2, 2, 2)))[: t1w.shape[0], : t1w.shape[1], : t1w.shape[2]]
    distance = np.pad(distance, [(0, n - m) for n, m in zip(t1w.shape, distance.shape, strict=True)], mode="edge")
    head = t1w + 0.08 * ((distance > 0) & (distance <= 8)) + 1.1 * ((distance > 8) & (distance <= 15))
    return head.astype(np.float32)


def write(path: Path, scan: Volume) -> Path:
    """Save a scan as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(scan.data.astype(np.int16), scan.affine), path)
    return path


def distance_mm(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Mean distance in scan world, over the template's brain, between where two matrices send its points."""
    template = full_template()
    points = np.argwhere(template.mask[::8, ::8, ::8]) * 8 @ template.affine[:3, :3].T + template.affine[:3, 3]
    difference = found - true
    return float(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())
