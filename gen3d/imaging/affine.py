"""Affine registration of a scan to the template: many starts judged at low resolution, the best ones refined.

Similarity is the Mattes mutual information (Mattes et al., IEEE TMI 2003). Every scan begins from a fan of pitches, offsets and
scales around its centre of mass, so a tilted head or a long neck is no special case; a scan whose final similarity stays
below that of a good alignment gets a wider fan of turns about all axes.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import Template, template_on
from gen3d.imaging.volume import Volume

Matrix = NDArray[np.float64]

REGISTRATION_SPACING_MM = 2.0
BRAIN_CENTRE_MM = np.array([0.0, -18.0, 8.0])  # of the MNI152 brain: rotations and scales turn about it
CORTEX_RADIUS_MM = (
    70.0  # turns angles and scales into millimetres at the cortex, so that one step length suits all parameters
)
# Mutual information (nats) below which the wide fan is tried. Brains aligned correctly reached 0.67 to 1.16 (62 real
# scans) and heads 0.54 to 0.63 (9); started from a wrong pose and left there, brains ended at 0.38 to 0.72, heads below 0.46.
ENOUGH_INFORMATION_BRAIN, ENOUGH_INFORMATION_HEAD = 0.75, 0.5
NUM_BINS = 32
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Alignment:
    """`template_to_scan` [4, 4] maps template world points to scan world points (RAS, mm)."""

    template_to_scan: Matrix
    mutual_information: float
    num_starts: int


def align(scan: Volume, whole_head: bool, degrees_of_freedom: int = 12, start: Matrix | None = None) -> Alignment:
    """Register a scan to the MNI152 template with 6 (rigid), 9 (and scales along the template's axes) or 12 parameters.

    Args:
        scan: the brain, or the whole head.
        whole_head: there is tissue outside the brain, so only the template's brain (and 4 mm around it) is compared.
        start: template -> scan matrix to refine; without it the starts are searched.
    """
    judge = Judge(scan, margin_mm=4.0 if whole_head else 12.0)
    optimiser = Optimiser(scan, margin_mm=4.0 if whole_head else 12.0)
    candidates = [start] if start is not None else judge.best(fan(scan, whole_head), 3)
    best, num_starts = _descend(candidates, judge, optimiser, degrees_of_freedom), len(candidates)
    enough = ENOUGH_INFORMATION_HEAD if whole_head else ENOUGH_INFORMATION_BRAIN
    if start is None and judge(best) < enough:
        wide = judge.best(wide_fan(scan, whole_head), 6)
        rescued = _descend(wide, judge, optimiser, degrees_of_freedom)
        num_starts += len(wide)
        best = max(best, rescued, key=judge)
    return Alignment(best, judge(best), num_starts)


def _descend(candidates: list[Matrix], judge: Judge, optimiser: Optimiser, degrees_of_freedom: int) -> Matrix:
    """Refine the candidates as similarities at low resolution, and the best of them with all parameters."""
    if len(candidates) > 1:
        candidates = [optimiser.similarity(matrix, judge.smoothing_mm) for matrix in candidates]
    best = max(candidates, key=judge)
    return optimiser.linear(best, degrees_of_freedom)


class Judge:
    """Mutual information of a template -> scan matrix on about 3000 points 8 mm apart: under a millisecond per matrix."""

    smoothing_mm = 4.0

    def __init__(self, scan: Volume, margin_mm: float) -> None:
        template = registration_template()
        indices = 4 * np.argwhere(depth_in_template()[::4, ::4, ::4] > -margin_mm)
        self.points = indices @ template.affine[:3, :3].T + template.affine[:3, 3]
        smooth = ndimage.gaussian_filter(template.t1w, self.smoothing_mm / 2 / REGISTRATION_SPACING_MM)
        self.fixed_bins = _bins(smooth[tuple(indices.T)], float(smooth.max()))
        spacing = np.array(scan.spacing_mm)
        every = np.maximum(1, np.round(self.smoothing_mm / spacing)).astype(int)
        self.image = ndimage.gaussian_filter(scan.data, self.smoothing_mm / spacing)[
            :: every[0], :: every[1], :: every[2]
        ]
        coarse = scan.affine.copy()
        coarse[:3, :3] *= every
        self.to_voxels = np.linalg.inv(coarse)
        self.ceiling = bright_level(scan)

    def __call__(self, matrix: Matrix) -> float:
        """Mutual information in nats."""
        to_scan = self.to_voxels @ matrix
        places = self.points @ to_scan[:3, :3].T + to_scan[:3, 3]
        values = ndimage.map_coordinates(self.image, places.T, order=1, mode="constant")
        joint = np.bincount(self.fixed_bins * NUM_BINS + _bins(values, self.ceiling), minlength=NUM_BINS**2)
        shares = joint.reshape(NUM_BINS, NUM_BINS) / joint.sum()
        independent = shares.sum(axis=1, keepdims=True) * shares.sum(axis=0, keepdims=True)
        seen = shares > 0
        return float((shares[seen] * np.log(shares[seen] / independent[seen])).sum())

    def best(self, matrices: list[Matrix], num: int) -> list[Matrix]:
        """The `num` matrices of highest information."""
        return sorted(matrices, key=self, reverse=True)[:num]


class Optimiser:
    """Gradient descent on Mattes mutual information, template fixed, scan moving."""

    def __init__(self, scan: Volume, margin_mm: float) -> None:
        template = registration_template()
        near = depth_in_template() > -margin_mm
        self.fixed = world_image(template.t1w, template.affine)
        self.near = world_image(near.astype(np.float32), template.affine) > 0.5
        self.moving = world_image(np.minimum(scan.data, 1.3 * bright_level(scan)), scan.affine)
        # ITK knows no shear: where the scan's header has some, ITK's world differs from the scan's by this matrix.
        self.to_itk_world = _orthogonal(scan.affine) @ np.linalg.inv(scan.affine)

    def similarity(self, matrix: Matrix, smoothing_mm: float) -> Matrix:
        """Seven parameters (rigid and one scale), coarse."""
        transform = sitk.Similarity3DTransform()
        matrix = self.to_itk_world @ matrix
        rotation, scale = nearest_rotation(matrix)
        _place(transform, rotation * scale, matrix)
        scales = [4 * CORTEX_RADIUS_MM**2] * 3 + [1.0] * 3 + [CORTEX_RADIUS_MM**2]
        self._descend(transform, scales, step_mm=8.0, stop_mm=0.2, share=0.02, smoothing_mm=smoothing_mm, iterations=40)
        return np.linalg.inv(self.to_itk_world) @ matrix_of(transform)

    def linear(self, matrix: Matrix, degrees_of_freedom: int) -> Matrix:
        """All requested parameters, at two resolutions; nine are the rotation and scales nearest to the twelve."""
        matrix = self.to_itk_world @ matrix
        if degrees_of_freedom == 6:
            transform: sitk.Transform = sitk.Euler3DTransform()
            _place(transform, nearest_rotation(matrix)[0], matrix)
            scales = [CORTEX_RADIUS_MM**2] * 3 + [1.0] * 3
        else:
            transform = sitk.AffineTransform(3)
            _place(transform, matrix[:3, :3], matrix)
            scales = [CORTEX_RADIUS_MM**2] * 9 + [1.0] * 3
        self._descend(transform, scales, step_mm=4.0, stop_mm=0.05, share=0.05, smoothing_mm=2.0, iterations=100)
        self._descend(transform, scales, step_mm=1.0, stop_mm=0.01, share=0.2, smoothing_mm=0.0, iterations=100)
        world_matrix = np.linalg.inv(self.to_itk_world) @ matrix_of(transform)
        return without_shear(world_matrix) if degrees_of_freedom == 9 else world_matrix

    def _descend(
        self,
        transform: sitk.Transform,
        scales: list[float],
        *,
        step_mm: float,
        stop_mm: float,
        share: float,
        smoothing_mm: float,
        iterations: int,
    ) -> None:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(NUM_BINS)
        method.SetMetricFixedMask(self.near)
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetInitialTransform(transform, inPlace=True)
        method.SetOptimizerScales(scales)
        method.SetOptimizerAsRegularStepGradientDescent(step_mm, stop_mm, iterations, relaxationFactor=0.6)
        method.SetShrinkFactorsPerLevel([1])
        method.SetSmoothingSigmasPerLevel([smoothing_mm])
        method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
        # A start so wrong that no sample falls into the scan cannot descend: it is judged where it stands.
        with contextlib.suppress(RuntimeError):
            method.Execute(self.fixed, self.moving)


def fan(scan: Volume, whole_head: bool) -> list[Matrix]:
    """Starts about the scan's centre of mass: pitches and scales, and for a whole head (neck, face) offsets too."""
    pitches = (-30.0, -15.0, 0.0, 15.0, 30.0)
    up_mm = (-20.0, 0.0, 20.0, 40.0, 60.0) if whole_head else (0.0,)
    front_mm = (-20.0, 0.0, 20.0) if whole_head else (0.0,)
    centre = centre_of_mass_mm(scan)
    return [
        _start((pitch, 0.0, 0.0), scale, centre + np.array([0.0, front, up]))
        for pitch, up, front, scale in itertools.product(pitches, up_mm, front_mm, (0.88, 1.0))
    ]


def wide_fan(scan: Volume, whole_head: bool) -> list[Matrix]:
    """Starts for a scan whose header or pose is unusual: rotations from everywhere (400, about 30 degrees apart)."""
    centre = centre_of_mass_mm(scan)
    turns = Rotation.from_quat(np.random.default_rng(0).standard_normal((400, 4))).as_euler("xyz", degrees=True)
    up_mm = (0.0, 40.0) if whole_head else (0.0,)
    return [
        _start((float(turn[0]), float(turn[1]), float(turn[2])), 0.92, centre + np.array([0.0, 0.0, up]))
        for turn, up in itertools.product(turns, up_mm)
    ]


def _start(angles_degrees: tuple[float, float, float], scale: float, centre_mm: NDArray[np.floating]) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_degrees, degrees=True).as_matrix() * scale
    matrix[:3, 3] = centre_mm - matrix[:3, :3] @ BRAIN_CENTRE_MM
    return matrix


