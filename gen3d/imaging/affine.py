"""Affine registration of a scan to the template: many starts judged at low resolution, the best ones refined.

Similarity is the Mattes mutual information (Mattes et al., IEEE TMI 2003). Every scan begins from a fan of pitches, offsets and
scales around its centre of mass, so a tilted head or a long neck is no special case; a scan whose final similarity stays
below that of a good alignment gets a wider fan of turns about all axes.

Scan and template are compared at the same blur. Of two that differ, the blurred one looks larger to the metric, by about 1 %
of volume at the voxels of ordinary scans.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from gen3d.imaging.ascent import AllLinear, Moves, Turns, climb
from gen3d.imaging.mattes import NUM_BINS, Mattes, bins_of
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.resample import averaged
from gen3d.imaging.template import Template, full_template, on_grid, template_on
from gen3d.imaging.volume import Volume
from gen3d.imaging.warping import sampled

Matrix = NDArray[np.float64]

REGISTRATION_SPACING_MM = 2.0
BRAIN_CENTRE_MM = np.array([0.0, -18.0, 8.0])  # of the MNI152 brain: rotations and scales turn about it
NUM_REFINED = 3  # candidates that are refined with all parameters
COARSE_MM, MIDDLE_MM, FINE_MM = 4.0, 2.0, 1.6  # SD of the blur of scan and template, resolution by resolution
# Variance of the blur that a scan has without being smoothed, in squared voxels: a voxel sees a Gaussian as wide as itself at
# half height, and trilinear interpolation at any place between two voxels adds the mean of f (1 - f), one sixth.
OWN_BLUR = 1 / (8 * np.log(2)) + 1 / 6
# Mutual information (nats) below which the wide fan is tried. Brains aligned correctly reached 0.67 to 1.16 (62 real
# scans) and heads 0.54 to 0.63 (9); started from a wrong pose and left there, brains ended at 0.38 to 0.72, heads below 0.46.
ENOUGH_INFORMATION_BRAIN, ENOUGH_INFORMATION_HEAD = 0.75, 0.5


@dataclass(frozen=True)
class Alignment:
    """`template_to_scan` [4, 4] maps template world points to scan world points (RAS, mm)."""

    template_to_scan: Matrix
    mutual_information: float
    num_starts: int


def align(
    scan: Volume, whole_head: bool, degrees_of_freedom: int = 12, start: Matrix | None = None, fine: bool = True
) -> Alignment:
    """Register a scan to the MNI152 template with 6 (rigid), 9 (and scales along the template's axes) or 12 parameters.

    Args:
        scan: the brain, or the whole head.
        whole_head: there is tissue outside the brain, so only the template's brain (and 4 mm around it) is compared.
        start: template -> scan matrix to refine; without it the starts are searched.
        fine: end at full resolution; without it within about half a millimetre, for an alignment that is repeated later.
    """
    margin_mm = 4.0 if whole_head else 12.0
    coarse = coarse_copy(scan)
    judge, climber = Judge(coarse, margin_mm), Climber(scan, coarse, margin_mm)
    candidates = [start] if start is not None else judge.best(fan(scan, whole_head), 3)
    best, num_starts = _climbed(candidates, judge, climber, degrees_of_freedom, fine), len(candidates)
    enough = ENOUGH_INFORMATION_HEAD if whole_head else ENOUGH_INFORMATION_BRAIN
    if start is None and judge(best) < enough:
        wide = judge.best(wide_fan(scan, whole_head), 6)
        rescued = _climbed(wide, judge, climber, degrees_of_freedom, fine)
        num_starts += len(wide)
        best = max(best, rescued, key=judge)
    return Alignment(best, judge(best), num_starts)


def _climbed(candidates: list[Matrix], judge: Judge, climber: Climber, degrees_of_freedom: int, fine: bool) -> Matrix:
    """Refine the candidates as similarities at low resolution, the best of them with all parameters, and the winner further."""
    if len(candidates) > 1:
        candidates = judge.best([climber.similarity(matrix) for matrix in candidates], NUM_REFINED)
    return climber.linear(candidates, degrees_of_freedom, fine)


@dataclass(frozen=True)
class Coarse:
    """A scan smoothed by a Gaussian of 4 mm SD, in voxels of about 4 mm; `bright` is the scan's own bright level."""

    data: NDArray[np.float32]
    affine: Matrix
    bright: float


def coarse_copy(scan: Volume) -> Coarse:
    """Averaged over blocks of voxels, and then smoothed by as much as is left to 4 mm."""
    spacing = np.array(scan.spacing_mm)
    factors = np.clip(np.round(COARSE_MM / spacing).astype(int), 1, scan.data.shape)
    blocks = averaged(scan, factors.tolist())
    averaging = (np.array(blocks.spacing_mm) ** 2 - spacing**2) / 12  # the variance that averaging adds along each axis
    sigma = np.sqrt(np.maximum(COARSE_MM**2 - averaging, 0)) / blocks.spacing_mm
    return Coarse(ndimage.gaussian_filter(blocks.data, sigma), blocks.affine, bright_level(scan))


class Judge:
    """Mutual information of a template -> scan matrix on about 3000 points 8 mm apart: a tenth of a millisecond per matrix."""

    def __init__(self, coarse: Coarse, margin_mm: float) -> None:
        template = registration_template()
        indices = 4 * np.argwhere(depth_in_template()[::4, ::4, ::4] > -margin_mm)
        self.points = indices @ template.affine[:3, :3].T + template.affine[:3, 3]
        smooth = smooth_template(COARSE_MM / 2)
        self.fixed_bins = _bins(smooth[tuple(indices.T)], float(smooth.max()))
        self.image, self.ceiling = coarse.data[..., None], coarse.bright
        self.sides = np.array(coarse.data.shape)[:, None] - 1
        self.to_voxels = np.linalg.inv(coarse.affine)

    def __call__(self, matrix: Matrix) -> float:
        """Mutual information in nats; what lies outside the scan counts as background."""
        to_scan = self.to_voxels @ matrix
        places = (to_scan[:3, :3] @ self.points.T + to_scan[:3, 3:]).astype(np.float32)
        values = sampled(self.image, places)[:, 0]
        values[((places < 0) | (places > self.sides)).any(axis=0)] = 0
        joint = np.bincount(self.fixed_bins * NUM_BINS + _bins(values, self.ceiling), minlength=NUM_BINS**2)
        shares = joint.reshape(NUM_BINS, NUM_BINS) / joint.sum()
        independent = shares.sum(axis=1, keepdims=True) * shares.sum(axis=0, keepdims=True)
        seen = shares > 0
        return float((shares[seen] * np.log(shares[seen] / independent[seen])).sum())

    def best(self, matrices: list[Matrix], num: int) -> list[Matrix]:
        """The `num` matrices of highest information."""
        return sorted(matrices, key=self, reverse=True)[:num]


class Climber:
    """Steepest ascent of the Mattes mutual information at three resolutions, template fixed, scan moving."""

    def __init__(self, scan: Volume, coarse: Coarse, margin_mm: float) -> None:
        self.scan, self.coarse, self.ceiling = scan, coarse, 1.3 * coarse.bright
        self.near = depth_in_template() > -margin_mm

    @cached_property
    def _coarse(self) -> Mattes:
        return self._metric(self.coarse.data, self.coarse.affine, COARSE_MM, every=61)

    @cached_property
    def _middle(self) -> Mattes:
        return self._blurred(MIDDLE_MM, every=19)

    def _fine(self, scale: float) -> Mattes:
        return self._blurred(FINE_MM, every=3, scale=scale)

    def _blurred(self, blur_mm: float, every: int, scale: float = 1.0) -> Mattes:
        """The metric where scan and template have the same blur, in mm of a scan whose brain is `scale` times the template's.

        The blur of a scan with large voxels is wider by itself, and the template's then is too.
        """
        spacing = np.array(self.scan.spacing_mm)
        own = OWN_BLUR * spacing**2
        missing = np.sqrt(np.maximum(blur_mm**2 - own, 0)) / spacing
        image = ndimage.gaussian_filter(self.scan.data, missing, truncate=3.0) if missing.any() else self.scan.data
        of_scan = float(np.sqrt(np.maximum(blur_mm**2, own).mean()))
        return self._metric(image, self.scan.affine, round(20 * of_scan / scale) / 20, every)

    def _metric(self, image: NDArray[np.float32], affine: Matrix, blur_mm: float, every: int) -> Mattes:
        """The metric at every so-many-th voxel of the template that is near its brain."""
        template, smooth = registration_template(), smooth_template(blur_mm)
        indices = np.argwhere(self.near)[::every]
        points = indices @ template.affine[:3, :3].T + template.affine[:3, 3] - BRAIN_CENTRE_MM
        bins = bins_of(smooth[tuple(indices.T)], float(smooth.max()))
        whole = np.ascontiguousarray(image, dtype=np.float32)
        to_scan = np.asarray(np.linalg.inv(affine), dtype=np.float64)
        return Mattes(points, bins, BRAIN_CENTRE_MM, whole, to_scan, self.ceiling)

    def similarity(self, matrix: Matrix) -> Matrix:
        """Seven parameters (rigid and one scale), coarse."""
        rotation, scale = nearest_rotation(matrix)
        return climb(self._coarse, _with_linear(matrix, rotation * scale), Turns(scaled=True), 8.0, 0.2, 40)

    def linear(self, candidates: list[Matrix], degrees_of_freedom: int, fine: bool = True) -> Matrix:
        """All requested parameters, at two resolutions; nine are the rotation and scales nearest to the twelve.

        Of several candidates the one with most information at the first of them goes on: at the resolution of the judge a
        brain in its skull may look like a larger brain.
        """
        moves: Moves = AllLinear()
        if degrees_of_freedom == 6:
            candidates = [_with_linear(matrix, nearest_rotation(matrix)[0]) for matrix in candidates]
            moves = Turns(scaled=False)
        ends = [climb(self._middle, matrix, moves, 4.0, 0.05, 100) for matrix in candidates]
        best = max(ends, key=lambda matrix: self._middle(matrix)[0])
        if fine:
            scale = float(np.cbrt(abs(np.linalg.det(best[:3, :3]))))
            best = climb(self._fine(scale), best, moves, 1.0, 0.01, 100)
        return without_shear(best) if degrees_of_freedom == 9 else best


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


@lru_cache(maxsize=16)
def smooth_template(blur_mm: float) -> NDArray[np.float32]:
    """[X, Y, Z] the template's T1w under a Gaussian of this SD, on the registration grid.

    Smoothed at its own 1 mm: on the coarser grid the brain ends at a voxel's border, which smoothing would not bring back.
    """
    full = full_template()
    return on_grid(full.t1w, full.affine, plan_grid(REGISTRATION_SPACING_MM), blur_mm)


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


def _with_linear(matrix: Matrix, linear: NDArray[np.floating]) -> Matrix:
    """A matrix with this linear part that sends the brain's centre where `matrix` sends it."""
    result = np.eye(4)
    result[:3, :3] = linear
    result[:3, 3] = matrix[:3, :3] @ BRAIN_CENTRE_MM + matrix[:3, 3] - linear @ BRAIN_CENTRE_MM
    return result


def without_shear(matrix: Matrix) -> Matrix:
    """The rotation after scales along the template's axes that is nearest to a linear map, the brain's centre kept.

    Least squares by turns: the rotation for given scales (Procrustes), the scales for a given rotation.
    """
    linear, scales = matrix[:3, :3], np.ones(3)
    for _ in range(50):
        left, _, right = np.linalg.svd(linear * scales)
        rotation = left @ right
        scales = np.diag(rotation.T @ linear)
    return _with_linear(matrix, rotation * scales)


def _bins(values: NDArray[np.floating], ceiling: float) -> NDArray[np.int64]:
    return np.clip(values / ceiling * (NUM_BINS - 0.01), 0, NUM_BINS - 1).astype(np.int64)