def registration_template() -> Template:
    """The template on the grid on which alignments are computed, whatever the requested spacing."""
    return template_on(plan_grid(REGISTRATION_SPACING_MM))


@lru_cache(maxsize=1)
def depth_in_template() -> NDArray[np.float32]:
    """[X, Y, Z] distance in mm to the surface of the template's brain, positive inside, on the registration grid."""
    template = registration_template()
    spacing = np.linalg.norm(template.affine[:3, :3], axis=0)
    inside = ndimage.distance_transform_edt(template.mask, spacing)
    outside = ndimage.distance_transform_edt(~template.mask, spacing)
    return (inside - outside).astype(np.float32)


def bright_level(scan: Volume) -> float:
    """98th percentile of the non-background voxels: the white matter of a brain, the fat of a head."""
    return float(np.percentile(scan.data[scan.data > 0], 98))


def foreground(scan: Volume) -> NDArray[np.bool_]:
    """[X, Y, Z] voxels that are not background, by a threshold at 15 % of the bright level."""
    return scan.data > 0.15 * bright_level(scan)


def centre_of_mass_mm(scan: Volume) -> NDArray[np.float64]:
    """World coordinates (RAS) of the centre of the foreground."""
    voxel = np.array(ndimage.center_of_mass(foreground(scan)))
    return scan.affine[:3, :3] @ voxel + scan.affine[:3, 3]


def nearest_rotation(matrix: Matrix) -> tuple[NDArray[np.float64], float]:
    """Rotation [3, 3] and isotropic scale nearest to a linear map (orthogonal Procrustes)."""
    left, singular, right = np.linalg.svd(matrix[:3, :3])
    return left @ right, float(singular.mean())


def without_shear(matrix: Matrix) -> Matrix:
    """The rotation after scales along the template's axes that is nearest to a linear map, the brain's centre kept.

    Least squares by turns: the rotation for given scales (Procrustes), the scales for a given rotation.
    """
    linear, scales = matrix[:3, :3], np.ones(3)
    for _ in range(50):
        left, _, right = np.linalg.svd(linear * scales)
        rotation = left @ right
        scales = np.diag(rotation.T @ linear)
    result = np.eye(4)
    result[:3, :3] = rotation * scales
    result[:3, 3] = matrix[:3, :3] @ BRAIN_CENTRE_MM + matrix[:3, 3] - result[:3, :3] @ BRAIN_CENTRE_MM
    return result


def world_image(data: NDArray[np.floating], affine: Matrix) -> sitk.Image:
    """SimpleITK image of an array with a RAS affine, placed in ITK's LPS world (a slight shear is left out)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(data, dtype=np.float32).T))
    lps = LPS_FROM_RAS @ _orthogonal(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _orthogonal(affine: Matrix) -> Matrix:
    """The affine with its axes turned the least to stand at right angles."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    result = affine.copy()
    result[:3, :3] = left @ right * spacing
    return result


def matrix_of(transform: sitk.Transform) -> Matrix:
    """RAS matrix [4, 4] of a linear ITK transform."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(axis))) - origin for axis in np.eye(3).tolist()]
    lps = np.eye(4)
    lps[:3, :3] = np.stack(columns, axis=1)
    lps[:3, 3] = origin
    return LPS_FROM_RAS @ lps @ LPS_FROM_RAS


def _place(transform: Any, linear: NDArray[np.floating], matrix: Matrix) -> None:
    """Give a centred ITK transform this linear part, so that the brain's centre goes where `matrix` sends it."""
    centre = LPS_FROM_RAS[:3, :3] @ BRAIN_CENTRE_MM
    goes_to = LPS_FROM_RAS[:3, :3] @ (matrix[:3, :3] @ BRAIN_CENTRE_MM + matrix[:3, 3])
    transform.SetCenter(centre.tolist())
    transform.SetMatrix((LPS_FROM_RAS[:3, :3] @ linear @ LPS_FROM_RAS[:3, :3]).ravel().tolist())
    transform.SetTranslation((goes_to - centre).tolist())


def _bins(values: NDArray[np.floating], ceiling: float) -> NDArray[np.int64]:
    return np.clip(values / ceiling * (NUM_BINS - 0.01), 0, NUM_BINS - 1).astype(np.int64)
